//! What simulated workers do, and what was seen of it.

use medley_coordinator::cluster::Outcome;
use std::time::Duration;

/// The job's id.
pub const JOB: &str = "load";

/// The load on a coordinator.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Workers, each with a connection of its own.
    pub workers: u32,
    /// Time between a worker's heartbeats.
    pub heartbeat: Duration,
    /// Time between its reports of steps.
    pub step: Duration,
    /// Steps until the job completes.
    pub steps: u64,
    /// Whether all workers speak at the same moments, the worst case; otherwise evenly one after another.
    pub is_aligned: bool,
}

/// What a simulated worker said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Said {
    /// Heartbeats, without the one that opens the session.
    pub heartbeats: u64,
    /// Steps reported.
    pub steps: u64,
}

impl std::ops::AddAssign for Said {
    fn add_assign(&mut self, other: Self) {
        self.heartbeats += other.heartbeats;
        self.steps += other.steps;
    }
}

/// What the coordinator did with it. Durations are in the order in which messages were applied, and of the time in
/// which all workers were there; counts are of all messages.
#[derive(Debug)]
pub struct Handled {
    /// Messages applied.
    pub said: Said,
    /// From a message decoded to everything done that the state machine asked for because of it.
    pub handling: Vec<Duration>,
    /// Of that, the state machine and what it asked for, without the wait for its turn.
    pub applying: Vec<Duration>,
    /// From a report handed to the worker's gRPC client to everything done.
    pub one_way: Vec<Duration>,
    /// Steps committed by all workers.
    pub committed: u64,
    /// Workers lost.
    pub lost: u64,
    /// Wall time in which all workers were there.
    pub wall: Duration,
    /// Processor time of this process in it.
    pub processor: Duration,
    /// How the job ended.
    pub outcome: Outcome,
}
