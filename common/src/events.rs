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
        /// Threads of each.
        #[serde(default)]
        threads: u32,
        /// Cores that they share.
        #[serde(default)]
        cores: u32,
        /// GPUs that they share.
        #[serde(default)]
        gpus: u32,
        /// The step that a resumed job starts from; steps beyond it that stand earlier in the file were not
        /// committed to a checkpoint and are trained again.
        resumed_from: Option<u64>,
        /// What that step's checkpoint says was trained up to it; zeros for a new job.
        #[serde(default)]
        trained_before: Trained,
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
        /// Steps committed before: the peers take part in those after it.
        #[serde(default)]
        step: u64,
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
        /// Its place: a directory, relative to the run directory or in full, or `s3://BUCKET/PREFIX/step-N`.
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
    /// Training goes on after a loss: a step was committed again, or the work completed.
    Recovered {
        /// The generation in which it does.
        generation: u64,
        /// Workers that were lost; none where only the exchange had failed.
        lost: Vec<String>,
        /// Steps that were committed when the loss was noticed.
        step: u64,
        /// Those of them that were taken again, from a checkpoint, since no worker held their result any more.
        replayed: u64,
        /// From the moment that the coordinator noticed to the next committed step.
        seconds: f64,
    },
    /// A coordinator took the lead of a job that several coordinate.
    Led {
        /// Its name.
        coordinator: String,
        /// Grows with every change of the lead.
        term: u64,
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

/// Sums over the steps up to a checkpoint, from its manifest.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Trained {
    /// Wall time of the steps on the worker of rank 0.
    pub seconds: f64,
    /// Masked rows.
    pub rows: u64,
    /// Sent by the worker of rank 0.
    pub bytes_sent: u64,
}

/// A committed step, merged over workers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepEvent {
    /// Steps committed, this one included.
    pub step: u64,
    /// Training stage: `train`, or PeerRec's `stage-1`, `stage-2`.
    pub stage: String,
    /// Learning rate of the step.
    #[serde(deserialize_with = "crate::json::number")]
    pub learning_rate: f64,
    /// Global norm of the gradients before clipping.
    #[serde(deserialize_with = "crate::json::number")]
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
    #[serde(deserialize_with = "crate::json::by_peer")]
    pub losses: BTreeMap<u32, Losses>,
}

/// A peer's losses in a step: means over the batch's rows, in nats.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Losses {
    /// What is minimised.
    #[serde(deserialize_with = "crate::json::number")]
    pub total: f64,
    /// Cross-entropy.
    #[serde(deserialize_with = "crate::json::number")]
    pub cross_entropy: f64,
    /// The positive term of mutual exclusivity distillation (HAIL eq 6).
    #[serde(deserialize_with = "crate::json::number")]
    pub positive: f64,
    /// The negative term (HAIL eq 7).
    #[serde(deserialize_with = "crate::json::number")]
    pub negative: f64,
    /// Mean KL divergence from the other peers (PeerRec eq 5).
    #[serde(deserialize_with = "crate::json::number")]
    pub divergence: f64,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_step_reads_back_even_when_a_loss_has_diverged() {
        let step = StepEvent {
            step: 7,
            stage: "train".into(),
            learning_rate: 1e-3,
            gradient_norm: f64::INFINITY,
            rows: 96,
            truncated_rows: 2,
            seconds: 0.25,
            bytes_sent: 4096,
            losses: BTreeMap::from([
                (0, Losses { total: 1.5, ..Losses::default() }),
                (11, Losses { total: f64::NAN, ..Losses::default() }),
            ]),
        };
        let line = EventLine { time: 1.25, event: Event::Step(step) };
        let text = serde_json::to_string(&line).unwrap();
        assert!(text.starts_with(r#"{"time":1.25,"event":"step","step":7,"#), "{text}");
        let Event::Step(read) = serde_json::from_str::<EventLine>(&text).unwrap().event else {
            panic!("not a step: {text}");
        };
        assert!(read.gradient_norm.is_nan());
        assert_eq!(read.losses[&0].total, 1.5);
        assert!(read.losses[&11].total.is_nan());
    }

    #[test]
    fn every_kind_of_event_reads_back() {
        let events = [
            Event::JobStarted {
                job: "j".into(),
                version: "0.1.0".into(),
                method: "hail".into(),
                peers: 2,
                workers: 2,
                threads: 4,
                cores: 8,
                gpus: 0,
                resumed_from: Some(20),
                trained_before: Trained { seconds: 2.5, rows: 900, bytes_sent: 7 },
            },
            Event::Generation { generation: 3, placement: vec![vec![0], vec![1]], step: 7 },
            Event::Warning { message: "disk full".into() },
            Event::Finished { outcome: "completed".into(), step: 40, message: "done".into() },
        ];
        for event in events {
            let line = EventLine { time: 0.5, event };
            let text = serde_json::to_string(&line).unwrap();
            assert_eq!(serde_json::from_str::<EventLine>(&text).unwrap(), line, "{text}");
        }
    }
}
