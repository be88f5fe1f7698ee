//! The mathematics of one row: from the peers' logits to losses and gradients.
//!
//! With `p` a peer's softmax, `*` the target, `u` and `q` what the peer hears from the others, `m` 0 on truncated rows:
//!
//! ```text
//! L   = α·(-log p_*) + (1-α)·m·( -u log p_* - Σ_{k≠*} q_k log(1-p_k) )
//! r_k = (1-α)·m·q_k p_k / (1-p_k)        for k ≠ *
//! dz  = a·(p - y) + r - p·Σ r            with a = α + (1-α)·m·u
//! ```
//!
//! For the largest class M, `1-p_M` is the sum of the other exponentials over the sum of all, never a subtraction; and `r_M`,
//! which may be as large as 1e35, is split off: with `s` the softmax over the classes other than M, `r_M - p_M Σ r` becomes
//! `w_M p_M - p_M Σ_{l≠M} r_l` at M and `-w_M p_M s_l` is added elsewhere, `w` being `(1-α)·m·q`.
//!
//! Everything is `inline(always)`, so that it is compiled anew for each instruction set (see `chunk`).

use super::elementary::{exp, minus_log_one_minus};
use super::spec::{LossSpec, Teacher};
use super::sums::PeerSums;

/// Sums are kept in so many lanes, which fixes their order whatever the width of the processor's registers.
const LANES: usize = 16;

/// Where the probability of everything but the largest class is smaller than this, the softmax over the others is
/// computed afresh from their own largest.
const RECOMPUTE_REST: f32 = 1e-30;

/// Work space for a row: a few rows of the catalogue.
pub struct Scratch {
    /// `[T, V]` probabilities.
    probabilities: Vec<f32>,
    /// `[T, V]` probabilities to the power gamma; empty where gamma is 1.
    powers: Vec<f32>,
    /// `[V]` sum over peers of what they teach.
    taught: Vec<f32>,
    /// `[V]` sum over peers of `p log p`, for divergences.
    entropies: Vec<f32>,
    /// `[V]` the ratio r.
    ratios: Vec<f32>,
    peaks: Vec<Peak>,
}

impl Scratch {
    pub fn new(peers: usize, catalogue: usize) -> Self {
        Self {
            probabilities: vec![0.0; peers * catalogue],
            powers: Vec::new(),
            taught: vec![0.0; catalogue],
            entropies: vec![0.0; catalogue],
            ratios: vec![0.0; catalogue],
            peaks: vec![Peak::default(); peers],
        }
    }
}

/// What a softmax is like around its largest class.
#[derive(Debug, Clone, Copy, Default)]
struct Peak {
    /// M.
    index: usize,
    /// `log Σ exp(z)`.
    log_sum: f64,
    /// `1 - p_M`.
    rest: f64,
    /// `-log(1 - p_M)`.
    minus_log_rest: f64,
    /// 1 over the sum of the others' exponentials relative to `second`.
    inverse_others: f32,
    /// What the others' exponentials are relative to.
    second: f32,
}

/// What a row is, beside its logits.
#[derive(Debug, Clone, Copy)]
pub struct RowInput {
    pub target: usize,
    pub truncated: bool,
    pub scale: f32,
}

/// `-log p_*`.
#[inline(always)]
pub fn cross_entropy(logits: &[f32], target: usize) -> f32 {
    let index = largest(logits);
    let peak = logits[index];
    let before = sum(&logits[..index], |z| exp(z - peak));
    let after = sum(&logits[index + 1..], |z| exp(z - peak));
    (f64::from(peak - logits[target]) + (before + after).ln_1p()) as f32
}

/// Replaces logits by their softmax.
#[inline(always)]
pub fn softmax(logits: &mut [f32]) {
    let peak = logits[largest(logits)];
    let inverse = (1.0 / sum(logits, |z| exp(z - peak))) as f32;
    logits.iter_mut().for_each(|z| *z = exp(*z - peak) * inverse);
}

