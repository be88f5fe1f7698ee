//! The types of a configuration, with their defaults. Defaults follow HAIL's released code where it has the setting
//! (`hukx-issac/HAIL`), unless the comment says otherwise.
//!
//! [`data`]: what is learned from; [`network`]: the peers; [`method`]: how they learn; [`run`]: how long, where, and what
//! is written; [`store`]: where the coordinator keeps its state; [`security`]: who may take part.

mod data;
mod method;
mod network;
mod run;
mod security;
mod store;

pub use data::*;
pub use method::*;
pub use network::*;
pub use run::*;
pub use security::*;
pub use store::*;

use crate::method::Protocol;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
    /// What happens when a worker is lost.
    pub recovery: RecoveryConfig,
    /// Where the coordinator keeps what must survive it.
    pub store: StoreConfig,
    /// Certificates of the cluster.
    pub security: SecurityConfig,
}

impl RunConfig {
    /// The protocol of the metric that chooses the best peer.
    ///
    /// # Panics
    /// If there are no protocols; [`load`](super::load()) refuses such a configuration.
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
            recovery: RecoveryConfig::default(),
            store: StoreConfig::default(),
            security: SecurityConfig::default(),
        }
    }
}
