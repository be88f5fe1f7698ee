//! The lines of `events.jsonl`: everything that happened to a job, in order, one JSON object a line.

use crate::summary::Evaluation;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One line: when, and what.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventLine {
    /// Seconds since the Unix epoch.
    pub time: f64,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The coordinator took the job up, for the first time or again.
    JobStarted {
        /// The job.
        job: String,
        /// Version of Medley.
        version: String,
        /// Method.
        method: String,
        /// Peers of the cohort.
        peers: u32,
        /// Worker processes.
        workers: u32,
        /// The step that a resumed job starts from; steps beyond it that stand earlier in the file were not
        /// committed to a checkpoint and are trained again.
        resumed_from: Option<u64>,
    },
    /// A worker joined.
    WorkerJoined {
        /// The worker.
        worker: String,
        /// Its place with the launcher.
        slot: u32,
        /// Its process.
        process_id: u32,
        /// Its device.
        device: String,
    },
    /// Peers were assigned to workers.
    Generation {
        /// The new generation.
        generation: u64,
        /// Peers of each rank.
        placement: Vec<Vec<u32>>,
    },
    /// All workers have the data and have met.
    Ready {
        /// Hash of the interaction data.
        data_hash: String,
        /// Users.
        users: u64,
        /// Items of the catalogue.
        items: u64,
        /// Interactions.
        interactions: u64,
        /// Training samples of one epoch.
        samples: u64,
        /// Steps to train.
        total_steps: u64,
        /// Parameters that all peers share.
        shared_parameters: u64,
        /// Parameters of one peer's encoder.
        private_parameters: u64,
    },
    /// A committed step (every `output.log_every`-th, and the last).
    Step(StepEvent),
    /// A model was evaluated.
    Evaluation(Evaluation),
    /// A checkpoint was committed.
    Checkpoint {
        /// Its step.
        step: u64,
        /// Its directory, relative to the run directory.
        directory: String,
        /// Its size.
        bytes: u64,
    },
    /// A worker did all that was asked of it.
    WorkerCompleted {
        /// The worker.
        worker: String,
        /// Its rank.
        rank: u32,
        /// Wall time of training alone.
        train_seconds: f64,
        /// Wall time of evaluation alone.
        evaluation_seconds: f64,
        /// The most memory it held.
        peak_memory_bytes: u64,
        /// `steps`, `early-stopping` or `stopped`.
        reason: String,
    },
    /// A worker was lost.
    WorkerLost {
        /// The worker.
        worker: String,
        /// Why.
        reason: String,
    },
    /// Something that a person should know.
    Warning {
        /// What.
        message: String,
    },
    /// The job ended.
    Finished {
        /// `completed`, `early-stopping`, `stopped` or `failed`.
        outcome: String,
        /// Steps committed.
        step: u64,
        /// One line for a person.
        message: String,
    },
}

/// A committed step, merged over workers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepEvent {
    /// Steps committed, this one included.
    pub step: u64,
    /// Training stage: `train`, or PeerRec's `stage-1`, `stage-2`.
    pub stage: String,
    /// Learning rate of the step.
    pub learning_rate: f64,
    /// Global norm of the gradients before clipping.
    pub gradient_norm: f64,
    /// Masked rows of the batch.
    pub rows: u64,
    /// Rows taken for noise by every peer.
    pub truncated_rows: u64,
    /// Wall time of the step on the slowest worker.
    pub seconds: f64,
    /// Largest over workers.
    pub bytes_sent: u64,
    /// Losses by peer (`"0"`, `"1"`, ...).
    pub losses: BTreeMap<u32, Losses>,
}

/// A peer's losses in a step: means over the batch's rows, in nats.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Losses {
    /// What is minimised.
    pub total: f64,
    /// Cross-entropy.
    pub cross_entropy: f64,
    /// The positive term of mutual exclusivity distillation (HAIL eq 6).
    pub positive: f64,
    /// The negative term (HAIL eq 7).
    pub negative: f64,
    /// Mean KL divergence from the other peers (PeerRec eq 5).
    pub divergence: f64,
}