/// Losses and gradients of all peers on a row: `logits[j]` becomes `scale` times the gradient of peer j's logits.
#[inline(always)]
pub fn all_peers(
    spec: &LossSpec,
    row: RowInput,
    logits: &mut [&mut [f32]],
    scratch: &mut Scratch,
    sums: &mut [PeerSums],
) {
    let catalogue = logits[0].len();
    for (peer, z) in logits.iter().enumerate() {
        let p = &mut scratch.probabilities[peer * catalogue..(peer + 1) * catalogue];
        scratch.peaks[peer] = probabilities(z, p);
    }
    if matches!(spec, LossSpec::Mutual { .. }) {
        scratch.entropies.fill(0.0);
        for (peer, z) in logits.iter().enumerate() {
            let p = &scratch.probabilities[peer * catalogue..(peer + 1) * catalogue];
            let (high, low) = split(scratch.peaks[peer].log_sum);
            for ((sum, p), z) in scratch.entropies.iter_mut().zip(p).zip(z.iter()) {
                *sum += p * ((z - high) - low);
            }
        }
    }
    let hearing = Hearing::prepare(spec, row, scratch, logits.len());
    for (peer, z) in logits.iter_mut().enumerate() {
        sums[peer] = one_peer(spec, row, peer, z, scratch, &hearing);
    }
}

/// The same where the other peers are known by their probabilities alone, `everyone[j]`: losses and gradients of the peers
/// `own`, whose logits are given.
#[inline(always)]
pub fn own_peers(
    spec: &LossSpec,
    row: RowInput,
    own: &[usize],
    logits: &mut [&mut [f32]],
    everyone: &[&[f32]],
    scratch: &mut Scratch,
    sums: &mut [PeerSums],
) {
    let catalogue = logits[0].len();
    for (peer, p) in everyone.iter().enumerate() {
        scratch.probabilities[peer * catalogue..(peer + 1) * catalogue].copy_from_slice(p);
        let index = largest(p);
        let rest = sum(&p[..index], |p| p) + sum(&p[index + 1..], |p| p);
        scratch.peaks[peer] = Peak { index, rest, ..Peak::default() };
    }
    for (peer, z) in own.iter().zip(logits.iter()) {
        let p = &mut scratch.probabilities[peer * catalogue..(peer + 1) * catalogue];
        scratch.peaks[*peer] = probabilities(z, p);
    }
    if matches!(spec, LossSpec::Mutual { .. }) {
        scratch.entropies.fill(0.0);
        for p in scratch.probabilities.chunks_exact(catalogue).take(everyone.len()) {
            for (sum, p) in scratch.entropies.iter_mut().zip(p) {
                // A class that has underflowed counts as its limit, 0.
                *sum += if *p > 0.0 { p * p.ln() } else { 0.0 };
            }
        }
    }
    let hearing = Hearing::prepare(spec, row, scratch, everyone.len());
    for (place, (peer, z)) in own.iter().zip(logits.iter_mut()).enumerate() {
        sums[place] = one_peer(spec, row, *peer, z, scratch, &hearing);
    }
}

/// What peers hear on a row, prepared once for all of them.
struct Hearing {
    peers: usize,
    /// Weight of the cross-entropy.
    hard: f32,
    /// Weight of the peers' terms: `(1-α)·m`.
    soft: f32,
    /// m.
    kept: f64,
    positive: bool,
    negative: bool,
    gamma: f64,
    /// For the minimum group: the least and the second least confident peer.
    least: Option<[usize; 2]>,
}

