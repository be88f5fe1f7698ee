//! The types of a configuration, with their defaults. Defaults follow HAIL's released code where it has the setting
//! (`hukx-issac/HAIL`), unless the comment says otherwise.

use crate::method::{MethodName, Protocol};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// One job: what is trained, on what, how, and where the results go.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RunConfig {
    /// A name for people; part of the default run directory.
    pub name: String,
    /// Every random draw of the training comes from this number.
    pub seed: u64,
    /// Interaction data and how it is split.
    pub data: DataConfig,
    /// Training samples made of it.
    pub samples: SamplesConfig,
    /// The base network of a peer.
    pub network: NetworkConfig,
    /// How many peers, and how many workers host them.
    pub cohort: CohortConfig,
    /// How peers learn.
    pub method: MethodConfig,
    /// Optimiser and learning rate.
    pub optimizer: OptimizerConfig,
    /// Steps, batches, evaluations, checkpoints.
    pub train: TrainConfig,
    /// How peers exchange what they believe.
    pub exchange: ExchangeConfig,
    /// How models are evaluated.
    pub evaluation: EvaluationConfig,
    /// What is written.
    pub output: OutputConfig,
    /// How worker processes are started and watched.
    pub launch: LaunchConfig,
}

impl RunConfig {
    /// The protocol of the metric that chooses the best peer.
    ///
    /// # Panics
    /// If there are no protocols; [`load`](super::load) refuses such a configuration.
    pub fn metric_protocol(&self) -> Protocol {
        let first = self.evaluation.protocols.first();
        self.train.metric_protocol.or(first.copied()).expect("a checked configuration has protocols")
    }
}

impl Default for RunConfig {
    fn default() -> Self {
        Self {
            name: "run".into(),
            seed: 1,
            data: DataConfig::default(),
            samples: SamplesConfig::default(),
            network: NetworkConfig::default(),
            cohort: CohortConfig::default(),
            method: MethodConfig::default(),
            optimizer: OptimizerConfig::default(),
            train: TrainConfig::default(),
            exchange: ExchangeConfig::default(),
            evaluation: EvaluationConfig::default(),
            output: OutputConfig::default(),
            launch: LaunchConfig::default(),
        }
    }
}

/// Interaction data and how it is split. Within a user, order is the file's unless there are timestamps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct DataConfig {
    /// The file; a relative path is relative to the working directory.
    pub path: PathBuf,
    /// Its format; `auto` looks at the name and the first lines.
    pub format: DataFormat,
    /// Field separator of `csv`, `tsv` and `user-item` files; by default the format's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub separator: Option<String>,
    /// Column of users, in files with named columns.
    pub user_column: String,
    /// Column of items.
    pub item_column: String,
    /// Column of times, if there is one to sort by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timestamp_column: Option<String>,
    /// Column of ratings, needed with `min_rating`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rating_column: Option<String>,
    /// Interactions rated lower are left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_rating: Option<f64>,
    /// Users and items with fewer interactions are removed, until none is left (0: no such filter).
    pub k_core: usize,
    /// Users with fewer interactions than this are left out; at least 3, since the last two are held out.
    pub min_length: usize,
    /// Train on the validation item too, as HAIL's released code does; there is then no model selection.
    pub train_on_validation: bool,
}

impl Default for DataConfig {
    fn default() -> Self {
        Self {
            path: PathBuf::new(),
            format: DataFormat::Auto,
            separator: None,
            user_column: "user".into(),
            item_column: "item".into(),
            timestamp_column: None,
            rating_column: None,
            min_rating: None,
            k_core: 0,
            min_length: 3,
            train_on_validation: false,
        }
    }
}

/// Format of an interaction file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DataFormat {
    /// Told from the name and the first lines.
    #[default]
    Auto,
    /// `user item` lines in time order.
    UserItem,
    /// `user item item ...`, one line a user.
    Sequences,
    /// MovieLens `ratings.dat`: `user::item::rating::timestamp`.
    Movielens,
    /// RecBole atomic file `.inter`: tab-separated with typed column names.
    Recbole,
    /// Comma-separated with a header.
    Csv,
    /// Tab-separated with a header.
    Tsv,
}

