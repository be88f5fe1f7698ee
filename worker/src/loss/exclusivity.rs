//! One row of cross-entropy and of mutual exclusivity distillation, for all peers: losses, and gradients in the place
//! of the logits.
//!
//! With a = α + (1-α) m u and w_k = (1-α) m q_k (0 for the target), the gradient of HAIL's eqs 5-12 is
//!
//! ```text
//! r_k  = w_k p_k / (1 - p_k)
//! dz_k = a (p_k - y_k) + r_k - p_k Σ_l r_l
//! ```
//!
//! The largest class M of the row is taken out of r: 1 - p_M is a sum, not a difference, and r_M - p_M r_M is
//! w_M p_M, however large r_M is; the other classes receive - w_M p_M s_k, s being the softmax without M.

use super::row::{Others, Row, Scratch};
use super::softmax::{SoftmaxRow, exponentiate, powers_of_logits, powers_of_probabilities, scale, weighted_sum};
use super::spec::{Exclusivity, Teacher};
use super::sums::PeerLosses;
use super::teachers::{one_minus_target, two_hardest};
use crate::simd::elementary::neg_log1m_and_inverse;
use crate::simd::lanes::{LaneSum, Lanes, load, store, sweep};

/// Cross-entropy with a constant weight on the row: `weight_of` the peer's softmax for the total, `ce_factor` for the
/// reported cross-entropy.
#[inline(always)]
pub(super) fn cross_entropy_row<L: Lanes>(row: &mut Row<'_, '_>, exponent: f64, ce_factor: f64, scratch: &mut Scratch) {
    for (own, logits) in row.own.iter_mut().enumerate() {
        let softmax = exponentiate::<L>(logits, row.target);
        scratch.softmax[own] = softmax;
        let a = if exponent == 0.0 { ce_factor } else { ce_factor * softmax.p_target.powf(exponent) };
        let pull = Pull { a, ..Pull::default() };
        write_gradient::<L>(logits, &softmax, row.target, row.scale, &pull, None);
        scratch.losses[own] = PeerLosses {
            ce: ce_factor * softmax.cross_entropy,
            total: a * softmax.cross_entropy,
            ..Default::default()
        };
    }
}