impl Hearing {
    #[inline(always)]
    fn prepare(spec: &LossSpec, row: RowInput, scratch: &mut Scratch, peers: usize) -> Self {
        let mut hearing =
            Self { peers, hard: 1.0, soft: 0.0, kept: 1.0, positive: false, negative: false, gamma: 1.0, least: None };
        if peers == 1 {
            return hearing;
        }
        let catalogue = scratch.taught.len();
        match *spec {
            LossSpec::CrossEntropy | LossSpec::ReweightedCrossEntropy { .. } => {}
            LossSpec::Mutual { alpha } => {
                hearing.hard = alpha.unwrap_or(1.0) as f32;
                hearing.soft = alpha.map_or(1.0, |alpha| 1.0 - alpha) as f32;
                add_up(&scratch.probabilities, &mut scratch.taught);
            }
            LossSpec::Exclusivity {
                alpha,
                gamma,
                teacher,
                positive_term,
                negative_term,
                truncate_ce,
                zero_pow_zero,
            } => {
                let truncated = row.truncated && !(zero_pow_zero && gamma == 0.0);
                hearing.hard = if row.truncated && truncate_ce { 0.0 } else { alpha as f32 };
                hearing.soft = if truncated { 0.0 } else { (1.0 - alpha) as f32 };
                hearing.kept = if truncated { 0.0 } else { 1.0 };
                hearing.positive = positive_term;
                hearing.negative = negative_term;
                hearing.gamma = gamma;
                if gamma != 1.0 {
                    raise(&scratch.probabilities, &mut scratch.powers, gamma as f32);
                }
                match teacher {
                    Teacher::Mean if gamma == 1.0 => add_up(&scratch.probabilities, &mut scratch.taught),
                    Teacher::Mean => add_up(&scratch.powers, &mut scratch.taught),
                    Teacher::MinimumGroup => {
                        let at_target = |peer: usize| scratch.probabilities[peer * catalogue + row.target];
                        hearing.least = Some(two_least(peers, at_target));
                    }
                }
            }
        }
        hearing
    }

    /// Whom a peer hears, where it is one other peer.
    #[inline(always)]
    fn teacher(&self, peer: usize) -> Option<usize> {
        self.least.map(|[first, second]| if peer == first { second } else { first })
    }

    /// The mean over those whom a peer hears of a function of the teacher.
    #[inline(always)]
    fn mean(&self, peer: usize, of: impl Fn(usize) -> f64) -> f64 {
        match self.teacher(peer) {
            Some(teacher) => of(teacher),
            None => (0..self.peers).filter(|c| *c != peer).map(of).sum::<f64>() / (self.peers - 1) as f64,
        }
    }
}

impl Scratch {
    /// Probabilities to the power gamma, `[T, V]`.
    #[inline(always)]
    fn beliefs(&self, gamma: f64) -> &[f32] {
        if gamma == 1.0 { &self.probabilities } else { &self.powers }
    }
}

/// Losses of one peer on a row; `z` becomes the gradient.
#[inline(always)]
fn one_peer(
    spec: &LossSpec,
    row: RowInput,
    peer: usize,
    z: &mut [f32],
    scratch: &mut Scratch,
    hearing: &Hearing,
) -> PeerSums {
    let cross_entropy = scratch.peaks[peer].log_sum - f64::from(z[row.target]);
    let mut sums = PeerSums { cross_entropy, total: cross_entropy, ..PeerSums::default() };
    match *spec {
        LossSpec::ReweightedCrossEntropy { exponent } => {
            let weight = (-exponent * cross_entropy).exp();
            sums.total = weight * cross_entropy;
            hard_gradient(z, row, peer, weight as f32, scratch);
        }
        LossSpec::Mutual { .. } if hearing.peers > 1 => {
            sums.divergence = divergence(z, peer, scratch, hearing);
            sums.total = f64::from(hearing.hard) * cross_entropy + f64::from(hearing.soft) * sums.divergence;
            mutual_gradient(z, row, peer, scratch, hearing);
        }
        LossSpec::Exclusivity { .. } if hearing.peers > 1 => exclusivity(z, row, peer, scratch, hearing, &mut sums),
        _ => hard_gradient(z, row, peer, 1.0, scratch),
    }
    sums
}

/// `dz = a (p - y)`.
#[inline(always)]
fn hard_gradient(z: &mut [f32], row: RowInput, peer: usize, weight: f32, scratch: &Scratch) {
    let p = &scratch.probabilities[peer * z.len()..(peer + 1) * z.len()];
    let factor = weight * row.scale;
    for (z, p) in z.iter_mut().zip(p) {
        *z = factor * p;
    }
    z[row.target] = -factor * one_minus(p[row.target], row.target, &scratch.peaks[peer]) as f32;
}

