//! What the cluster is told, and what it asks for.

use super::cohort::{CohortPlan, NewPeer};
use super::origins::Start;
use super::takeover::Kept;
use medley_common::config::RecoveryMode;
use medley_common::events::{Event as JobEvent, StepEvent};
use medley_common::manifest::ManifestFile;
use medley_common::proto;
use medley_common::summary::Evaluation;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// A place that the launcher fills with a worker process; stable over restarts of the process.
pub type Slot = u32;

/// The name of the worker in a slot, as events spell it.
pub fn worker_name(slot: Slot) -> String {
    format!("worker-{slot}")
}

/// The log of the worker in a slot, relative to the run directory.
pub fn worker_log(slot: Slot) -> String {
    format!("{}/worker-{slot}.log", medley_common::run_directory::LOGS)
}

/// What the cluster needs to know of its job.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// T, and how it changes.
    pub cohort: CohortPlan,
    /// Worker processes that host peers.
    pub workers: u32,
    /// Worker processes beyond them that wait to replace a lost one. Slots are `0..workers + spares`.
    pub spares: u32,
    /// The generation that begins when all workers have joined.
    pub generation: u64,
    /// Where a resumed job goes on.
    pub resume: Option<Resume>,
    /// Steps between the lines of `events.jsonl` that report losses.
    pub log_every: u64,
    /// Within this all workers must have joined, and then met.
    pub join: Duration,
    /// A worker silent for this long counts as dead.
    pub death: Duration,
    /// How long the true cause of a failure is waited for once its consequences are seen.
    pub verdict: Duration,
    /// Within this workers must have ended after they were asked to stop.
    pub stop: Duration,
    /// What happens when a worker is lost.
    pub recovery: Recovery,
}

/// What happens when a worker is lost; `recovery.*` of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recovery {
    /// How training goes on.
    pub mode: RecoveryMode,
    /// How long a replacement is waited for before survivors host the lost peers.
    pub replace: Duration,
    /// Within this the survivors of a generation must have left it.
    pub reform: Duration,
    /// Losses in a row without a committed step between them that are borne.
    pub attempts: u32,
}

/// The committed checkpoint that a job resumes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resume {
    /// Its step.
    pub step: u64,
    /// Its place, as `Storage::checkpoint` names it.
    pub directory: String,
    /// Hash of the data that it was trained on.
    pub data_hash: String,
    /// The peers that it holds.
    pub peers: Vec<u32>,
}

/// Tells the lives of a slot's worker processes, and of their sessions, apart. Grows with each session.
pub type SessionNumber = u64;

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A worker joined and opened its session. Versions, token and job were checked.
    Joined(Joined),
    /// A worker sent a message.
    Reported {
        /// From where.
        slot: Slot,
        /// Over which session: what still comes over the session of a worker that counts as dead is ignored.
        session: SessionNumber,
        /// The generation that it belongs to; 0 where the worker has no assignment yet.
        generation: u64,
        /// What it says.
        report: Report,
    },
    /// A worker's session ended.
    SessionLost {
        /// Whose.
        slot: Slot,
        /// Which.
        session: SessionNumber,
        /// How.
        reason: String,
    },
    /// A worker's process ended, and nobody had asked for that.
    Exited {
        /// Whose.
        slot: Slot,
        /// Which process it was.
        process_id: u32,
        /// How: `with exit status 1`, `by signal 9 (SIGKILL)`.
        status: String,
        /// What it said of its end in its log, where it said something.
        last_words: Option<String>,
    },
    /// A checkpoint's manifest is in place.
    CheckpointCommitted {
        /// Its step.
        step: u64,
        /// Its place, as `Storage::checkpoint` names it.
        directory: String,
        /// Its size.
        bytes: u64,
    },
    /// A checkpoint could not be committed.
    CheckpointFailed {
        /// Its step.
        step: u64,
        /// Why.
        message: String,
    },
    /// A person asks for another T, from the next step on.
    ScaleRequested(Scale),
    /// A person or the machine asks the job to stop. The second time, a second later or more: at once.
    StopRequested {
        /// Who, in words.
        reason: String,
    },
    /// The coordinator itself cannot go on: its disk is full, its store broken.
    Broken {
        /// One line.
        message: String,
    },
    /// Time passed.
    Tick,
}

/// A worker that joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    /// Its place.
    pub slot: Slot,
    /// Its session.
    pub session: SessionNumber,
    /// Its process, on its machine.
    pub process_id: u32,
    /// Its process, among all that ever were: drawn by itself.
    pub incarnation: String,
    /// host:port of its data plane.
    pub address: String,
    /// The machine that it runs on.
    pub host: String,
    /// Its device.
    pub device: String,
    /// The generation that it is in, where it had joined before and lost its session or its coordinator; 0 for none.
    pub generation: u64,
}

/// Another T.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scale {
    /// T from the next step on.
    pub peers: u32,
    /// Workers to host them; `None`: as many as before.
    pub workers: Option<u32>,
    /// What peers that were never there before start from; `None`: as configured.
    pub new_peers: Option<NewPeer>,
}

