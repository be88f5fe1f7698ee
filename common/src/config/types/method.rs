//! How peers learn.

use crate::method::MethodName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