/// How users' sequences become training samples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct SamplesConfig {
    /// Longest window of a sequence, in items; longer sequences are sliced from the right.
    pub max_length: usize,
    /// Share of a window that the next one repeats, in [0, 1). HAIL's released code: 0.5.
    pub window_overlap: f64,
    /// Share of a window's items that are masked (bidirectional networks).
    pub mask_share: f64,
    /// Most items masked in a window.
    pub max_masks: usize,
    /// Samples with random masks made of each window in an epoch.
    pub copies: usize,
    /// One more sample of each window in which only the last item is masked.
    pub last_item_copy: bool,
    /// Draw new masks in every epoch, in the place of fixed copies.
    pub redraw: bool,
}

impl SamplesConfig {
    /// Places of a sequence that may carry a target.
    pub fn slots(&self, kind: NetworkKind) -> usize {
        match kind {
            NetworkKind::Bidirectional => self.max_masks,
            NetworkKind::Causal => self.max_length,
        }
    }
}

impl Default for SamplesConfig {
    fn default() -> Self {
        Self {
            max_length: 200,
            window_overlap: 0.5,
            mask_share: 0.2,
            max_masks: 40,
            copies: 10,
            last_item_copy: true,
            redraw: false,
        }
    }
}

/// The base network of a peer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct NetworkConfig {
    /// Which positions an item may attend to, and with it how samples are made.
    pub kind: NetworkKind,
    /// Width of embeddings and hidden states.
    pub dimension: i64,
    /// Encoder layers of a peer.
    pub layers: usize,
    /// Attention heads; they divide `dimension`.
    pub heads: i64,
    /// Inner width of the feed-forward sublayer.
    pub feed_forward: i64,
    /// Dropout on embeddings, attention weights and sublayer outputs, in [0, 1).
    pub dropout: f64,
    /// Layer normalisation after each sublayer (BERT) or before it.
    pub norm: NormPlacement,
    /// How weight matrices and tables are drawn.
    pub initialization: Initialization,
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self {
            kind: NetworkKind::Bidirectional,
            dimension: 64,
            layers: 2,
            heads: 2,
            feed_forward: 256,
            dropout: 0.2,
            norm: NormPlacement::Post,
            initialization: Initialization::TruncatedNormal,
        }
    }
}

/// Which positions an item may attend to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum NetworkKind {
    /// All of them; trained to fill masks (BERT4Rec).
    Bidirectional,
    /// Earlier ones; trained to predict the next item at every position (SASRec with full softmax).
    Causal,
}

/// Where layer normalisation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum NormPlacement {
    /// After the residual sum.
    Post,
    /// Before the sublayer, with a last one after all layers.
    Pre,
}

/// How weight matrices and tables are drawn (PeerRec, Table 4). Biases start at 0, layer norms at the identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Initialization {
    /// Normal with standard deviation 0.02, cut at two deviations.
    TruncatedNormal,
    /// Xavier (Glorot) uniform.
    Xavier,
    /// Kaiming (He) uniform.
    Kaiming,
}

/// How many peers, and how many workers host them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct CohortConfig {
    /// T, the peers of the cohort.
    pub peers: usize,
    /// Worker processes; 0: one a peer.
    pub workers: usize,
}

impl Default for CohortConfig {
    fn default() -> Self {
        Self { peers: 2, workers: 0 }
    }
}

/// How peers learn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct MethodConfig {
    /// The method.
    pub name: MethodName,
    /// Weight of the hard labels' cross-entropy against the peers' terms, in [0, 1] (HAIL eq 9, PeerRec eq 10).
    pub alpha: f64,
    /// Let alpha fall as 0.98^(step div (0.02·steps + 1)) from 1 in a stage, as HAIL's released code does for alpha < 0.
    pub anneal_alpha: bool,
    /// Share of rows that count as noise when they are the hardest for every peer, in [0, 1) (HAIL eq 8).
    pub beta: f64,
    /// What `beta` is a share of.
    pub beta_base: BetaBase,
    /// 1: the largest loss has rank 1, so ceil(beta·n) - 1 rows of a peer qualify (released code). 0: ceil(beta·n).
    pub rank_base: u8,
    /// Truncated rows leave the cross-entropy too (HAIL's released code) and not the peers' terms alone (HAIL eq 8). The
    /// released program also adds 1e-5 to the number of rows that it divides by: less than a float can tell.
    pub truncate_ce: bool,
    /// Exponent on the peers' probabilities, at least 0.
    pub gamma: f64,
    /// Keep the positive term (HAIL eq 6); without it: the paper's ablation I.
    pub positive_term: bool,
    /// Keep the negative term (HAIL eq 7); without it: ablation II; without both: III. Ablation IV is `beta = 0`.
    pub negative_term: bool,
    /// PeerRec stage 2: the dynamic minimum group, or the mean over all other peers ("loss averaging").
    pub teacher: Teacher,
    /// PeerRec: share of the steps that is stage 1, in [0, 1]. The paper gives no figure.
    pub stage_1_share: f64,
    /// PeerRec: clear the optimiser's moments when stage 2 begins. The schedule starts afresh either way.
    pub reset_optimizer: bool,
    /// R-CE: exponent on the detached probability of the target. The original tunes 0.1 to 0.3.
    pub rce_exponent: f64,
}

