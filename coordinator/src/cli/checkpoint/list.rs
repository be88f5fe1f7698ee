//! `medley checkpoint list`.

use super::kept::{Checkpoint, Kept};
use crate::cli::{CliError, print};
use crate::output::table::{Style, draw};
use medley_common::exit;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

/// List the checkpoints of a run
///
/// Beside each: its size, its age, the best peer's validation metric where its step was validated, whether it is the best by
/// that or the newest, and whether it is complete. What is not complete is never loaded, and is removed when the run goes on.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct ListArgs {
    /// The run directory
    #[arg(value_name = "RUN")]
    run: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  medley checkpoint list runs/quickstart
  medley checkpoint list runs/quickstart --json | jq '.checkpoints[] | select(.best).step'";

/// Runs `medley checkpoint list`.
pub fn run(arguments: &ListArgs) -> Result<i32, CliError> {
    let kept = Kept::read(&arguments.run)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
    let text = if arguments.json { json(&kept, now).to_string() + "\n" } else { table(&kept, now) };
    print(&text)?;
    Ok(exit::SUCCESS)
}

fn json(kept: &Kept, now: f64) -> serde_json::Value {
    let checkpoint = |(step, checkpoint): (&u64, &Checkpoint)| {
        serde_json::json!({
            "step": step,
            "place": kept.storage.checkpoint(*step),
            "bytes": checkpoint.bytes,
            "age_seconds": checkpoint.committed.map(|time| (now - time).max(0.0)),
            "metric": checkpoint.metric,
            "best": kept.best == Some(*step),
            "latest": kept.latest == Some(*step),
            "complete": checkpoint.is_complete,
        })
    };
    serde_json::json!({
        "place": kept.storage.place(),
        "best_by": kept.best_by,
        "checkpoints": kept.checkpoints.iter().map(checkpoint).collect::<Vec<_>>(),
    })
}

fn table(kept: &Kept, now: f64) -> String {
    if kept.checkpoints.is_empty() {
        return format!("no checkpoints in {}\n", kept.storage.place());
    }
    let row = |(step, checkpoint): (&u64, &Checkpoint)| {
        let marks = [("best", kept.best), ("latest", kept.latest)];
        let marks: Vec<&str> =
            marks.iter().filter(|(_, marked)| *marked == Some(*step)).map(|(mark, _)| *mark).collect();
        let dash = || "-".to_owned();
        vec![
            if checkpoint.is_complete { "yes" } else { "no" }.to_owned(),
            marks.join(", "),
            step.to_string(),
            checkpoint.bytes.map_or_else(dash, |bytes| format!("{:.1}", bytes as f64 / 1e6)),
            checkpoint.committed.map_or_else(dash, |time| age(now - time)),
            checkpoint.metric.map_or_else(dash, |metric| format!("{metric:.4}")),
        ]
    };
    let rows: Vec<Vec<String>> = kept.checkpoints.iter().map(row).collect();
    let header = ["complete", "", "step", "MB", "age", kept.best_by.as_str()];
    format!("{}\n{}\n", kept.storage.place(), draw(&header, &rows, 2, Style::Plain))
}

/// A duration in its largest unit, such as `3 h`.
fn age(seconds: f64) -> String {
    let seconds = seconds.max(0.0);
    let units = [(86_400.0, "d"), (3_600.0, "h"), (60.0, "min")];
    match units.iter().find(|(unit, _)| seconds >= *unit) {
        Some((unit, name)) => format!("{:.0} {name}", (seconds / unit).floor()),
        None => format!("{seconds:.0} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_in_their_largest_unit() {
        let ages = [-1.0, 59.4, 60.0, 3_599.0, 7_200.0, 200_000.0].map(age);
        assert_eq!(ages, ["0 s", "59 s", "1 min", "59 min", "2 h", "2 d"]);
    }
}
