//! The softmax of one row, with its largest class kept apart.
//!
//! 1 - p of a class that a peer is certain of can't be had by subtraction, so a row is held as its largest class M and
//! the exponentials of all others relative to the second largest logit: every p but p_M is at most 1/2, and 1 - p_M
//! is their sum.

use crate::simd::elementary::{exp, ln};
use crate::simd::lanes::{LaneSum, Lanes, load, store, sweep};

/// What is known of a row after its logits were replaced by exponentials; scalars in `f64`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SoftmaxRow {
    /// M, the class of the largest logit; of equal ones the first.
    pub largest: usize,
    /// p_M.
    pub p_largest: f64,
    /// 1 - p_M, accurate when p_M rounds to 1.
    pub p_others: f64,
    /// -log(1 - p_M).
    pub neg_log_others: f64,
    /// The sum of the row's exponentials (without M); 0 when they all vanish.
    pub exponentials: f64,
    /// p_k = factor * exponential_k for k other than M.
    pub factor: f64,
    /// z_M. log p_k is `(z_k - z_largest) - log1p_odds`, in this order: the logits' common size then costs no digits.
    pub z_largest: f32,
    /// log(1 + Σ_{k≠M} exp(z_k - z_M)).
    pub log1p_odds: f64,
    /// -log p_*.
    pub cross_entropy: f64,
    /// p_*.
    pub p_target: f64,
    /// 1 - p_*, accurate when p_* rounds to 1.
    pub p_not_target: f64,
}

impl SoftmaxRow {
    /// p_k, from the row of exponentials.
    #[inline(always)]
    pub(super) fn probability(&self, exponentials: &[f32], class: usize) -> f64 {
        if class == self.largest { self.p_largest } else { self.factor * f64::from(exponentials[class]) }
    }
}

/// Replaces the logits of a row by exp(z_k - second largest z), 0 in the place of the largest.
#[inline(always)]
pub(super) fn exponentiate<L: Lanes>(row: &mut [f32], target: usize) -> SoftmaxRow {
    let z_target = f64::from(row[target]);
    let (first, second) = two_largest::<L>(row);
    let largest = position_of::<L>(row, first);
    // A row of which all other logits are -inf still has to give 0, not NaN, for them.
    let base = second.max(f32::MIN);
    row[largest] = f32::NEG_INFINITY;

    let mut sum = LaneSum::<L>::new();
    sweep!(L, row.len(), |at, FULL| {
        let exponential = exp(load::<L, FULL>(row, at, f32::NEG_INFINITY).sub(L::splat(base)));
        store::<L, FULL>(exponential, row, at);
        sum.add(exponential);
    });
    let exponentials = sum.total();

    let (z_largest, base) = (f64::from(first), f64::from(base));
    let base_weight = (base - z_largest).exp();
    let odds = base_weight * exponentials;
    let log1p_odds = odds.ln_1p();
    let p_largest = 1.0 / (1.0 + odds);
    let p_others = odds / (1.0 + odds);
    let factor = base_weight / (1.0 + odds);
    let cross_entropy = z_largest - z_target + log1p_odds;
    let (p_target, p_not_target) = if target == largest {
        (p_largest, p_others)
    } else {
        let p = factor * f64::from(row[target]);
        (p, 1.0 - p)
    };
    SoftmaxRow {
        largest,
        p_largest,
        p_others,
        neg_log_others: log1p_odds - (base - z_largest) - exponentials.ln(),
        exponentials,
        factor,
        z_largest: first,
        log1p_odds,
        cross_entropy,
        p_target,
        p_not_target,
    }
}

/// Replaces the logits of a row by its probabilities.
#[inline(always)]
pub(super) fn probabilities<L: Lanes>(row: &mut [f32], target: usize) -> SoftmaxRow {
    let softmax = exponentiate::<L>(row, target);
    scale::<L>(row, softmax.factor as f32);
    row[softmax.largest] = softmax.p_largest as f32;
    softmax
}

