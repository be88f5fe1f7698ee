//! `medley chaos`: faults on purpose against a real job, and what became of them.

use super::{CliError, print};
use crate::chaos::play::{PEERS, Plan, PlayError, STEPS, play};
use crate::chaos::scenario::Scenario;
use medley_common::config::{self, RunConfig};
use medley_common::exit;
use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

/// Disturb a real job on this machine, and compare it with itself undisturbed
///
/// Runs the job twice, each time as a `medley run` with a directory of its own: once undisturbed, once while workers are
/// killed, stopped, or made to fail at random moments of random steps. Prints for every fault how long it took until it
/// was noticed and until the next step was committed, and how many committed steps were lost; and at the end whether
/// parameters and metrics are the undisturbed run's. Exit code 1 when a check of the scenario fails; those of --kills are that
/// nothing is lost, that the median of the seconds to the next committed step is under 3, and the worst under 6.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct ChaosArgs {
    /// The job, a TOML file as for `medley run`; by default a small one on generated data
    config: Option<PathBuf>,
    /// What is done to it, a TOML file; configs/chaos/ has examples
    #[arg(long, value_name = "FILE", conflicts_with = "kills")]
    scenario: Option<PathBuf>,
    /// Kill a random worker so many times, at random moments of random steps
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    kills: u32,
    /// Worker processes; by default as the scenario has it, or 4, or one a peer where there are fewer
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    workers: Option<u32>,
    /// Steps of the job (train.steps)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    steps: Option<u64>,
    /// Seed of all random moments
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
    /// Where both runs and report.json are left; by default runs/chaos-NAME-SEED
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print the report as one JSON object
    #[arg(long)]
    json: bool,
    /// Show no progress
    #[arg(long)]
    quiet: bool,
}

const EXAMPLES: &str = "\
Examples:
  medley chaos                                          5 kills of 4 workers, small job on generated data
  medley chaos --kills 50 --steps 400 --seed 3
  medley chaos configs/quickstart.toml --kills 10 --workers 3
  medley chaos --scenario configs/chaos/stop.toml       SIGSTOP until the worker counts as dead
  medley chaos --kills 5 --json --quiet | jq .worst_seconds

The same seed draws the same workers and steps; the moment within a step depends on the machine.";

/// Runs `medley chaos`.
pub fn run(arguments: &ChaosArgs) -> Result<i32, CliError> {
    let scenario = scenario(arguments)?;
    let out = arguments
        .out
        .clone()
        .unwrap_or_else(|| PathBuf::from("runs").join(format!("chaos-{}-{}", scenario.name, arguments.seed)));
    let medley = std::env::current_exe()
        .map_err(|error| CliError::new(exit::FAILURE, &format!("cannot find this program: {error}")))?;
    let plan = Plan { medley, config: arguments.config.clone(), scenario, seed: arguments.seed, out };
    let begun = Instant::now();
    let report = play(&plan, &mut |line| {
        if !arguments.quiet {
            // Whoever closed standard error does not want to know.
            let _ = writeln!(std::io::stderr(), "{:6.1} s  {line}", begun.elapsed().as_secs_f64());
        }
    })
    .map_err(|error| CliError::new(exit_code(&error), &error))?;
    if arguments.json {
        let json = serde_json::to_string(&report).map_err(|error| CliError::new(exit::FAILURE, &error))?;
        print(&(json + "\n"))?;
    } else {
        print(&report.text())?;
    }
    Ok(if report.is_good() { exit::SUCCESS } else { exit::FAILURE })
}

fn scenario(arguments: &ChaosArgs) -> Result<Scenario, CliError> {
    let config = arguments.config.as_ref().map(|file| config::load(file, &[])).transpose();
    let config = config.map_err(|error| CliError::bad_input(&error))?;
    let peers = config.as_ref().map_or(PEERS, |config| config.cohort.peers);
    let mut scenario = match &arguments.scenario {
        Some(file) => Scenario::load(file).map_err(|error| CliError::bad_input(&error))?,
        None => {
            let workers = arguments.workers.unwrap_or(u32::try_from(peers).unwrap_or(u32::MAX).min(4));
            Scenario::kills(arguments.kills, workers, steps(arguments, config.as_ref())?, arguments.seed)
                .map_err(|error| CliError::bad_input(&error))?
        }
    };
    scenario.workers = arguments.workers.unwrap_or(scenario.workers);
    let set_by_scenario = scenario.job.get("cohort.peers").and_then(toml::Value::as_integer);
    let peers = set_by_scenario.and_then(|peers| usize::try_from(peers).ok()).unwrap_or(peers);
    scenario.check_peers(peers).map_err(|error| CliError::bad_input(&error))?;
    if let Some(steps) = arguments.steps {
        let steps = i64::try_from(steps).unwrap_or(i64::MAX);
        scenario.job.insert("train.steps".into(), steps.into());
    }
    Ok(scenario)
}

/// Steps that the job will take, as far as its configuration says.
fn steps(arguments: &ChaosArgs, config: Option<&RunConfig>) -> Result<u64, CliError> {
    match (arguments.steps, config) {
        (Some(steps), _) => Ok(steps),
        (None, None) => Ok(STEPS),
        (None, Some(config)) if config.train.steps == 0 => {
            Err(CliError::bad_input(&"--steps: this job counts epochs; say how many steps it is to take"))
        }
        (None, Some(config)) => Ok(config.train.steps),
    }
}

fn exit_code(error: &PlayError) -> i32 {
    match error {
        PlayError::Scenario(_) | PlayError::Occupied(_) | PlayError::Unplayable { .. } => exit::BAD_INPUT,
        PlayError::Undisturbed(_) | PlayError::Hangs { .. } | PlayError::Io { .. } => exit::FAILURE,
    }
}
