//! Which losses there are.

/// The loss of a step. With a single peer, all mutual ones are the cross-entropy.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum LossSpec {
    /// `-log p_*`.
    CrossEntropy,
    /// R-CE (Wang et al., WSDM'21) for a softmax: `-p_*^exponent log p_*` with the weight held constant.
    ReweightedCrossEntropy {
        /// Exponent, at least 0.
        exponent: f64,
    },
    /// Deep mutual learning (Zhang et al., CVPR'18; PeerRec eq 5): cross-entropy plus the mean over the other peers l of
    /// `KL(p^l ‖ p^j)`; with `alpha`, `alpha CE + (1 - alpha) KL` (the mutual mimic of HAIL's Table 3).
    Mutual {
        /// Weight of the cross-entropy; `None`: both count fully.
        alpha: Option<f64>,
    },
    /// Mutual exclusivity distillation: HAIL eqs 5-12 and PeerRec's stage 2, eqs 6-10.
    Exclusivity {
        /// Weight of the hard labels.
        alpha: f64,
        /// Exponent on what the peers believe.
        gamma: f64,
        /// Whom a peer hears.
        teacher: Teacher,
        /// Keep `-u log p_*`.
        positive_term: bool,
        /// Keep `-Σ q_k log(1 - p_k)`.
        negative_term: bool,
        /// Truncated rows leave the cross-entropy too.
        truncate_ce: bool,
        /// What 0^0 is on truncated rows for gamma = 0: true, the literal 1, which switches the filter off.
        zero_pow_zero: bool,
    },
}

/// Whom a peer hears in mutual exclusivity distillation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Teacher {
    /// The mean of all other peers, after the power (HAIL eqs 11-12).
    Mean,
    /// The other peer that finds the target least likely; of equals the lower index (PeerRec eq 6).
    MinimumGroup,
}
