//! Which loss the peers minimise.

/// A loss of a cohort, by the row. The peers' distributions are constants to one another (stop-gradient); every mean is
/// over the real rows. With a single peer each of these is cross-entropy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LossSpec {
    /// -log p_*, every peer for itself.
    CrossEntropy,
    /// R-CE (Wang et al., WSDM 2021, carried over to a softmax): p_*^exponent times the cross-entropy, the weight being
    /// a constant to the gradient.
    ReweightedCrossEntropy {
        /// 0.1 to 0.3 in the paper.
        exponent: f64,
    },
    /// Deep mutual learning (Zhang et al., CVPR 2018), stage 1 of PeerRec (eq 5): cross-entropy and the mean divergence
    /// from the other peers, KL(p^l ‖ p^j).
    Mutual {
        /// `alpha ce + (1 - alpha) kl`, or without a value `ce + kl`.
        alpha: Option<f64>,
    },
    /// Mutual exclusivity distillation: HAIL and stage 2 of PeerRec.
    Exclusivity(Exclusivity),
}

/// Where a peer's weights u = (1 - p_*)^γ and q_k = p_k^γ come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Teacher {
    /// The mean of the weights over all other peers (HAIL, eqs 11-12); the power comes before the mean.
    Mean,
    /// The other peer with the smallest p_*, row by row, the lower index of equals (PeerRec, eq 6).
    MinimumGroup,
}

/// `alpha ce + (1 - alpha) (pos + neg)` with `pos = -u log p_*` and `neg = -Σ_{k≠*} q_k log(1 - p_k)`
/// (HAIL eqs 5-12, PeerRec eqs 6-10).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Exclusivity {
    /// The share of cross-entropy, 0 to 1. A plain number, so that it may change from step to step.
    pub alpha: f64,
    /// The exponent of the weights; 1 is the fast path.
    pub gamma: f64,
    /// Whose weights a peer receives.
    pub teacher: Teacher,
    /// Whether there is a positive term (HAIL's ablation I has none).
    pub positive_term: bool,
    /// Whether there is a negative term (HAIL's ablation II has none).
    pub negative_term: bool,
    /// Whether truncated rows leave the cross-entropy too, as in HAIL's released program.
    pub truncate_ce: bool,
    /// PeerRec puts the one-hot label in the place of the teacher on truncated rows, so that the weights are 0^γ.
    /// For γ = 0: `true` reads this as 1 (truncation has no effect), `false` as 0.
    pub zero_pow_zero: bool,
    /// Added to the number of real rows in every mean; 1e-5 in HAIL's released program, else 0.
    pub denominator_epsilon: f64,
}

impl Exclusivity {
    /// HAIL as in the paper: all other peers teach, cross-entropy is never truncated.
    pub fn hail(alpha: f64, gamma: f64) -> Self {
        Self {
            alpha,
            gamma,
            teacher: Teacher::Mean,
            positive_term: true,
            negative_term: true,
            truncate_ce: false,
            zero_pow_zero: false,
            denominator_epsilon: 0.0,
        }
    }

    /// HAIL as in the authors' program; goes with [`RankRule::Released`](super::RankRule::Released).
    pub fn hail_released(alpha: f64, gamma: f64) -> Self {
        Self { truncate_ce: true, denominator_epsilon: 1e-5, ..Self::hail(alpha, gamma) }
    }

    /// Stage 2 of PeerRec with its dynamic minimum group.
    pub fn peerrec_stage2(alpha: f64, gamma: f64) -> Self {
        Self { teacher: Teacher::MinimumGroup, ..Self::hail(alpha, gamma) }
    }

    /// The factor of `pos` and `neg` on a row.
    pub(super) fn keeps(&self, truncated: bool) -> bool {
        !truncated || (self.zero_pow_zero && self.gamma == 0.0)
    }
}

impl LossSpec {
    /// What the row sums are divided by, given the sum of the row weights.
    pub fn denominator(&self, weight_sum: f64) -> f64 {
        match self {
            Self::Exclusivity(spec) => weight_sum + spec.denominator_epsilon,
            _ => weight_sum,
        }
    }

    /// Whether a row's loss depends on other peers at all.
    pub fn needs_peers(&self) -> bool {
        matches!(self, Self::Mutual { .. } | Self::Exclusivity(_))
    }
}
