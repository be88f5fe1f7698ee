//! Tables of metrics: one a protocol, whose title names it.

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use medley_common::method::Protocol;
use medley_common::summary::{Estimate, Evaluation, Summary};

/// The metrics that tables show, in order.
pub const COLUMNS: [&str; 6] = ["HR@1", "HR@5", "HR@10", "NDCG@5", "NDCG@10", "MRR"];

/// How a table is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// For a terminal.
    Plain,
    /// For a Markdown document.
    Markdown,
}

/// Rows under a header; the first `text_columns` columns are text, the others numbers.
pub fn draw(header: &[&str], rows: &[Vec<String>], text_columns: usize, style: Style) -> String {
    let mut table = Table::new();
    table
        .load_preset(match style {
            Style::Plain => presets::NOTHING,
            Style::Markdown => presets::ASCII_MARKDOWN,
        })
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(header);
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut().skip(text_columns) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.trim_fmt()
}

/// Mean and half width, such as `0.4321 ±0.0080`; a dash where there is none.
pub fn estimate(estimate: Option<&Estimate>) -> String {
    match estimate {
        Some(Estimate { mean, .. }) if !mean.is_finite() => "-".into(),
        Some(Estimate { mean, half_width }) if half_width.is_finite() => {
            format!("{mean:.4} ±{half_width:.4}")
        }
        Some(Estimate { mean, .. }) => format!("{mean:.4}"),
        None => "-".into(),
    }
}

/// What a protocol ranks, for a title.
pub fn protocol_title(protocol: &str) -> String {
    let known = Protocol::ALL.into_iter().find(|known| known.as_str() == protocol);
    let among = match known {
        Some(Protocol::Uniform99) => "the target among 99 items drawn uniformly",
        Some(Protocol::Uniform1000) => "the target among 1000 items drawn uniformly",
        Some(Protocol::Popularity99) => "the target among 99 items drawn by popularity",
        Some(Protocol::Full) => "the target among all items",
        Some(Protocol::FullUnseen) => "the target among all items the user has not had",
        None => return protocol.to_owned(),
    };
    format!("{protocol} ({among})")
}

/// The end of a run on a terminal: a table a protocol with the test metrics of peers and baselines.
pub fn of_summary(summary: &Summary) -> String {
    let mut text = String::new();
    let test = |evaluation: &&Evaluation| evaluation.split == "test";
    let all: Vec<&Evaluation> = summary.peers_evaluated.iter().chain(&summary.baselines).filter(test).collect();
    let mut has_best = false;
    for protocol in Protocol::ALL {
        let of_protocol: Vec<&&Evaluation> =
            all.iter().filter(|evaluation| evaluation.protocol == protocol.as_str()).collect();
        let Some(first) = of_protocol.first() else {
            continue;
        };
        let rows: Vec<Vec<String>> = of_protocol
            .iter()
            .map(|evaluation| {
                let is_best = super::peer_of(&evaluation.subject).is_some_and(|peer| summary.best_peer == Some(peer));
                has_best |= is_best && summary.peers > 1;
                let mark = if is_best && summary.peers > 1 { " *" } else { "" };
                let mut row = vec![format!("{}{mark}", evaluation.subject)];
                row.extend(COLUMNS.map(|metric| estimate(evaluation.metrics.get(metric))));
                row
            })
            .collect();
        let title = protocol_title(protocol.as_str());
        text += &format!("\nTest metrics of {} users, {title}\n", first.users);
        let header: Vec<&str> = std::iter::once("model").chain(COLUMNS).collect();
        text += &draw(&header, &rows, 1, Style::Plain);
        text.push('\n');
    }
    if has_best {
        text += &format!("* best peer by {}\n", summary.best_by);
    }
    if !text.is_empty() {
        text += "± is half of the 95 % interval over users.\n";
    }
    text
}
