//! How long is trained, on what machine, how results are measured and kept.

use crate::method::{MethodName, Protocol};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Steps, batches, evaluations, checkpoints.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct TrainConfig {
    /// Steps to train; 0: take `epochs`.
    pub steps: u64,
    /// Epochs to train, where `steps` is 0.
    pub epochs: u64,
    /// Sequences in a batch.
    pub batch_size: usize,
    /// Steps between validations; 0: at the end only.
    pub evaluate_every: u64,
    /// Steps between checkpoints; 0: at the end only.
    pub checkpoint_every: u64,
    /// Validations without improvement of any peer after which training stops, with the parameters of the best one;
    /// 0: never. Validations of PeerRec's first stage do not count.
    pub patience: u32,
    /// The metric that chooses the best peer and stops early, for example `NDCG@10`.
    pub metric: String,
    /// The protocol under which it is measured; one of `evaluation.protocols`, by default the first of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metric_protocol: Option<Protocol>,
    /// Threads of a worker; 0: its share of the cores that `medley run` may use.
    pub threads: usize,
    /// What a worker computes on.
    pub device: DeviceChoice,
    /// In what matrix products are computed in training. All else is float32: parameters, the loss, evaluations.
    pub precision: Precision,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            steps: 0,
            epochs: 10,
            batch_size: 256,
            evaluate_every: 0,
            checkpoint_every: 0,
            patience: 0,
            metric: "NDCG@10".into(),
            metric_protocol: None,
            threads: 0,
            device: DeviceChoice::Auto,
            precision: Precision::Float32,
        }
    }
}

/// In what matrix products are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum Precision {
    /// float32.
    #[default]
    #[serde(rename = "float32")]
    Float32,
    /// Factors rounded to bfloat16, sums in float32: for processors with AVX-512 BF16, which those with AMX have too.
    #[serde(rename = "bf16")]
    Bfloat16,
}

impl Precision {
    /// As configurations spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Float32 => "float32",
            Self::Bfloat16 => "bf16",
        }
    }
}

/// What a worker computes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceChoice {
    /// A GPU where there is one that libtorch can use, else the processor.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// A GPU; workers take those of a machine in turn.
    Cuda,
}

/// How peers exchange what they believe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ExchangeConfig {
    /// What crosses the wire.
    pub mode: ExchangeMode,
    /// Rows of the batch worked on at once; 0: as many as fit the processor's cache.
    pub chunk_rows: usize,
    /// Longest wait for another worker, in seconds.
    pub deadline_seconds: f64,
}

impl Default for ExchangeConfig {
    fn default() -> Self {
        Self { mode: ExchangeMode::Hidden, chunk_rows: 0, deadline_seconds: 20.0 }
    }
}

/// What crosses the wire. All three give the same gradients to float tolerance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ExchangeMode {
    /// Encoder outputs out, their gradients back; each worker computes all peers' losses on its share of the rows.
    Hidden,
    /// The same with rows of logits.
    Logits,
    /// Every peer's full distribution to every worker: the literal reading of the papers, for comparison.
    Distributions,
}

/// How models are evaluated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct EvaluationConfig {
    /// Among which items the target is ranked.
    pub protocols: Vec<Protocol>,
    /// The negatives of the sampled protocols come from this number and not from the job's seed, so that runs with
    /// different seeds rank the same candidates.
    pub seed: u64,
    /// Baselines that need no training, evaluated beside the peers.
    pub baselines: Vec<MethodName>,
    /// Users of a validation during training, the first ones of the file; 0: all. The last evaluation takes all.
    pub validation_users: usize,
    /// Sequences evaluated at once.
    pub batch_size: usize,
}

impl Default for EvaluationConfig {
    fn default() -> Self {
        Self {
            protocols: vec![Protocol::Uniform99, Protocol::Full],
            seed: 1,
            baselines: vec![MethodName::Popularity],
            validation_users: 0,
            batch_size: 256,
        }
    }
}

/// What is written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct OutputConfig {
    /// The run directory; by default `runs/NAME`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub directory: Option<PathBuf>,
    /// Steps between the lines of `events.jsonl` that report losses.
    pub log_every: u64,
    /// Where checkpoints are kept: a directory, or `s3://BUCKET/PREFIX` in an S3-compatible store (AWS_ENDPOINT_URL,
    /// AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, and AWS_ALLOW_HTTP=true for a server without TLS, say which and as whom).
    /// Empty: `checkpoints/` in the run directory. One place keeps those of one run.
    pub checkpoints: String,
    /// Committed checkpoints kept beside the best one; 0: all.
    pub keep_checkpoints: usize,
    /// Write TensorBoard event files.
    pub tensorboard: bool,
    /// Draw losses and metrics as SVG.
    pub plots: bool,
}

impl Default for OutputConfig {
    fn default() -> Self {
        Self {
            directory: None,
            log_every: 10,
            checkpoints: String::new(),
            keep_checkpoints: 3,
            tensorboard: true,
            plots: true,
        }
    }
}

/// How worker processes are started and watched.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct LaunchConfig {
    /// Address on which the coordinator listens; port 0 takes a free one.
    pub listen: String,
    /// Milliseconds between a worker's heartbeats.
    pub heartbeat_ms: u64,
    /// Milliseconds of silence after which a worker counts as dead. One that was only slow is replaced all the same.
    pub death_ms: u64,
    /// Milliseconds in which all workers must have joined, and then met.
    pub join_ms: u64,
}

impl Default for LaunchConfig {
    fn default() -> Self {
        Self { listen: "127.0.0.1:0".into(), heartbeat_ms: 100, death_ms: 1_000, join_ms: 60_000 }
    }
}

/// What happens when a worker is lost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RecoveryConfig {
    /// How training goes on.
    pub mode: RecoveryMode,
    /// Worker processes beyond `cohort.workers` that wait to take a lost one's place.
    pub spares: usize,
    /// Milliseconds that `exact` waits for a replacement before surviving workers host the lost peers; 0: they do at
    /// once. Results then agree to float tolerance and no longer bit for bit.
    pub replace_ms: u64,
    /// Milliseconds in which the survivors of a generation must have left it.
    pub reform_ms: u64,
    /// Losses in a row, without a step committed between them, after which the job fails; the first of them is
    /// named. 0: the first loss ends the job.
    pub attempts: u32,
}

impl Default for RecoveryConfig {
    fn default() -> Self {
        Self { mode: RecoveryMode::Exact, spares: 0, replace_ms: 30_000, reform_ms: 30_000, attempts: 5 }
    }
}

/// How training goes on without a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RecoveryMode {
    /// Once a replacement has the lost peers again, at the step that failed: the result is the undisturbed run's.
    Exact,
    /// At once with the peers that are left; the lost ones are taken back when a replacement is there.
    Continue,
}
