//! `summary.json`: the result of a run, for programs.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The result of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The job.
    pub job: String,
    /// The configuration's `name`.
    pub name: String,
    /// Version of Medley.
    pub version: String,
    /// Hash of the resolved configuration.
    pub config_hash: String,
    /// Hash of the interaction data.
    pub data_hash: String,
    /// Method.
    pub method: String,
    /// Network: `bidirectional` or `causal`.
    pub network: String,
    /// Peers of the cohort.
    pub peers: u32,
    /// Worker processes.
    pub workers: u32,
    /// Threads of each worker process; 0 in a run of a version that did not tell.
    #[serde(default)]
    pub threads: u32,
    /// Exchange mode.
    pub exchange: String,
    /// Seed.
    pub seed: u64,
    /// `completed`, `early-stopping`, `stopped` or `failed`.
    pub outcome: String,
    /// One line for a person.
    pub message: String,
    /// Steps committed.
    pub steps: u64,
    /// Wall time of `steps` steps, without evaluations: up to the checkpoint that the run was last resumed from, that
    /// of the worker of rank 0, as the checkpoint's manifest has it; since then, the slowest worker's. Steps that
    /// were lost and trained again count once.
    pub train_seconds: f64,
    /// Wall time of the evaluations on the slowest worker, over all invocations whose workers came to their end.
    pub evaluation_seconds: f64,
    /// Wall time from the first event of an invocation to its last, over all invocations (the first and the
    /// resumptions), with what was lost.
    pub wall_seconds: f64,
    /// Masked rows trained on in `steps` steps, by `train_seconds`.
    pub rows_per_second: f64,
    /// Mean over `steps` steps of the bytes that one worker sends: up to the checkpoint that the run was last resumed
    /// from, the worker of rank 0; since then, the one that sends most.
    pub bytes_exchanged_per_step: f64,
    /// Largest over workers.
    pub peak_memory_bytes: u64,
    /// Parameters that all peers share.
    pub shared_parameters: u64,
    /// Parameters of one peer's encoder.
    pub private_parameters: u64,
    /// Generations so far.
    pub generations: u64,
    /// Recoveries so far.
    pub recoveries: u64,
    /// Which peers took part in which steps, by peer and step.
    #[serde(default)]
    pub participation: Vec<Participation>,
    /// The peer with the best validation metric, where one was measured.
    pub best_peer: Option<u32>,
    /// What chose it, for example `NDCG@10 (uniform99, valid)`.
    pub best_by: String,
    /// The last evaluation of every peer, for each split and protocol.
    pub peers_evaluated: Vec<Evaluation>,
    /// The same for the baselines that need no training.
    pub baselines: Vec<Evaluation>,
    /// Losses of every peer in the last logged step.
    pub last_losses: BTreeMap<u32, crate::events::Losses>,
}

/// Steps in which a peer took part without a break.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Participation {
    /// The peer.
    pub peer: u32,
    /// The first of the steps, counted from 1.
    pub first_step: u64,
    /// The last of them.
    pub last_step: u64,
}

/// Metrics of one model on one split under one protocol.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// `peer-0`, ..., or the name of a baseline.
    pub subject: String,
    /// Steps trained.
    pub step: u64,
    /// `valid` or `test`.
    pub split: String,
    /// Among which items the target was ranked.
    pub protocol: String,
    /// Hash of the candidate lists; absent where all items are ranked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub candidates_hash: Option<String>,
    /// Users evaluated.
    pub users: u64,
    /// By name.
    pub metrics: BTreeMap<String, Estimate>,
}

/// A mean over users with half of its 95 % interval (normal approximation).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// Mean over users.
    #[serde(deserialize_with = "crate::json::number")]
    pub mean: f64,
    /// 1.96 standard errors.
    #[serde(deserialize_with = "crate::json::number")]
    pub half_width: f64,
}