/// Writes p_k^exponent of a row of logits, of which the softmax is known, in the place of the logits.
#[inline(always)]
pub(super) fn powers_of_logits<L: Lanes>(row: &mut [f32], softmax: &SoftmaxRow, exponent: f64) {
    if exponent == 0.0 {
        // x^0 = 1 for x = 0 too.
        return row.fill(1.0);
    }
    let (largest, log1p_odds) = (L::splat(softmax.z_largest), L::splat(softmax.log1p_odds as f32));
    sweep!(L, row.len(), |at, FULL| {
        let log_p = load::<L, FULL>(row, at, 0.0).sub(largest).sub(log1p_odds);
        store::<L, FULL>(exp(log_p.mul(L::splat(exponent as f32))), row, at);
    });
}

/// Writes p_k^exponent of a row of probabilities to `into`.
#[inline(always)]
pub(super) fn powers_of_probabilities<L: Lanes>(probabilities: &[f32], exponent: f64, into: &mut [f32]) {
    if exponent == 0.0 {
        return into.fill(1.0);
    }
    sweep!(L, probabilities.len(), |at, FULL| {
        let log_p = ln(load::<L, FULL>(probabilities, at, 1.0));
        store::<L, FULL>(exp(log_p.mul(L::splat(exponent as f32))), into, at);
    });
}

/// Writes Σ factor * row over the rows to `into`.
#[inline(always)]
pub(super) fn weighted_sum<L: Lanes>(rows: &[(&[f32], f32)], into: &mut [f32]) {
    sweep!(L, into.len(), |at, FULL| {
        let mut sum = L::splat(0.0);
        for &(row, factor) in rows {
            sum = load::<L, FULL>(row, at, 0.0).mul_add(L::splat(factor), sum);
        }
        store::<L, FULL>(sum, into, at);
    });
}

/// Multiplies a row by a number.
#[inline(always)]
pub(super) fn scale<L: Lanes>(row: &mut [f32], by: f32) {
    sweep!(L, row.len(), |at, FULL| {
        store::<L, FULL>(load::<L, FULL>(row, at, 0.0).mul(L::splat(by)), row, at);
    });
}

/// The largest and the second largest number of a row; -inf for what it does not have.
#[inline(always)]
fn two_largest<L: Lanes>(row: &[f32]) -> (f32, f32) {
    let mut first = L::splat(f32::NEG_INFINITY);
    let mut second = first;
    sweep!(L, row.len(), |at, FULL| {
        let z = load::<L, FULL>(row, at, f32::NEG_INFINITY);
        second = second.max(first.min(z));
        first = first.max(z);
    });
    let (mut firsts, mut seconds) = ([0.0; crate::simd::lanes::WIDEST], [0.0; crate::simd::lanes::WIDEST]);
    first.store(&mut firsts);
    second.store(&mut seconds);
    let (mut first, mut second) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
    for lane in 0..L::WIDTH {
        second = second.max(first.min(firsts[lane])).max(seconds[lane]);
        first = first.max(firsts[lane]);
    }
    (first, second)
}

/// The largest class of a row of probabilities or logits; of equal ones the first.
#[inline(always)]
pub(super) fn arg_max<L: Lanes>(row: &[f32]) -> usize {
    position_of::<L>(row, two_largest::<L>(row).0)
}

/// Where `value` first occurs; 0 if nowhere, which only happens in rows with NaN.
#[inline(always)]
fn position_of<L: Lanes>(row: &[f32], value: f32) -> usize {
    let sought = L::splat(value);
    sweep!(L, row.len(), |at, FULL| {
        if load::<L, FULL>(row, at, f32::NAN).any_equal(sought) {
            let block = &row[at..row.len().min(at + L::WIDTH)];
            return at + block.iter().position(|&z| z == value).unwrap_or(0);
        }
    });
    0
}