/// `1 - p_k` without cancellation at the largest class.
#[inline(always)]
fn one_minus(p: f32, k: usize, peak: &Peak) -> f64 {
    if k == peak.index { peak.rest } else { 1.0 - f64::from(p) }
}

/// Mean KL divergence of the other peers from this one, `1/(T-1) Σ_l Σ_k p^l_k (log p^l_k - log p_k)`; the difference is
/// taken class by class, where it cancels best.
#[inline(always)]
fn divergence(z: &[f32], peer: usize, scratch: &mut Scratch, hearing: &Hearing) -> f64 {
    let (high, low) = split(scratch.peaks[peer].log_sum);
    for ((term, taught), z) in scratch.ratios.iter_mut().zip(&scratch.taught).zip(z) {
        *term = taught * ((z - high) - low);
    }
    sum_of(&scratch.entropies, &scratch.ratios, |entropy, term| entropy - term) / (hearing.peers - 1) as f64
}

/// `dz = a (p - y) + b (p - mean of the others)`.
#[inline(always)]
fn mutual_gradient(z: &mut [f32], row: RowInput, peer: usize, scratch: &Scratch, hearing: &Hearing) {
    let catalogue = z.len();
    let p = &scratch.probabilities[peer * catalogue..(peer + 1) * catalogue];
    let share = 1.0 / (hearing.peers - 1) as f32;
    let (hard, soft) = (row.scale * hearing.hard, row.scale * hearing.soft);
    for ((z, p), taught) in z.iter_mut().zip(p).zip(&scratch.taught) {
        *z = hard * p + soft * (p - (taught - p) * share);
    }
    let peak = &scratch.peaks[peer];
    // Where p is near 1 for everybody, what it differs by is what everybody's rest differs by.
    let theirs = hearing
        .mean(peer, |c| one_minus(scratch.probabilities[c * catalogue + peak.index], peak.index, &scratch.peaks[c]));
    z[peak.index] = hard * p[peak.index] + soft * (theirs - peak.rest) as f32;
    let at_target = if row.target == peak.index {
        soft * (theirs - peak.rest) as f32
    } else {
        z[row.target] - hard * p[row.target]
    };
    z[row.target] = at_target - hard * one_minus(p[row.target], row.target, peak) as f32;
}

/// Mutual exclusivity distillation; the module's documentation has the equations.
#[inline(always)]
fn exclusivity(
    z: &mut [f32],
    row: RowInput,
    peer: usize,
    scratch: &mut Scratch,
    hearing: &Hearing,
    sums: &mut PeerSums,
) {
    let (catalogue, target) = (z.len(), row.target);
    let peak = scratch.peaks[peer];
    let largest = peak.index;
    let unlikelihood = hearing.mean(peer, |c| {
        one_minus(scratch.probabilities[c * catalogue + target], target, &scratch.peaks[c]).powf(hearing.gamma)
    });
    let heard_at_largest = match largest == target {
        true => 0.0,
        false => hearing.mean(peer, |c| f64::from(scratch.beliefs(hearing.gamma)[c * catalogue + largest])),
    };
    let mine = peer * catalogue..(peer + 1) * catalogue;
    let p_largest = scratch.probabilities[largest + mine.start];
    let p_target = scratch.probabilities[target + mine.start];
    // Target and largest class are dealt with by themselves: with p = 0 they add nothing to the sweep.
    scratch.probabilities[mine.start + largest] = 0.0;
    scratch.probabilities[mine.start + target] = 0.0;
    let (heard, ratio) = match hearing.teacher(peer) {
        Some(teacher) => from_one(peer, teacher, hearing.gamma, catalogue, scratch),
        None => from_mean(peer, hearing, catalogue, scratch),
    };
    scratch.probabilities[mine.start + largest] = p_largest;
    scratch.probabilities[mine.start + target] = p_target;

    sums.positive = hearing.kept * unlikelihood * sums.cross_entropy;
    sums.negative = hearing.kept * (heard + heard_at_largest * peak.minus_log_rest);
    let soft = f64::from(hearing.soft);
    let (keep_positive, keep_negative) = (f64::from(u8::from(hearing.positive)), f64::from(u8::from(hearing.negative)));
    sums.total = f64::from(hearing.hard) * sums.cross_entropy
        + soft * (keep_positive * sums.positive + keep_negative * sums.negative);

    let a = f64::from(hearing.hard) + soft * keep_positive * unlikelihood;
    let weight = soft * keep_negative;
    let at_largest = weight * heard_at_largest * f64::from(p_largest);
    let ratios = weight * ratio;
    let scale = f64::from(row.scale);
    let p = &scratch.probabilities[mine];
    // dz_l = a p_l + w r_l - p_l Σ r - w_M p_M s_l for l other than M and the target, s_l being exp(z_l - second) / others.
    let (on_p, on_ratio) = ((scale * (a - ratios)) as f32, (scale * weight) as f32);
    let on_others = (scale * at_largest) as f32 * peak.inverse_others;
    let z_target = z[target];
    if at_largest == 0.0 {
        for ((z, p), r) in z.iter_mut().zip(p).zip(&scratch.ratios) {
            *z = on_p * p + on_ratio * r;
        }
    } else {
        for ((z, p), r) in z.iter_mut().zip(p).zip(&scratch.ratios) {
            *z = on_p * p + on_ratio * r - on_others * exp(*z - peak.second);
        }
    }
    z[largest] = (scale * (a * f64::from(p_largest) + at_largest - f64::from(p_largest) * ratios)) as f32;
    let share = f64::from(on_others) * f64::from(exp(z_target - peak.second));
    let pulled = -a * one_minus(p_target, target, &peak) - f64::from(p_target) * ratios;
    z[target] = (scale * pulled - if target == largest { 0.0 } else { share }) as f32;
}

