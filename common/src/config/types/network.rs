//! The peers: their network and how many there are.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
    /// Worker processes; 0: one a GPU, and on a machine without one a single worker for all peers.
    pub workers: usize,
}

impl Default for CohortConfig {
    fn default() -> Self {
        Self { peers: 2, workers: 0 }
    }
}
