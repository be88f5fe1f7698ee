//! Scenarios against real jobs: the same job is run undisturbed and disturbed, each as a `medley run` of its own, and
//! the two are compared.
//!
//! 1. [`play`]: the two runs, one after the other.
//! 2. `job`: a run as a child process; what its `events.jsonl` says while it goes on.
//! 3. `injure`: faults, their time, and what followed from each.
//! 4. `compare`: the last checkpoints and metrics of two runs.
//! 5. [`report`]: the figures, and which checks failed.

mod compare;
mod injure;
mod job;
pub mod report;

use super::scenario::{Scenario, ScenarioError};
use injure::Injuries;
use job::Job;
pub use job::{PEERS, STEPS};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use report::{Report, Verdicts};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How often the disturbed run is looked at.
const LOOK: Duration = Duration::from_millis(3);

/// What is to be played.
#[derive(Debug)]
pub struct Plan {
    /// The `medley` binary.
    pub medley: PathBuf,
    /// The job; none for a small one on generated data.
    pub config: Option<PathBuf>,
    /// What is done to it.
    pub scenario: Scenario,
    /// Of all random moments.
    pub seed: u64,
    /// Where everything is left; new or empty.
    pub out: PathBuf,
}

/// A scenario could not be played to its end.
#[derive(Debug, thiserror::Error)]
pub enum PlayError {
    /// The scenario makes no sense.
    #[error(transparent)]
    Scenario(#[from] ScenarioError),
    /// Something there already is in the way.
    #[error("--out {0}: is there already and not empty; choose another directory")]
    Occupied(String),
    /// A fault that this level cannot bring about.
    #[error("scenario {scenario}: {fault} is no fault that medley chaos brings about; {instead}")]
    Unplayable {
        /// The scenario.
        scenario: String,
        /// The fault.
        fault: &'static str,
        /// What plays it.
        instead: &'static str,
    },
    /// The job fails by itself.
    #[error("the undisturbed run failed: {0}")]
    Undisturbed(String),
    /// A run did not end.
    #[error("the {run} run did not end within {seconds} s; {directory} says how far it came")]
    Hangs {
        /// Which.
        run: &'static str,
        /// The bound.
        seconds: u64,
        /// Where.
        directory: String,
    },
    /// A file or process.
    #[error("{what}: {source}")]
    Io {
        /// What was done.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
}

/// Turns an error of the system into one that says what was done.
fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> PlayError {
    let what = what.into();
    |source| PlayError::Io { what, source }
}

/// An undisturbed run may take this long.
const LONGEST: Duration = Duration::from_secs(1_800);

/// And each fault may cost a disturbed one this much more.
const LONGEST_RECOVERY: Duration = Duration::from_secs(120);

/// Plays a scenario. `tell` is told in a line what goes on.
///
/// # Errors
/// Where it could not be played; that a check failed is in the report.
pub fn play(plan: &Plan, tell: &mut dyn FnMut(&str)) -> Result<Report, PlayError> {
    injure::refuse_unplayable(&plan.scenario)?;
    occupy(&plan.out)?;
    let config = match &plan.config {
        Some(config) => std::path::absolute(config).map_err(io(format!("find {}", config.display())))?,
        None => job::generate(&plan.medley, &plan.out)?,
    };
    tell("the undisturbed run");
    let begun = Instant::now();
    let mut undisturbed = Job::start(plan, &config, "undisturbed", &[])?;
    while !undisturbed.has_ended()? {
        if begun.elapsed() > LONGEST {
            return Err(undisturbed.hangs("undisturbed", LONGEST));
        }
        undisturbed.look()?;
        std::thread::sleep(LOOK);
    }
    undisturbed.look()?;
    if !undisturbed.has_succeeded() {
        return Err(PlayError::Undisturbed(undisturbed.last_words()));
    }
    let undisturbed_seconds = begun.elapsed().as_secs_f64();

    let faults = plan.scenario.events.len() as u32;
    tell(&format!("took {undisturbed_seconds:.1} s; now with {}", report::counted(faults as usize)));
    let bound = begun.elapsed() * 4 + LONGEST_RECOVERY * (faults + 1);
    let begun = Instant::now();
    let mut disturbed = Job::start(plan, &config, "disturbed", &plan.scenario.of_workers())?;
    let mut injuries = Injuries::new(&plan.scenario, ChaCha8Rng::seed_from_u64(plan.seed));
    while !disturbed.has_ended()? {
        if begun.elapsed() > bound {
            return Err(disturbed.hangs("disturbed", bound));
        }
        let news = disturbed.look()?;
        injuries.observe(&news, tell);
        injuries.injure(&disturbed, tell)?;
        std::thread::sleep(LOOK);
    }
    let news = disturbed.look()?;
    injuries.observe(&news, tell);
    let compared = compare::compare(undisturbed.directory(), disturbed.directory())?;
    let verdicts = Verdicts {
        undisturbed_seconds,
        disturbed_seconds: begun.elapsed().as_secs_f64(),
        outcome: disturbed.outcome(),
        message: disturbed.message(),
        steps: disturbed.step(),
        warnings: disturbed.warnings(),
        compared,
    };
    let report = Report::new(&plan.scenario, plan.seed, injuries.into_records(), verdicts);
    report.write(&plan.out).map_err(io(format!("write into {}", plan.out.display())))?;
    Ok(report)
}

fn occupy(out: &Path) -> Result<(), PlayError> {
    if std::fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(PlayError::Occupied(out.display().to_string()));
    }
    std::fs::create_dir_all(out).map_err(io(format!("make {}", out.display())))
}