impl Default for MethodConfig {
    fn default() -> Self {
        Self {
            name: MethodName::Hail,
            alpha: 0.5,
            anneal_alpha: false,
            beta: 0.0,
            beta_base: BetaBase::Masked,
            rank_base: 1,
            truncate_ce: false,
            gamma: 1.0,
            positive_term: true,
            negative_term: true,
            teacher: Teacher::MinimumGroup,
            stage_1_share: 0.5,
            reset_optimizer: false,
            rce_exponent: 0.2,
        }
    }
}

/// What `beta` is a share of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BetaBase {
    /// The masked positions of the batch (the papers' text).
    Masked,
    /// The slots of a batch, padding included (HAIL's released code): `batch_size · max_masks`, of causal networks
    /// `batch_size · max_length`. The released program rounds the count in single precision, and so may take one row
    /// more or less.
    Slots,
}

/// Who teaches a peer on a row in PeerRec's stage 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Teacher {
    /// The other peer that gives the target the smallest probability (PeerRec eq 6).
    MinimumGroup,
    /// All other peers alike.
    Mean,
}

/// Optimiser and learning rate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct OptimizerConfig {
    /// Which AdamW.
    pub variant: OptimizerVariant,
    /// Peak learning rate (for `noam`: the factor).
    pub learning_rate: f64,
    /// Course of the learning rate.
    pub schedule: Schedule,
    /// Steps of linear warm-up.
    pub warmup_steps: u64,
    /// Decay of the first moment.
    pub beta_1: f64,
    /// Decay of the second moment.
    pub beta_2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Largest global norm of the gradients, over shared and all private parameters; 0: no clipping.
    pub clip_norm: f64,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self {
            variant: OptimizerVariant::Released,
            learning_rate: 1e-4,
            schedule: Schedule::Linear,
            warmup_steps: 100,
            beta_1: 0.9,
            beta_2: 0.999,
            epsilon: 1e-6,
            weight_decay: 0.01,
            clip_norm: 5.0,
        }
    }
}

/// Which AdamW.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OptimizerVariant {
    /// BERT's, which HAIL's code uses: no bias correction; no decay on biases and layer norms.
    Released,
    /// Loshchilov and Hutter's: bias correction, decay on everything.
    Textbook,
}

/// Course of the learning rate after warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Schedule {
    /// Linear decay to 0 at the last step, counted from step 0 (HAIL's released code).
    Linear,
    /// `dimension^-0.5 · min(step^-0.5, step · warmup^-1.5)` (HAIL's text; Vaswani et al.).
    Noam,
    /// No decay.
    Constant,
}

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
    /// Threads of a worker; 0: its share of the machine's cores.
    pub threads: usize,
    /// What a worker computes on.
    pub device: DeviceChoice,
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
        Self { mode: ExchangeMode::Hidden, chunk_rows: 0, deadline_seconds: 60.0 }
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
    /// Committed checkpoints kept beside the best one; 0: all.
    pub keep_checkpoints: usize,
    /// Write TensorBoard event files.
    pub tensorboard: bool,
    /// Draw losses and metrics as SVG.
    pub plots: bool,
}

impl Default for OutputConfig {
    fn default() -> Self {
        Self { directory: None, log_every: 10, keep_checkpoints: 3, tensorboard: true, plots: true }
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
    /// Milliseconds of silence after which a worker counts as dead.
    pub death_ms: u64,
    /// Milliseconds in which all workers must have joined, and then met.
    pub join_ms: u64,
}

impl Default for LaunchConfig {
    fn default() -> Self {
        Self { listen: "127.0.0.1:0".into(), heartbeat_ms: 100, death_ms: 10_000, join_ms: 60_000 }
    }
}
