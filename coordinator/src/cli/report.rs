//! `medley report`.

use super::{CliError, print};
use crate::output::report::{Options, compare, holds_runs};
use crate::output::table::Style;
use medley_common::exit;
use std::io::Write;
use std::path::PathBuf;

/// Compare runs: a table for each data set, split and protocol
///
/// Runs on different data, or ranked against other candidates, never share a table.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct ReportArgs {
    /// Run directories, or directories of them; beside one that is, what is neither is skipped with a warning
    #[arg(required = true, value_name = "DIR")]
    directories: Vec<PathBuf>,
    /// Show every peer, beside the best one and the mean
    #[arg(long)]
    peers: bool,
    /// Which split's metrics to show
    #[arg(long, default_value = "test", value_parser = ["test", "valid", "all"])]
    split: String,
    /// Print one JSON object
    #[arg(long, conflicts_with = "markdown")]
    json: bool,
    /// Print Markdown tables
    #[arg(long)]
    markdown: bool,
}

const EXAMPLES: &str = "\
Examples:
  medley report runs/hail-toys runs/bert4rec-toys
  medley report runs/ --markdown > results.md
  medley report runs/ --peers --split all --json | jq '.tables[].rows'";

/// Runs `medley report`.
pub fn run(arguments: &ReportArgs) -> Result<i32, CliError> {
    let options =
        Options { peers: arguments.peers, split: Some(arguments.split.clone()).filter(|split| split != "all") };
    let (runs, others): (Vec<PathBuf>, Vec<PathBuf>) =
        arguments.directories.iter().cloned().partition(|path| holds_runs(path) || !path.exists());
    if let Some(warning) = warning(&others).filter(|_| !runs.is_empty()) {
        // The report counts; nobody may be listening to the rest.
        let _ = writeln!(std::io::stderr(), "{warning}");
    }
    // Where none is a run, the first that is none says so.
    let compared = if runs.is_empty() { &others } else { &runs };
    let report = compare(compared, &options).map_err(|error| CliError::bad_input(&error))?;
    if arguments.json {
        let json = serde_json::to_string(&report).map_err(|error| CliError::new(exit::FAILURE, &error))?;
        print(&(json + "\n"))?;
    } else {
        let style = if arguments.markdown { Style::Markdown } else { Style::Plain };
        print(&report.text(style))?;
    }
    Ok(exit::SUCCESS)
}

fn warning(others: &[PathBuf]) -> Option<String> {
    let names: Vec<String> = others.iter().map(|path| path.display().to_string()).collect();
    let what = if names.len() == 1 { "no run directory (it has" } else { "no run directories (they have" };
    (!names.is_empty()).then(|| format!("warning: skipped {}: {what} no run.toml)", names.join(", ")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use medley_common::config::{self, RunConfig};

    fn report(directories: &[PathBuf]) -> Result<i32, CliError> {
        run(&ReportArgs {
            directories: directories.to_vec(),
            peers: false,
            split: "all".into(),
            json: false,
            markdown: false,
        })
    }

    #[test]
    fn what_a_glob_finds_beside_runs_is_skipped() {
        let outside = tempfile::tempdir().unwrap();
        let at = |name| outside.path().join(name);
        let mut config = RunConfig::default();
        config.data.path = "data.txt".into();
        std::fs::create_dir(at("run")).unwrap();
        std::fs::write(at("run/run.toml"), config::to_toml(&config)).unwrap();
        std::fs::create_dir(at("empty")).unwrap();
        std::fs::write(at("notes.txt"), "notes").unwrap();

        let (run, empty, notes) = (at("run"), at("empty"), at("notes.txt"));
        assert_eq!(report(&[empty.clone(), notes.clone(), run.clone()]).unwrap(), exit::SUCCESS);
        for refused in [vec![empty.clone(), notes.clone()], vec![notes.clone()], vec![run, at("missing")]] {
            let error = report(&refused).unwrap_err();
            assert_eq!(error.exit_code, exit::BAD_INPUT);
            assert!(error.message.contains("not a run directory"), "{}", error.message);
        }
        let line = warning(&[empty, notes]).unwrap();
        assert!(line.contains("empty, ") && line.contains("notes.txt: no run directories"), "{line}");
        assert_eq!(warning(&[]), None);
    }
}
