//! One row of deep mutual learning for all peers: losses, and gradients in the place of the logits.
//!
//! With S_k = Σ_l p^(l)_k and G_k = Σ_l p^(l)_k log p^(l)_k over *all* peers, a peer's own terms cancel in
//! Σ_{l≠j} KL(p^(l) ‖ p^(j)) = Σ_k (G_k - S_k log p^(j)_k), so that T peers cost T rows and not T².

use super::row::{Others, Row, Scratch};
use super::softmax::{SoftmaxRow, probabilities};
use super::sums::PeerLosses;
use crate::simd::elementary::ln;
use crate::simd::lanes::{LaneSum, Lanes, load, store, sweep};

/// The loss of [`LossSpec::Mutual`](super::LossSpec::Mutual) with at least two peers.
#[inline(always)]
pub(super) fn mutual_row<L: Lanes>(alpha: Option<f64>, row: &mut Row<'_, '_>, scratch: &mut Scratch) {
    let target = row.target;
    for (own, logits) in row.own.iter().enumerate() {
        scratch.rows[own].copy_from_slice(logits);
        scratch.softmax[own] = probabilities::<L>(&mut scratch.rows[own], target);
    }
    match &row.others {
        Others::Logits => cohort_of_logits::<L>(row, scratch),
        Others::Probabilities(everyone) => cohort_of_probabilities::<L>(everyone, scratch),
    }

    let (ce_factor, kl_factor) = alpha.map_or((1.0, 1.0), |alpha| (alpha, 1.0 - alpha));
    let others = (row.peers - 1) as f64;
    for (own, logits) in row.own.iter_mut().enumerate() {
        let softmax = scratch.softmax[own];
        let p = &scratch.rows[own];
        // kl's gradient is p - (S - p) / (T - 1).
        let of_own = row.scale * (ce_factor + kl_factor * (1.0 + 1.0 / others));
        let of_sum = -row.scale * kl_factor / others;
        let (of_own, of_sum) = (L::splat(of_own as f32), L::splat(of_sum as f32));
        let logarithm = LogProbability::<L>::new(&softmax);
        let mut kl = LaneSum::<L>::new();
        sweep!(L, logits.len(), |at, FULL| {
            let sum = load::<L, FULL>(&scratch.sum, at, 0.0);
            let entropy = load::<L, FULL>(&scratch.second_sum, at, 0.0);
            let log_p = logarithm.of(load::<L, FULL>(logits, at, 0.0));
            kl.add(entropy.sub(sum.mul(log_p)));
            store::<L, FULL>(load::<L, FULL>(p, at, 0.0).mul_add(of_own, sum.mul(of_sum)), logits, at);
        });
        let teacher_at_target = (f64::from(scratch.sum[target]) - f64::from(p[target])) / others;
        let at_target = -ce_factor * softmax.p_not_target + kl_factor * (softmax.p_target - teacher_at_target);
        logits[target] = (row.scale * at_target) as f32;

        let (ce, kl) = (softmax.cross_entropy, kl.total() / others);
        scratch.losses[own] = PeerLosses { ce, kl, total: ce_factor * ce + kl_factor * kl, ..PeerLosses::default() };
    }
}

/// log p from a logit.
struct LogProbability<L> {
    largest: L,
    log1p_odds: L,
}

impl<L: Lanes> LogProbability<L> {
    #[inline(always)]
    fn new(softmax: &SoftmaxRow) -> Self {
        Self { largest: L::splat(softmax.z_largest), log1p_odds: L::splat(softmax.log1p_odds as f32) }
    }

    /// Finite even for a logit of -inf, so that 0 log 0 = 0; NaN for NaN.
    #[inline(always)]
    fn of(&self, logit: L) -> L {
        L::splat(f32::MIN).max(logit.sub(self.largest).sub(self.log1p_odds))
    }
}

/// S and G from all peers' logits and probabilities, to `sum` and `second_sum`.
#[inline(always)]
fn cohort_of_logits<L: Lanes>(row: &Row<'_, '_>, scratch: &mut Scratch) {
    sweep!(L, scratch.sum.len(), |at, FULL| {
        let (mut sum, mut entropy) = (L::splat(0.0), L::splat(0.0));
        for peer in 0..row.peers {
            let p = load::<L, FULL>(&scratch.rows[peer], at, 0.0);
            let log_p = LogProbability::<L>::new(&scratch.softmax[peer]).of(load::<L, FULL>(&*row.own[peer], at, 0.0));
            sum = sum.add(p);
            entropy = p.mul_add(log_p, entropy);
        }
        store::<L, FULL>(sum, &mut scratch.sum, at);
        store::<L, FULL>(entropy, &mut scratch.second_sum, at);
    });
}

/// S and G from everybody's probabilities, to `sum` and `second_sum`.
#[inline(always)]
fn cohort_of_probabilities<L: Lanes>(everyone: &[&[f32]], scratch: &mut Scratch) {
    sweep!(L, scratch.sum.len(), |at, FULL| {
        let (mut sum, mut entropy) = (L::splat(0.0), L::splat(0.0));
        for row in everyone {
            let p = load::<L, FULL>(row, at, 0.0);
            sum = sum.add(p);
            entropy = p.mul_add(ln(p), entropy);
        }
        store::<L, FULL>(sum, &mut scratch.sum, at);
        store::<L, FULL>(entropy, &mut scratch.second_sum, at);
    });
}