/// The sweep over the classes for one teacher: `Σ q_k (-log(1-p_k))` and `Σ r_k` with `r_k = q_k p_k / (1-p_k)`, which is
/// kept.
#[inline(always)]
fn from_one(peer: usize, teacher: usize, gamma: f64, catalogue: usize, scratch: &mut Scratch) -> (f64, f64) {
    let Scratch { probabilities, powers, ratios, .. } = scratch;
    let beliefs: &[f32] = if gamma == 1.0 { probabilities } else { powers };
    ratios.copy_from_slice(&beliefs[teacher * catalogue..(teacher + 1) * catalogue]);
    sweep(&probabilities[peer * catalogue..(peer + 1) * catalogue], ratios)
}

/// The same for the mean of the other peers.
#[inline(always)]
fn from_mean(peer: usize, hearing: &Hearing, catalogue: usize, scratch: &mut Scratch) -> (f64, f64) {
    let Scratch { probabilities, powers, ratios, taught, .. } = scratch;
    let share = 1.0 / (hearing.peers - 1) as f32;
    let p = &probabilities[peer * catalogue..(peer + 1) * catalogue];
    let own = if hearing.gamma == 1.0 { p } else { &powers[peer * catalogue..(peer + 1) * catalogue] };
    for ((q, all), own) in ratios.iter_mut().zip(taught.iter()).zip(own) {
        let others = all - own;
        *q = if others > 0.0 { others * share } else { 0.0 };
    }
    sweep(p, ratios)
}

/// Turns `q` into `r`.
#[inline(always)]
fn sweep(p: &[f32], q: &mut [f32]) -> (f64, f64) {
    for (q, p) in q.iter_mut().zip(p) {
        *q *= p / (1.0 - p);
    }
    // q (-log(1-p)) = r · (1-p)/p · (-log(1-p))
    (sum_of(q, p, |r, p| r * minus_log_over_odds(p)), sum(q, |r| r))
}

/// `-log(1-p) (1-p) / p` for p in [0, 1/2]; 1 at 0.
#[inline(always)]
fn minus_log_over_odds(p: f32) -> f32 {
    let safe = if p < 1e-30 { 1e-30 } else { p };
    minus_log_one_minus(safe) * (1.0 - safe) / safe
}

