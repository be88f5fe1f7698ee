//! Plots of a run as SVG: losses and validation metrics of every peer over the steps.
//!
//! [`series`] takes the numbers out of a history and smooths them; [`chart`] draws panels of them; [`palette`] has
//! the colours. The background is transparent and the axes are a grey that stands out as well from white as from
//! black, so that a plot reads in print and in dark mode.

mod chart;
mod palette;
mod series;

use self::chart::{Figure, Panel};
use super::history::History;
use medley_common::config::RunConfig;
use medley_common::events::Losses;
use medley_common::method::Protocol;
use medley_common::run_directory;
use std::io;
use std::path::Path;

/// Panels of a figure of validation metrics.
const METRIC_PANELS: usize = 4;

/// Draws what a history has to show into a run directory's `plots/`: `loss.svg`, `cross-entropy.svg` where peers
/// learn from one another, and `validation-PROTOCOL.svg` for every protocol that was evaluated.
///
/// # Errors
/// Those of the file system.
pub fn draw(history: &History, config: &RunConfig, run_directory: &Path) -> io::Result<()> {
    let figures = figures(history, config);
    if figures.is_empty() {
        return Ok(());
    }
    let directory = run_directory.join(run_directory::PLOTS);
    std::fs::create_dir_all(&directory)?;
    for (name, figure) in figures {
        super::write_whole(&directory.join(format!("{name}.svg")), figure.svg()?.as_bytes())?;
    }
    Ok(())
}

fn figures(history: &History, config: &RunConfig) -> Vec<(String, Figure)> {
    let mut figures = Vec::new();
    let title = |what: &str| format!("{}: {what}", config.name);
    let loss = |of: fn(&Losses) -> f64, y_title: &str| Panel {
        title: String::new(),
        y_title: y_title.into(),
        series: series::losses(history, of),
        levels: Vec::new(),
        boundaries: series::stage_boundaries(history),
        is_noisy: true,
    };
    if !history.steps.is_empty() {
        let panel = loss(|losses| losses.total, "loss [nats per row]");
        figures.push(("loss".into(), Figure::new(title("training loss"), vec![panel])));
        if config.method.name.is_mutual() {
            let panel = loss(|losses| losses.cross_entropy, "cross-entropy [nats per row]");
            let title = title("training cross-entropy with the targets");
            figures.push(("cross-entropy".into(), Figure::new(title, vec![panel])));
        }
    }
    for protocol in Protocol::ALL.map(Protocol::as_str) {
        let panels: Vec<Panel> = metrics(config)
            .into_iter()
            .map(|metric| Panel {
                title: metric.into(),
                y_title: format!("{metric} [share]"),
                series: series::validations(history, protocol, metric),
                levels: series::baselines(history, protocol, metric),
                boundaries: series::stage_boundaries(history),
                is_noisy: false,
            })
            .filter(|panel| panel.series.iter().any(|series| !series.points.is_empty()))
            .collect();
        if !panels.is_empty() {
            let title = title(&format!("validation under {protocol}"));
            figures.push((format!("validation-{protocol}"), Figure::new(title, panels)));
        }
    }
    figures
}

/// The metric that the run chooses by, then the usual ones.
fn metrics(config: &RunConfig) -> Vec<&str> {
    let chosen = config.train.metric.as_str();
    let usual = ["HR@1", "HR@10", "NDCG@10", "MRR"];
    let mut metrics = vec![chosen];
    metrics.extend(usual.into_iter().filter(|metric| *metric != chosen));
    metrics.truncate(METRIC_PANELS);
    metrics
}

#[cfg(test)]
mod tests;