/// What a worker says. The meaning of the fields is that of `medley.proto`.
#[derive(Debug, Clone, PartialEq)]
pub enum Report {
    /// It lives.
    Heartbeat,
    /// It has the data and has met the others.
    Ready(proto::Ready),
    /// Steps that it committed.
    Steps(Vec<proto::StepRecord>),
    /// A model was evaluated.
    Evaluated(Evaluation),
    /// Its files of a checkpoint are written and synced.
    ShardsWritten {
        /// The checkpoint's step.
        step: u64,
        /// Where, as `Storage::staging` names it.
        staging: String,
        /// The files.
        files: Vec<ManifestFile>,
        /// `TrainingState` as JSON; empty from all ranks but 0.
        state: String,
    },
    /// Its files of a checkpoint could not be written; it trains on.
    ShardsFailed {
        /// The checkpoint's step.
        step: u64,
        /// Why, in one line.
        message: String,
    },
    /// It did all that was asked.
    Completed(proto::Completed),
    /// It left its generation and waits for the next.
    Suspended(Suspended),
    /// It cannot go on.
    Failed {
        /// One line.
        message: String,
        /// The user's input is at fault.
        bad_input: bool,
        /// Another attempt would fail in the same way.
        is_final: bool,
    },
}

/// What a worker that left its generation holds. The meaning of the fields is that of `medley.proto`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Suspended {
    /// Steps that it committed.
    pub step: u64,
    /// It can commit the step after that as well.
    pub is_prepared: bool,
    /// Peers whose state it holds as their host.
    pub peers: Vec<u32>,
    /// Copies of others' peers: the peer, and the steps that the copy has taken.
    pub replicas: Vec<(u32, u64)>,
    /// `TrainingState` as JSON; empty where it holds no shared parameters.
    pub state: String,
    /// All workers left after the same step, as they were asked to or as the schedule has it.
    pub is_pause: bool,
    /// Why it left.
    pub reason: String,
    /// The rank that it missed.
    pub because_of_rank: Option<u32>,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Give a worker its place in a generation.
    Assign {
        /// To whom.
        slot: Slot,
        /// What.
        assignment: Assignment,
    },
    /// Ask a worker to finish its step, write a checkpoint and complete.
    SendStop {
        /// Whom.
        slot: Slot,
        /// The worker's generation.
        generation: u64,
        /// Why.
        reason: String,
    },
    /// Make a worker leave its generation at once, for another member is lost.
    Abort {
        /// Whom.
        slot: Slot,
        /// The generation that has ended.
        generation: u64,
        /// Why.
        reason: String,
    },
    /// Ask a worker to leave its generation after a step that all workers agree on.
    Pause {
        /// Whom.
        slot: Slot,
        /// The generation.
        generation: u64,
        /// With a checkpoint of that step.
        checkpoint: bool,
    },
    /// End a worker that counts as dead, if it still lives, and refuse it from now on.
    Dismiss {
        /// Whom.
        slot: Slot,
        /// Why.
        reason: String,
    },
    /// Start a worker process in a slot that has none.
    Start {
        /// Where.
        slot: Slot,
    },
    /// Keep what a coordinator that takes this job over must know. Nothing that follows may be done before that is safe.
    Keep(Kept),
    /// Verify the files of a checkpoint and put its manifest in place.
    CommitCheckpoint(Commit),
    /// Remove what workers have written of a checkpoint that will be none.
    DiscardCheckpoint {
        /// Its step.
        step: u64,
        /// The generation that wrote it.
        generation: u64,
    },
    /// Tell the observers, and with them `events.jsonl`.
    Record(JobEvent),
    /// Show a step that all workers committed.
    Progress(StepEvent),
    /// Kill all workers now.
    KillAll,
    /// The job is over: keep the outcome, and then let the workers go. No action follows.
    Finish(Outcome),
}

/// A worker's place in a generation.
#[derive(Debug, Clone, PartialEq)]
pub struct Assignment {
    /// The generation.
    pub generation: u64,
    /// The worker's rank in it.
    pub rank: u32,
    /// All workers of the generation, by rank.
    pub members: Arc<[Member]>,
    /// Where the training goes on.
    pub start: Arc<Start>,
    /// The step of the last committed checkpoint; 0 for none.
    pub checkpoint_step: u64,
}

/// A worker as the others see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its place with the launcher.
    pub slot: Slot,
    /// Its rank.
    pub rank: u32,
    /// host:port of its data plane.
    pub address: String,
    /// The peers that it hosts.
    pub peers: Vec<u32>,
    /// The rank that keeps copies of them.
    pub buddy: u32,
    /// Its process; see [`Joined::incarnation`].
    pub incarnation: String,
}

/// A checkpoint whose files are all written.
#[derive(Debug, Clone, PartialEq)]
pub struct Commit {
    /// Its step.
    pub step: u64,
    /// The generation that wrote it.
    pub generation: u64,
    /// Where the files are, as `Storage::staging` names it.
    pub staging: String,
    /// The files of all workers.
    pub files: Vec<ManifestFile>,
    /// Peers of the cohort.
    pub peers: u32,
    /// Steps of older checkpoints that peers which left come back from.
    pub spared: BTreeSet<u64>,
    /// `TrainingState` as JSON.
    pub state: String,
    /// Hash of the data.
    pub data_hash: String,
}

/// How the job ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// `completed`, `early-stopping`, `stopped` or `failed`.
    pub outcome: String,
    /// One line for a person.
    pub message: String,
    /// One of `medley_common::exit`.
    pub exit_code: i32,
    /// Steps committed.
    pub step: u64,
}
