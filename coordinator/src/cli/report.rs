//! `medley report`.

use super::{CliError, print};
use crate::output::report::{Options, compare};
use crate::output::table::Style;
use medley_common::exit;
use std::path::PathBuf;

/// Compare runs: a table for each data set, split and protocol
///
/// Runs on different data, or ranked against other candidates, never share a table.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct ReportArgs {
    /// Run directories, or directories of them
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
    let report = compare(&arguments.directories, &options).map_err(|error| CliError::bad_input(&error))?;
    if arguments.json {
        let json = serde_json::to_string(&report).map_err(|error| CliError::new(exit::FAILURE, &error))?;
        print(&(json + "\n"))?;
    } else {
        let style = if arguments.markdown { Style::Markdown } else { Style::Plain };
        print(&report.text(style))?;
    }
    Ok(exit::SUCCESS)
}
