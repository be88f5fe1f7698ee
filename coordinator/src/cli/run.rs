//! `medley run`: from a command line to a job, and from its events to what it leaves and shows.

use super::config::Overrides;
use super::{CliError, logging, print};
use crate::job::{self, JobRequest, Observer};
use crate::output::event_log::EventLog;
use crate::output::history::{History, Recorder};
use crate::output::read::Run;
use crate::output::tensorboard::TensorBoard;
use crate::output::terminal::{self, Screen};
use crate::output::{plots, summary, table};
use medley_common::config::{self, Override, RunConfig};
use medley_common::summary::Summary;
use medley_common::{exit, run_directory};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Train a cohort on this machine
///
/// Leaves a run directory: run.toml (the configuration with every default), events.jsonl (what happened),
/// summary.json (the result), checkpoints/, tensorboard/, plots/ and logs/. Progress goes to standard error, the
/// table of results to standard output.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct RunArgs {
    /// The configuration, a TOML file; see `medley config --help`
    #[arg(required_unless_present = "resume", conflicts_with = "resume")]
    config: Option<PathBuf>,
    /// Go on with a run from its last checkpoint
    ///
    /// The configuration is the run's own; only keys that cannot change the result may be set: launch.*, recovery.*,
    /// output.*, store.*, security.*, exchange.deadline_seconds, train.threads, train.device, cohort.workers.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["peers", "seed", "out"])]
    resume: Option<PathBuf>,
    /// Peers of the cohort (cohort.peers)
    #[arg(long, value_name = "N")]
    peers: Option<u32>,
    /// Worker processes (cohort.workers); by default one a GPU, or a single one where there is none
    #[arg(long, value_name = "N")]
    workers: Option<u32>,
    /// Seed of every random draw (seed)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(0..))]
    seed: Option<i64>,
    #[command(flatten)]
    overrides: Overrides,
    /// The run directory (output.directory); by default runs/NAME
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print the summary as one JSON object, in the place of tables
    #[arg(long)]
    json: bool,
    /// Show no progress
    #[arg(long)]
    quiet: bool,
}

const EXAMPLES: &str = "\
Examples:
  medley run configs/quickstart.toml
  medley run configs/hail-toys.toml --peers 3 --set data.path=toys.txt --set method.alpha=0.3
  medley run configs/hail-toys.toml --seed 2 --out runs/hail-toys-2
  medley run --resume runs/hail-toys
  medley run configs/quickstart.toml --json --quiet | jq .best_peer

Ctrl-C stops after a checkpoint; --resume goes on from there.";

/// What may be set for a run that goes on: a table with a dot at its end, or a key.
const RESUMABLE: [&str; 9] = [
    "launch.",
    "recovery.",
    "output.",
    "store.",
    "security.",
    "exchange.deadline_seconds",
    "train.threads",
    "train.device",
    "cohort.workers",
];

/// What may not, all the same: where things are.
const FIXED: [&str; 2] = ["output.directory", "output.checkpoints"];

/// What is to be done, after everything that the command line alone can tell has been checked.
pub(super) struct Plan {
    pub config: RunConfig,
    pub directory: PathBuf,
    pub resume: bool,
}

/// Runs `medley run`.
pub fn run(arguments: &RunArgs) -> Result<i32, CliError> {
    let plan = plan(arguments)?;
    let history = if plan.resume { earlier(&plan.directory)? } else { History::default() };
    let screen = Screen::new();
    logging::start(&plan.directory, &screen, arguments.quiet);
    let recorder = Recorder::new(history);
    let observers = observers(&plan, &recorder, &screen, arguments.quiet);
    let (exit_code, failure) = train(&plan, observers);
    match failure {
        Some(message) if exit_code == exit::BAD_INPUT => Err(CliError::bad_input(&message)),
        failure if !plan.directory.is_dir() => {
            // The job never began: there is nothing to leave and nowhere to leave it.
            let message = failure.unwrap_or_else(|| "stopped before the job began; nothing was written".into());
            Err(CliError::new(exit_code, &message))
        }
        failure => {
            let summary = leave(&plan, &recorder.history(), failure.as_deref());
            show(arguments, &plan, &summary)?;
            match failure {
                Some(message) => Err(CliError::new(exit_code, &message)),
                None => Ok(exit_code),
            }
        }
    }
}

fn plan(arguments: &RunArgs) -> Result<Plan, CliError> {
    let mut overrides = arguments.overrides.parse().map_err(|error| CliError::bad_input(&error))?;
    let number = |key, value: Option<u32>| value.map(|value| Override::new(key, i64::from(value)));
    overrides.extend(number("cohort.peers", arguments.peers));
    overrides.extend(number("cohort.workers", arguments.workers));
    overrides.extend(arguments.seed.map(|seed| Override::new("seed", seed)));
    let out = arguments.out.as_ref().map(|out| out.display().to_string());
    overrides.extend(out.map(|out| Override::new("output.directory", out)));
    if let Some(directory) = &arguments.resume {
        return plan_resumption(directory, &overrides);
    }
    let file = arguments.config.as_deref().unwrap_or(Path::new(""));
    let mut config = config::load(file, &overrides).map_err(|error| CliError::bad_input(&error))?;
    keep_findable(&mut config)?;
    let directory = config.output.directory.clone().unwrap_or_else(|| Path::new("runs").join(&config.name));
    Ok(Plan { config, directory, resume: false })
}

