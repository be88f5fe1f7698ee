//! Names of methods and evaluation protocols, as configurations, results and reports spell them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

/// How a cohort is trained, or what ranks the items when nothing is trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum MethodName {
    /// Items by training frequency. Nothing is trained.
    Popularity,
    /// Items by how often the user's own history has them, then by training frequency. Nothing is trained.
    OwnFrequency,
    /// One network by itself: BERT4Rec (bidirectional) or SASRec with full softmax (causal).
    Single,
    /// One network with the reweighted cross-entropy of Wang et al. (WSDM'21), ported to softmax.
    Rce,
    /// Deep mutual learning (Zhang et al., CVPR'18): cross-entropy and mean KL divergence from the other peers.
    Dml,
    /// Mutual exclusivity distillation: HAIL (CIKM'21), equations 5-12.
    Hail,
    /// PeerRec (2023): stage 1 is mutual learning (equation 5), stage 2 the dynamic minimum group (6-10).
    Peerrec,
}

impl MethodName {
    /// Whether peers learn from one another, which takes at least two.
    pub fn is_mutual(self) -> bool {
        matches!(self, Self::Dml | Self::Hail | Self::Peerrec)
    }

    /// Whether there are parameters to train.
    pub fn is_trained(self) -> bool {
        !matches!(self, Self::Popularity | Self::OwnFrequency)
    }

    /// The spelling in configurations and results.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Popularity => "popularity",
            Self::OwnFrequency => "own-frequency",
            Self::Single => "single",
            Self::Rce => "rce",
            Self::Dml => "dml",
            Self::Hail => "hail",
            Self::Peerrec => "peerrec",
        }
    }
}

impl fmt::Display for MethodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Among which items the target is ranked. A metric means nothing without it, so every result names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// The target and 99 items drawn uniformly, with replacement, outside the user's whole sequence
    /// (HAIL and PeerRec).
    Uniform99,
    /// The same with 1000 items (TiMiRec).
    Uniform1000,
    /// The target and 99 distinct items drawn by training frequency, outside the user's whole sequence (BERT4Rec).
    Popularity99,
    /// All items.
    Full,
    /// All items but those that the user has had before (the target stays).
    FullUnseen,
}

impl Protocol {
    /// Every protocol, in the order in which reports list them.
    pub const ALL: [Self; 5] = [Self::Uniform99, Self::Uniform1000, Self::Popularity99, Self::Full, Self::FullUnseen];

    /// The spelling in configurations and results.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Uniform99 => "uniform99",
            Self::Uniform1000 => "uniform1000",
            Self::Popularity99 => "popularity99",
            Self::Full => "full",
            Self::FullUnseen => "full-unseen",
        }
    }

    /// How many negatives are drawn for a user; `None` where all items are ranked.
    pub fn negatives(self) -> Option<usize> {
        match self {
            Self::Uniform99 | Self::Popularity99 => Some(99),
            Self::Uniform1000 => Some(1000),
            Self::Full | Self::FullUnseen => None,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The metrics that an evaluation yields, in the order in which tables list them.
pub const METRICS: [&str; 8] = ["HR@1", "HR@5", "HR@10", "HR@20", "NDCG@5", "NDCG@10", "NDCG@20", "MRR"];
