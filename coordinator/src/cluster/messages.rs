//! What the cluster is told, and what it asks for.

use medley_common::events::{Event as JobEvent, StepEvent};
use medley_common::manifest::ManifestFile;
use medley_common::proto;
use medley_common::summary::Evaluation;
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
    /// Peers of the cohort.
    pub peers: u32,
    /// Worker processes; one slot each.
    pub workers: u32,
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
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A worker joined and opened its session. Versions, token and job were checked.
    Joined {
        /// Its place.
        slot: Slot,
        /// Its process.
        process_id: u32,
        /// host:port of its data plane.
        address: String,
        /// Its device.
        device: String,
    },
    /// A worker sent a message.
    Reported {
        /// From where.
        slot: Slot,
        /// The generation that it belongs to; 0 where the worker has no assignment yet.
        generation: u64,
        /// What it says.
        report: Report,
    },
    /// A worker's session ended.
    SessionLost {
        /// Whose.
        slot: Slot,
        /// How.
        reason: String,
    },
    /// A worker's process ended.
    Exited {
        /// Whose.
        slot: Slot,
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
    /// It cannot go on.
    Failed {
        /// One line.
        message: String,
        /// The user's input is at fault.
        bad_input: bool,
        /// The rank whose loss caused this, where it was not this worker's own fault.
        because_of_rank: Option<u32>,
    },
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
    /// Tell a worker that nothing more is expected of it.
    Release {
        /// Whom.
        slot: Slot,
        /// The worker's generation.
        generation: u64,
    },
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
    /// The job is over; no action follows.
    Finish(Outcome),
}

/// A worker's place in a generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// The generation.
    pub generation: u64,
    /// The worker's rank in it.
    pub rank: u32,
    /// All workers of the generation, by rank.
    pub members: Vec<Member>,
    /// The committed checkpoint to start from, as `Storage::checkpoint` names it.
    pub checkpoint: Option<String>,
}

/// A worker as the others see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its rank.
    pub rank: u32,
    /// host:port of its data plane.
    pub address: String,
    /// The peers that it hosts.
    pub peers: Vec<u32>,
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