/// Makes paths whole, so that the run finds its checkpoints and certificates wherever it is gone on with from, or asked
/// something.
pub(super) fn keep_findable(config: &mut RunConfig) -> Result<(), CliError> {
    let whole = |path: &Path| std::path::absolute(path).map_err(|error| CliError::bad_input(&error));
    let checkpoints = &mut config.output.checkpoints;
    if !checkpoints.is_empty() && !checkpoints.contains("://") {
        *checkpoints = whole(Path::new(&*checkpoints))?.display().to_string();
    }
    if let Some(certificates) = &mut config.security.certificates {
        *certificates = whole(certificates)?;
    }
    Ok(())
}

fn plan_resumption(directory: &Path, overrides: &[Override]) -> Result<Plan, CliError> {
    for change in overrides {
        let may = |allowed: &str| change.key == allowed || (allowed.ends_with('.') && change.key.starts_with(allowed));
        if !RESUMABLE.iter().any(|allowed| may(allowed)) || FIXED.contains(&change.key.as_str()) {
            return Err(CliError::bad_input(&format!(
                "--set {}: cannot change when a run goes on, since its result would be neither the old run's nor a new one's; start a new run, or set only launch.*, recovery.*, output.* (but not output.directory and output.checkpoints), store.*, security.*, exchange.deadline_seconds, train.threads, train.device or cohort.workers",
                change.key
            )));
        }
    }
    let file = directory.join(run_directory::CONFIG);
    if !file.is_file() {
        return Err(CliError::bad_input(&format!(
            "--resume {}: not a run directory (it has no run.toml)",
            directory.display()
        )));
    }
    let mut config = config::load(&file, overrides).map_err(|error| CliError::bad_input(&error))?;
    keep_findable(&mut config)?;
    Ok(Plan { config, directory: directory.to_owned(), resume: true })
}

/// What is known of a run that goes on.
fn earlier(directory: &Path) -> Result<History, CliError> {
    let run = Run::read(directory).map_err(|error| CliError::bad_input(&error))?;
    Ok(run.history())
}

fn observers(plan: &Plan, recorder: &Recorder, screen: &Screen, is_quiet: bool) -> Vec<Box<dyn Observer>> {
    let mut observers = recording_observers(plan, recorder);
    if !is_quiet {
        observers.push(terminal::observer(&plan.config, screen));
    }
    observers
}

/// Those that write to the run directory.
pub(super) fn recording_observers(plan: &Plan, recorder: &Recorder) -> Vec<Box<dyn Observer>> {
    let mut observers: Vec<Box<dyn Observer>> =
        vec![Box::new(EventLog::new(&plan.directory)), Box::new(recorder.clone())];
    if plan.config.output.tensorboard {
        observers.push(Box::new(TensorBoard::new(&plan.directory)));
    }
    observers
}

/// Runs the job to its end: its exit code, and one line where it failed.
fn train(plan: &Plan, observers: Vec<Box<dyn Observer>>) -> (i32, Option<String>) {
    let request =
        JobRequest { config: plan.config.clone(), run_directory: plan.directory.clone(), resume: plan.resume };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            return (exit::FAILURE, Some(format!("cannot start the runtime: {error}")));
        }
    };
    match runtime.block_on(job::run(request, observers)) {
        Ok(outcome) if matches!(outcome.exit_code, exit::SUCCESS | exit::INTERRUPTED) => (outcome.exit_code, None),
        Ok(outcome) => (outcome.exit_code, Some(outcome.message)),
        Err(error) => (error.exit_code(), Some(error.to_string())),
    }
}

/// Writes the summary and the plots. A disk that is full now must not hide the results from the terminal.
pub(super) fn leave(plan: &Plan, history: &History, failure: Option<&str>) -> Summary {
    let summary = summary::summarize(history, &plan.config, failure);
    if let Err(error) = summary::write(&summary, &plan.directory) {
        tracing::warn!("cannot write {}: {error}", plan.directory.join(run_directory::SUMMARY).display());
    }
    if plan.config.output.plots
        && let Err(error) = plots::draw(history, &plan.config, &plan.directory)
    {
        tracing::warn!("cannot write {}: {error}", plan.directory.join(run_directory::PLOTS).display());
    }
    summary
}

fn show(arguments: &RunArgs, plan: &Plan, summary: &Summary) -> Result<(), CliError> {
    if arguments.json {
        let json = serde_json::to_string(summary).map_err(|error| CliError::new(exit::FAILURE, &error))?;
        print(&(json + "\n"))?;
    } else {
        print(&table::of_summary(summary))?;
    }
    if !arguments.quiet {
        let directory = plan.directory.display();
        let mut closing = format!("{}; results in {directory}", terminal::closing_line(summary));
        if matches!(summary.outcome.as_str(), "stopped" | "failed") {
            closing += &format!("\ngo on with: medley run --resume {directory}");
        }
        // Results are out; nobody may be listening to the rest.
        let _ = writeln!(std::io::stderr(), "{closing}");
    }
    Ok(())
}
