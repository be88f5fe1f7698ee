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
    /// Changes of T during training, in the order of their steps.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub schedule: Vec<CohortChange>,
    /// What a peer that joins a training starts from.
    pub new_peers: NewPeers,
    /// With `new_peers = "copy"`: the peer that is copied.
    pub copy_of: u32,
    /// With `new_peers = "copy"`: standard deviation of the noise on a copied parameter, as a share of the root mean
    /// square of its tensor.
    pub copy_noise: f64,
}

/// A change of T.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CohortChange {
    /// Steps after which it happens.
    pub step: u64,
    /// T from then on.
    pub peers: usize,
}

/// What a peer that joins a training starts from. One that was there before comes back with the state it left with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum NewPeers {
    /// Its own draw from the seed.
    #[default]
    Fresh,
    /// The state of another peer, with noise, so that the two can differ.
    Copy,
}

impl CohortConfig {
    /// The largest T of the training.
    pub fn most_peers(&self) -> usize {
        self.schedule.iter().map(|change| change.peers).fold(self.peers, usize::max)
    }

    /// T after a step, as the schedule has it.
    pub fn peers_after(&self, step: u64) -> usize {
        self.schedule.iter().take_while(|change| change.step <= step).last().map_or(self.peers, |change| change.peers)
    }
}

impl Default for CohortConfig {
    fn default() -> Self {
        Self { peers: 2, workers: 0, schedule: Vec::new(), new_peers: NewPeers::Fresh, copy_of: 0, copy_noise: 0.01 }
    }
}