/// The loss of [`Exclusivity`] with at least two peers.
#[inline(always)]
pub(super) fn exclusivity_row<L: Lanes>(spec: &Exclusivity, row: &mut Row<'_, '_>, scratch: &mut Scratch) {
    let (peers, target) = (row.peers, row.target);
    let keeps = spec.keeps(row.truncated);
    let ce_factor = if spec.truncate_ce && row.truncated { 0.0 } else { 1.0 };
    let with_negatives = keeps && spec.negative_term;
    let plain_power = spec.gamma == 1.0;

    // 1. The softmax of the own peers, and where γ asks for it everybody's p^γ.
    for (own, logits) in row.own.iter_mut().enumerate() {
        let keep_logits = with_negatives && !plain_power && matches!(row.others, Others::Logits);
        if keep_logits {
            scratch.rows[own].copy_from_slice(logits);
        }
        scratch.softmax[own] = exponentiate::<L>(logits, target);
        if keep_logits {
            powers_of_logits::<L>(&mut scratch.rows[own], &scratch.softmax[own], spec.gamma);
        }
    }
    if let (true, false, Others::Probabilities(everyone)) = (with_negatives, plain_power, &row.others) {
        for (probabilities, powers) in everyone.iter().zip(&mut scratch.rows) {
            powers_of_probabilities::<L>(probabilities, spec.gamma, powers);
        }
    }

    // 2. Who teaches whom, and the weight 1 - p_* of the positive term.
    for peer in 0..peers {
        let (difficulty, not_target) = match &row.others {
            Others::Logits => (scratch.softmax[peer].cross_entropy, scratch.softmax[peer].p_not_target),
            Others::Probabilities(everyone) => {
                (-f64::from(everyone[peer][target]), one_minus_target::<L>(everyone[peer], target))
            }
        };
        scratch.difficulty[peer] = difficulty;
        scratch.unlikelihood[peer] = not_target.powf(spec.gamma);
    }
    let all_teach = spec.teacher == Teacher::Mean && peers > 2;
    let (hardest, second) = two_hardest(&scratch.difficulty[..peers]);
    // With two peers the mean over the others is the other peer, as in a group of one.
    let teacher_of = |peer: usize| if peer == hardest { second } else { hardest };
    let norm = if all_teach { 1.0 / (peers - 1) as f64 } else { 1.0 };

    // 3. The rows of weights q, summed over the teachers, and their entry for each own peer's largest class, which is
    // summed over the other peers themselves: sum minus own would lose all digits there.
    if with_negatives {
        let sources = Sources { row, softmax: &scratch.softmax, powers: (!plain_power).then_some(&scratch.rows) };
        for (own, &peer) in row.own_peers.iter().enumerate() {
            let class = scratch.softmax[own].largest;
            let mut weight = 0.0;
            if all_teach {
                for other in (0..peers).filter(|&other| other != peer) {
                    weight += sources.at(other, class);
                }
            } else {
                weight = sources.at(teacher_of(peer), class);
            }
            scratch.largest_weight[own] = weight;
        }
        if all_teach {
            scratch.sources_sum::<L>(row, !plain_power, 0..peers, false);
        } else {
            scratch.sources_sum::<L>(row, !plain_power, hardest..hardest + 1, false);
            if row.own_peers.contains(&hardest) {
                scratch.sources_sum::<L>(row, !plain_power, second..second + 1, true);
            }
        }
    }

    // 4. Each own peer's losses and gradient.
    for (own, &peer) in row.own_peers.iter().enumerate() {
        let softmax = scratch.softmax[own];
        let logits = &mut *row.own[own];
        let mut losses = PeerLosses { ce: ce_factor * softmax.cross_entropy, ..PeerLosses::default() };
        let mut pull = Pull { a: spec.alpha * ce_factor, share: (1.0 - spec.alpha) * norm, ..Pull::default() };

        if keeps && spec.positive_term {
            let mut unlikelihood = 0.0;
            if all_teach {
                for other in (0..peers).filter(|&other| other != peer) {
                    unlikelihood += scratch.unlikelihood[other];
                }
            } else {
                unlikelihood = scratch.unlikelihood[teacher_of(peer)];
            }
            losses.pos = norm * unlikelihood * softmax.cross_entropy;
            pull.a += pull.share * unlikelihood;
        }
        if with_negatives {
            let weights = if !all_teach && peer == hardest { &scratch.second_sum } else { &scratch.sum };
            let exponential_of_target = std::mem::replace(&mut logits[target], 0.0);
            let exponentials = &*logits;
            let (own_weights, own_factor) = match (&row.others, all_teach) {
                (_, false) => (exponentials, 0.0),
                (_, true) if !plain_power => (&*scratch.rows[peer], 1.0),
                (Others::Logits, true) => (exponentials, softmax.factor as f32),
                (Others::Probabilities(everyone), true) => (everyone[peer], 1.0),
            };
            let negatives = Negatives { exponentials, factor: softmax.factor as f32, weights, own_weights, own_factor };
            let (loss, sum_of_r) = negatives.evaluate::<L>(&mut scratch.terms);
            logits[target] = exponential_of_target;

            losses.neg = norm * loss;
            pull.sum_of_r = sum_of_r;
            let weight = scratch.largest_weight[own];
            if softmax.largest != target && weight > 0.0 {
                losses.neg += norm * weight * softmax.neg_log_others;
                pull.largest = weight * softmax.p_largest;
            }
        }
        losses.total = spec.alpha * losses.ce + (1.0 - spec.alpha) * (losses.pos + losses.neg);
        scratch.losses[own] = losses;
        let terms = with_negatives.then_some(&*scratch.terms);
        write_gradient::<L>(logits, &softmax, target, row.scale, &pull, terms);
    }
}

/// Reads one weight q of one peer.
struct Sources<'s, 'r, 'a> {
    row: &'s Row<'r, 'a>,
    softmax: &'s [SoftmaxRow],
    powers: Option<&'s Vec<Vec<f32>>>,
}

impl Sources<'_, '_, '_> {
    #[inline(always)]
    fn at(&self, peer: usize, class: usize) -> f64 {
        match (self.powers, &self.row.others) {
            (Some(powers), _) => f64::from(powers[peer][class]),
            (None, Others::Logits) => self.softmax[peer].probability(&*self.row.own[peer], class),
            (None, Others::Probabilities(everyone)) => f64::from(everyone[peer][class]),
        }
    }
}

