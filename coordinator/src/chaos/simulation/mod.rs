//! The coordinator's decisions under simulated time: random jobs on random machines, and what befalls them.
//!
//! A schedule follows from one number, its seed, and so does all that happens in it: [`simulate`] of the same seed is
//! the same to the last event. The cluster is the real one; workers, links, machines and the launcher are simulated.
//!
//! 1. [`schedule`]: the job, its machines, and its faults.
//! 2. [`world`]: what happens next; [`queue`]: in which order.
//! 3. [`process`] and [`worker`]: a worker process, faithful to the protocol; [`exchange`]: the rounds between workers.
//! 4. [`edge`]: sessions, the launcher and the committer as the coordinator has them, and the faults; [`succession`]: one
//!    coordinator after another.
//! 5. [`lineage`]: states in which every difference between two trainings shows; [`checks`]: what must hold.
//! 6. [`trace`]: what a person reads when it did not.

mod checks;
mod edge;
mod exchange;
mod lineage;
mod process;
mod queue;
mod schedule;
mod succession;
mod trace;
mod worker;
mod world;

pub use schedule::{Fault, Moment, Restarts, Schedule, Weather};

use std::fmt;
use std::time::Duration;
use trace::Trace;
use world::World;

/// What became of a schedule in which everything held.
#[derive(Debug, Clone, PartialEq)]
pub struct Outline {
    /// How rough it was.
    pub weather: Weather,
    /// Workers that the job began with.
    pub workers: u32,
    /// Generations.
    pub generations: u64,
    /// Of these, how many began from a checkpoint, or from the beginning again.
    pub rollbacks: u64,
    /// Steps committed.
    pub steps: u64,
    /// How long it took, in its own time.
    pub simulated: Duration,
    /// `completed`, `early-stopping`, `stopped` or `failed`.
    pub outcome: String,
}

/// An invariant that did not hold.
#[derive(Debug, Clone, PartialEq)]
pub struct Violation {
    /// The schedule.
    pub seed: u64,
    /// What did not hold.
    pub what: String,
    /// What led to it.
    pub trace: Vec<String>,
}

/// Lines of a trace that are shown; what led to a violation is at the end.
const SHOWN: usize = 400;

impl fmt::Display for Violation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hidden = self.trace.len().saturating_sub(SHOWN);
        for line in &self.trace[hidden..] {
            writeln!(formatter, "{line}")?;
        }
        writeln!(formatter, "schedule {}: {}", self.seed, self.what)?;
        write!(formatter, "MEDLEY_SIMULATION_SEED={} plays it again", self.seed)
    }
}

impl std::error::Error for Violation {}

/// Plays the schedule of a seed.
///
/// # Errors
/// The first invariant that did not hold, with all that led to it.
pub fn simulate(seed: u64) -> Result<Outline, Box<Violation>> {
    match World::new(Schedule::draw(seed), Trace::default()).run() {
        Ok(outline) => Ok(outline),
        // What is thrown away in ten thousand schedules that are well is kept in the one that is not.
        Err(_) => World::new(Schedule::draw(seed), Trace::kept()).run().map_err(Box::new),
    }
}
