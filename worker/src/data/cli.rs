//! The commands of `medley data`.

use super::error::DataError;
use super::generate::{GenerateOptions, generate};
use super::{Dataset, DatasetStatistics, LoadReport};
use medley_common::config::{DataConfig, DataFormat};
use serde::Serialize;
use std::io::{self, Write};
use std::path::PathBuf;

/// Look at interaction data, or make some.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum DataCommand {
    /// Print the columns of the papers' Table 1: users, items, interactions and training lengths
    Stats(StatsArguments),
    /// Write synthetic `user item` lines with latent interests, popularity skew and order
    Generate(GenerateArguments),
}

/// Arguments of `medley data stats`; they mean what the keys of `[data]` in a configuration mean.
#[derive(Debug, Clone, clap::Args)]
pub struct StatsArguments {
    /// The interaction file
    pub file: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// auto, user-item, sequences, movielens, recbole, csv or tsv
    #[arg(long, default_value = "auto", value_parser = parse_format)]
    pub format: DataFormat,
    /// Field separator of csv, tsv and user-item files
    #[arg(long)]
    pub separator: Option<String>,
    /// Column of users
    #[arg(long, default_value = "user")]
    pub user_column: String,
    /// Column of items
    #[arg(long, default_value = "item")]
    pub item_column: String,
    /// Column of times to sort by
    #[arg(long)]
    pub timestamp_column: Option<String>,
    /// Column of ratings
    #[arg(long)]
    pub rating_column: Option<String>,
    /// Leave out interactions rated lower
    #[arg(long)]
    pub min_rating: Option<f64>,
    /// Remove users and items with fewer interactions, until none is left
    #[arg(long, default_value_t = 0)]
    pub k_core: usize,
    /// Leave out users with fewer interactions
    #[arg(long, default_value_t = 3, value_parser = parse_min_length)]
    pub min_length: usize,
}

/// Arguments of `medley data generate`.
#[derive(Debug, Clone, clap::Args)]
pub struct GenerateArguments {
    /// The file to write
    pub file: PathBuf,
    #[command(flatten)]
    /// Size and shape.
    pub options: GenerateOptions,
    /// Replace the file if it exists
    #[arg(long)]
    pub force: bool,
    /// Report in one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Runs a command; results go to standard output.
///
/// # Errors
/// Those of [`Dataset::load`] and [`generate`], and of standard output.
pub fn command(command: &DataCommand) -> Result<(), DataError> {
    let text = match command {
        DataCommand::Stats(arguments) => stats(arguments)?,
        DataCommand::Generate(arguments) => make(arguments)?,
    };
    print(&text)
}

/// Writes a result to standard output.
pub fn print(text: &str) -> Result<(), DataError> {
    match io::stdout().write_all(text.as_bytes()) {
        // Whoever reads may stop when it has seen enough, as `head` does.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(DataError::Output),
    }
}

#[derive(Serialize)]
struct StatsResult<'a> {
    file: &'a PathBuf,
    #[serde(flatten)]
    statistics: DatasetStatistics,
    #[serde(flatten)]
    report: LoadReport,
    hash: &'a str,
}

fn stats(arguments: &StatsArguments) -> Result<String, DataError> {
    let dataset = Dataset::load(&arguments.config())?;
    let statistics = DatasetStatistics::of(&dataset).rounded();
    if arguments.json {
        return json(&StatsResult { file: &arguments.file, statistics, report: dataset.report, hash: &dataset.hash });
    }
    Ok(format!("{}\n{statistics}{}", arguments.file.display(), left_out(&dataset.report)))
}

/// What the filters took, where they took anything.
fn left_out(report: &LoadReport) -> String {
    [
        (report.interactions_rated_lower, "interactions rated lower"),
        (report.users_below_k_core, "users below the k-core"),
        (report.users_below_min_length, "users below the minimum length"),
        (report.items_removed, "items"),
    ]
    .iter()
    .filter(|(count, _)| *count > 0)
    .map(|(count, what)| format!("left out         {count:>12} {what}\n"))
    .collect()
}