impl Scratch {
    /// Σ over some teachers of their rows of weights, into `sum` or `second_sum`.
    #[inline(always)]
    fn sources_sum<L: Lanes>(
        &mut self,
        row: &Row<'_, '_>,
        powers: bool,
        teachers: std::ops::Range<usize>,
        into_second: bool,
    ) {
        let into = if into_second { &mut self.second_sum } else { &mut self.sum };
        let mut sources: Vec<(&[f32], f32)> = Vec::with_capacity(teachers.len());
        for peer in teachers.clone() {
            sources.push(match &row.others {
                _ if powers => (&self.rows[peer], 1.0),
                Others::Logits => (&*row.own[peer], self.softmax[peer].factor as f32),
                Others::Probabilities(everyone) => (everyone[peer], 1.0),
            });
        }
        weighted_sum::<L>(&sources, into);
        if let (false, Others::Logits) = (powers, &row.others) {
            for softmax in &self.softmax[teachers] {
                into[softmax.largest] += softmax.p_largest as f32;
            }
        }
    }
}

/// The negative term over all classes but the largest and the target, whose exponentials are 0 here.
struct Negatives<'a> {
    exponentials: &'a [f32],
    factor: f32,
    weights: &'a [f32],
    own_weights: &'a [f32],
    own_factor: f32,
}

impl Negatives<'_> {
    /// `(Σ -w log(1-p), Σ r)` with `w = max(weights - own_factor own_weights, 0)`; every r to `terms`.
    #[inline(always)]
    fn evaluate<L: Lanes>(&self, terms: &mut [f32]) -> (f64, f64) {
        let (factor, own_factor) = (L::splat(self.factor), L::splat(-self.own_factor));
        let zero = L::splat(0.0);
        let (mut loss, mut sum_of_r) = (LaneSum::<L>::new(), LaneSum::<L>::new());
        sweep!(L, terms.len(), |at, FULL| {
            let p = load::<L, FULL>(self.exponentials, at, 0.0).mul(factor);
            let own = load::<L, FULL>(self.own_weights, at, 0.0);
            let weight = zero.max(own.mul_add(own_factor, load::<L, FULL>(self.weights, at, 0.0)));
            let (neg_log1m, inverse) = neg_log1m_and_inverse(p);
            let r = weight.mul(p).mul(inverse);
            loss.add_product(weight, neg_log1m);
            sum_of_r.add(r);
            store::<L, FULL>(r, terms, at);
        });
        (loss.total(), sum_of_r.total())
    }
}

/// What moves a peer's logits on a row.
#[derive(Default)]
struct Pull {
    /// a, the weight of p - y.
    a: f64,
    /// (1 - α) m over the number of teachers: the factor of everything below.
    share: f64,
    /// Σ_k r_k without the largest class.
    sum_of_r: f64,
    /// w_M p_M.
    largest: f64,
}

/// Puts the gradient, times `row_scale`, in the place of the exponentials.
#[inline(always)]
fn write_gradient<L: Lanes>(
    exponentials: &mut [f32],
    softmax: &SoftmaxRow,
    target: usize,
    row_scale: f64,
    pull: &Pull,
    terms: Option<&[f32]>,
) {
    let Pull { a, share, sum_of_r, largest } = *pull;
    let mut slope = softmax.factor * (a - share * sum_of_r);
    if softmax.exponentials > 0.0 {
        slope -= share * largest / softmax.exponentials;
    }
    let slope = (row_scale * slope) as f32;
    match terms {
        None => scale::<L>(exponentials, slope),
        Some(terms) => {
            let (slope, term_scale) = (L::splat(slope), L::splat((row_scale * share) as f32));
            sweep!(L, exponentials.len(), |at, FULL| {
                let term = load::<L, FULL>(terms, at, 0.0).mul(term_scale);
                store::<L, FULL>(load::<L, FULL>(exponentials, at, 0.0).mul_add(slope, term), exponentials, at);
            });
        }
    }
    let p = softmax.p_largest;
    let distance = if softmax.largest == target { -softmax.p_others } else { p };
    exponentials[softmax.largest] = (row_scale * (a * distance + share * (largest - p * sum_of_r))) as f32;
    if softmax.largest != target {
        exponentials[target] -= (row_scale * a) as f32;
    }
}