/// Softmax of `z` into `p`, and what it is like around its largest class.
#[inline(always)]
fn probabilities(z: &[f32], p: &mut [f32]) -> Peak {
    let index = largest(z);
    let logit = z[index];
    for (p, z) in p.iter_mut().zip(z) {
        *p = exp(z - logit);
    }
    p[index] = 0.0;
    let mut others = sum(p, |p| p);
    let total = 1.0 + others;
    let inverse = (1.0 / total) as f32;
    p.iter_mut().for_each(|p| *p *= inverse);
    p[index] = inverse;
    let (mut second, mut shift) = (logit, 0.0);
    if others < f64::from(RECOMPUTE_REST) && z.len() > 1 {
        second = z.iter().enumerate().filter(|(k, _)| *k != index).map(|(_, z)| *z).fold(f32::NEG_INFINITY, f32::max);
        shift = f64::from(logit - second);
        others = z.iter().enumerate().filter(|(k, _)| *k != index).map(|(_, z)| f64::from(z - second).exp()).sum();
    }
    let rest = (others * (-shift).exp()) / total;
    Peak {
        index,
        log_sum: f64::from(logit) + (others * (-shift).exp()).ln_1p(),
        rest,
        minus_log_rest: shift + total.ln() - others.ln(),
        inverse_others: (1.0 / others) as f32,
        second,
    }
}

/// Adds rows up: `[T, V]` to `[V]`.
#[inline(always)]
fn add_up(rows: &[f32], sum: &mut [f32]) {
    sum.fill(0.0);
    for row in rows.chunks_exact(sum.len()) {
        for (sum, value) in sum.iter_mut().zip(row) {
            *sum += value;
        }
    }
}

/// `p^gamma`, with `0^0 = 1`.
#[inline(always)]
fn raise(p: &[f32], powers: &mut Vec<f32>, gamma: f32) {
    powers.resize(p.len(), 0.0);
    let pairs = powers.iter_mut().zip(p);
    // The exponents that PeerRec searches are cheap.
    match gamma {
        0.0 => powers.fill(1.0),
        0.5 => pairs.for_each(|(power, p)| *power = p.sqrt()),
        1.5 => pairs.for_each(|(power, p)| *power = p * p.sqrt()),
        2.0 => pairs.for_each(|(power, p)| *power = p * p),
        _ => pairs.for_each(|(power, p)| *power = p.powf(gamma)),
    }
}

/// The peers with the smallest and the second smallest value; of equals the lower index comes first.
#[inline(always)]
fn two_least(peers: usize, value: impl Fn(usize) -> f32) -> [usize; 2] {
    let (mut first, mut second) = if value(1) < value(0) { (1, 0) } else { (0, 1) };
    for peer in 2..peers {
        if value(peer) < value(first) {
            (first, second) = (peer, first);
        } else if value(peer) < value(second) {
            second = peer;
        }
    }
    [first, second]
}

/// The first of the largest values.
#[inline(always)]
fn largest(values: &[f32]) -> usize {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = values.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane = if *value > *lane { *value } else { *lane };
        }
    }
    let most = lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max);
    values.iter().position(|value| *value == most).unwrap_or(0)
}

/// A sum of a function of pairs, in a fixed order: lanes first, then across them in double precision.
#[inline(always)]
fn sum_of(left: &[f32], right: &[f32], of: impl Fn(f32, f32) -> f32) -> f64 {
    let (left_chunks, left_rest) = left.as_chunks::<LANES>();
    let (right_chunks, right_rest) = right.as_chunks::<LANES>();
    let mut lanes = [0.0f32; LANES];
    for (left, right) in left_chunks.iter().zip(right_chunks) {
        for lane in 0..LANES {
            lanes[lane] += of(left[lane], right[lane]);
        }
    }
    let rest: f64 = left_rest.iter().zip(right_rest).map(|(left, right)| f64::from(of(*left, *right))).sum();
    lanes.iter().copied().map(f64::from).sum::<f64>() + rest
}

/// A sum of a function of values, in the same order.
#[inline(always)]
fn sum(values: &[f32], of: impl Fn(f32) -> f32) -> f64 {
    sum_of(values, values, |value, _| of(value))
}

/// A number as a float and its remainder.
#[inline(always)]
fn split(number: f64) -> (f32, f32) {
    let high = number as f32;
    (high, (number - f64::from(high)) as f32)
}