fn make(arguments: &GenerateArguments) -> Result<String, DataError> {
    let report = generate(&arguments.file, &arguments.options, arguments.force)?;
    if arguments.json {
        return json(&report);
    }
    Ok(format!(
        "{}: {} users, {} items, {} interactions (seed {})\n",
        report.file.display(),
        report.users,
        report.items,
        report.interactions,
        report.seed
    ))
}

fn json(value: &impl Serialize) -> Result<String, DataError> {
    serde_json::to_string(value).map(|text| text + "\n").map_err(|error| DataError::Output(error.into()))
}

impl StatsArguments {
    fn config(&self) -> DataConfig {
        DataConfig {
            path: self.file.clone(),
            format: self.format,
            separator: self.separator.clone(),
            user_column: self.user_column.clone(),
            item_column: self.item_column.clone(),
            timestamp_column: self.timestamp_column.clone(),
            rating_column: self.rating_column.clone(),
            min_rating: self.min_rating,
            k_core: self.k_core,
            min_length: self.min_length,
            train_on_validation: false,
        }
    }
}

fn parse_format(text: &str) -> Result<DataFormat, String> {
    serde_json::from_value(text.into())
        .map_err(|_| "use auto, user-item, sequences, movielens, recbole, csv or tsv".into())
}

fn parse_min_length(text: &str) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|&length| length >= 3)
        .ok_or_else(|| "use 3 or more, since the last two items are held out".into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Program {
        #[command(subcommand)]
        command: DataCommand,
    }

    fn run(arguments: &[&str]) -> String {
        let all = std::iter::once(&"data").chain(arguments);
        match Program::try_parse_from(all).unwrap().command {
            DataCommand::Stats(arguments) => stats(&arguments).unwrap(),
            DataCommand::Generate(arguments) => make(&arguments).unwrap(),
        }
    }

    #[test]
    fn what_generate_writes_stats_describes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("made.txt");
        let file = path.to_str().unwrap();
        let made = run(&["generate", file, "--users", "40", "--seed", "9", "--json"]);
        let made: serde_json::Value = serde_json::from_str(&made).unwrap();
        let stats = run(&["stats", file, "--json"]);
        let stats: serde_json::Value = serde_json::from_str(&stats).unwrap();
        for key in ["users", "items", "interactions"] {
            assert_eq!(made[key], stats[key], "{key}");
        }
        assert_eq!(stats["users"], 40);
        assert_eq!(stats["format"], "user-item");
        let text = run(&["stats", file, "--min-length", "20"]);
        assert!(text.contains("\nlen avg "), "{text}");
        assert!(text.contains("users below the minimum length"), "{text}");
        let widths: std::collections::HashSet<usize> = text.lines().skip(1).take(8).map(str::len).collect();
        assert_eq!(widths.len(), 1, "aligned: {text}");
    }

    #[test]
    fn defaults_are_those_of_a_configuration() {
        let Ok(Program { command: DataCommand::Stats(arguments) }) = Program::try_parse_from(["data", "stats", "f"])
        else {
            panic!("stats takes a file");
        };
        let expected = DataConfig { path: "f".into(), ..DataConfig::default() };
        assert_eq!(arguments.config(), expected);
        let Ok(Program { command: DataCommand::Generate(arguments) }) =
            Program::try_parse_from(["data", "generate", "f"])
        else {
            panic!("generate takes a file");
        };
        assert_eq!(arguments.options, GenerateOptions::default());
    }

    #[test]
    fn bad_arguments_say_what_would_do() {
        let error = |arguments: &[&str]| {
            let all = ["data", "stats", "f"].iter().chain(arguments);
            Program::try_parse_from(all).map(|_| ()).unwrap_err().to_string()
        };
        assert!(error(&["--format", "xml"]).contains("use auto, user-item"));
        assert!(error(&["--min-length", "2"]).contains("use 3 or more"));
    }
}
