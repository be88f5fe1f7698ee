//! Multi-head scaled dot-product attention within one sequence (HAIL eqs 1-2; scores scaled by the root of a head's width, as
//! in the released code), forward and backward.
//!
//! Weights are never stored: the backward pass computes them anew from the logarithm of each row's sum of exponentials, a
//! few query rows at a time (as FlashAttention does: Dao et al., NeurIPS'22). Dropout's masks come again from their key.

use super::blocks::Place;
use super::passes::run;
use crate::caches;
use crate::matrix::{Matrix, MatrixMut, Write, product};
use crate::simd::elementary::exp;
use crate::simd::keep::Keep;
use crate::simd::lanes::{Lanes, Task, load, store, sweep};
use medley_common::config::Precision;

/// Scores worked on at once as a share of a core's second-level cache: with their gradients they fill half of it.
const SCORES_SHARE: usize = 4;

/// Attention of one layer.
#[derive(Clone, Copy)]
pub struct Attention {
    /// d.
    pub dimension: usize,
    /// Heads; they divide d.
    pub heads: usize,
    /// Whether a position sees earlier ones and itself only.
    pub causal: bool,
    /// Dropout on the weights.
    pub keep: Keep,
    /// Of the products.
    pub precision: Precision,
}

/// Buffers of a thread.
#[derive(Default)]
pub struct Scratch {
    scores: Vec<f32>,
    changes: Vec<f32>,
    inverse: Vec<f32>,
}

/// One sequence in attention: q queries among n positions.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    /// `[q, d]`.
    pub queries: &'a [f32],
    /// `[n, 2d]`: keys, then values.
    pub keys_values: &'a [f32],
    /// Where the queries stand, ascending; `[q]`.
    pub places: &'a [Place],
}

impl Attention {
    /// Writes the mixed values `[q, d]`, and the logarithms of the sums of exponentials, `[heads, q]`.
    pub fn forward(&self, inputs: Inputs<'_>, mixed: &mut [f32], log_sums: &mut [f32], scratch: &mut Scratch) {
        let (d, count) = (self.dimension, inputs.places.len());
        let width = d / self.heads;
        for head in 0..self.heads {
            for part in self.parts(&inputs) {
                let rows = part.end - part.start;
                let scores = sized(&mut scratch.scores, rows * part.keys);
                let inverse = sized(&mut scratch.inverse, rows);
                self.scores(&inputs, head, &part, scores);
                run(Weights {
                    attention: *self,
                    head,
                    scores,
                    keys: part.keys,
                    places: &inputs.places[part.start..part.end],
                    log_sums: &mut log_sums[head * count + part.start..][..rows],
                    inverse,
                });
                let values = Matrix::strided(&inputs.keys_values[d + head * width..], part.keys, width, 2 * d);
                let into = &mut mixed[part.start * d + head * width..];
                let weights = Matrix::new(scores, rows, part.keys);
                product(self.precision, &mut MatrixMut::strided(into, rows, width, d), Write::Over, weights, values);
                run(ScaleRows { rows: into, width, stride: d, factors: inverse });
            }
        }
    }

    /// Back from the gradient of the mixed values: writes that of the queries, `[q, d]`, and adds that of keys and
    /// values, `[n, 2d]`.
    #[allow(clippy::too_many_arguments)]
    pub fn backward(
        &self,
        inputs: Inputs<'_>,
        mixed: &[f32],
        log_sums: &[f32],
        mixed_gradient: &[f32],
        queries_gradient: &mut [f32],
        keys_values_gradient: &mut [f32],
        scratch: &mut Scratch,
    ) {
        let (d, count) = (self.dimension, inputs.places.len());
        let width = d / self.heads;
        for head in 0..self.heads {
            for part in self.parts(&inputs) {
                let rows = part.end - part.start;
                let scores = sized(&mut scratch.scores, rows * part.keys);
                let changes = sized(&mut scratch.changes, rows * part.keys);
                self.scores(&inputs, head, &part, scores);
                let first = part.start * d + head * width;
                let gradient = Matrix::strided(&mixed_gradient[first..], rows, width, d);
                let values = Matrix::strided(&inputs.keys_values[d + head * width..], part.keys, width, 2 * d);
                product(
                    self.precision,
                    &mut MatrixMut::new(changes, rows, part.keys),
                    Write::Over,
                    gradient,
                    values.transposed(),
                );
                run(WeightsBackward {
                    attention: *self,
                    head,
                    scores,
                    changes,
                    keys: part.keys,
                    places: &inputs.places[part.start..part.end],
                    log_sums: &log_sums[head * count + part.start..][..rows],
                    mixed: &mixed[first..],
                    mixed_gradient: &mixed_gradient[first..],
                });
                let weights = Matrix::new(scores, rows, part.keys);
                let changes = Matrix::new(changes, rows, part.keys);
                let queries = Matrix::strided(&inputs.queries[first..], rows, width, d);
                let keys = Matrix::strided(&inputs.keys_values[head * width..], part.keys, width, 2 * d);
                let into = &mut MatrixMut::strided(&mut queries_gradient[first..], rows, width, d);
                product(self.precision, into, Write::Over, changes, keys);
                let into = &mut keys_values_gradient[head * width..];
                let into = &mut MatrixMut::strided(into, part.keys, width, 2 * d);
                product(self.precision, into, Write::Add, changes.transposed(), queries);
                let into = &mut keys_values_gradient[d + head * width..];
                let into = &mut MatrixMut::strided(into, part.keys, width, 2 * d);
                product(self.precision, into, Write::Add, weights.transposed(), gradient);
            }
        }
    }

    /// Query rows worked on together, and the keys that any of them sees.
    fn parts(&self, inputs: &Inputs<'_>) -> impl Iterator<Item = Part> + use<> {
        let (count, all) = (inputs.places.len(), inputs.keys_values.len() / (2 * self.dimension));
        let scores = caches::second_level() / (4 * SCORES_SHARE);
        let step = (scores / all.max(1)).clamp(8, count.max(8));
        let last: Vec<usize> = inputs.places.iter().map(|place| place.position as usize + 1).collect();
        let causal = self.causal;
        (0..count).step_by(step).map(move |start| {
            let end = count.min(start + step);
            Part { start, end, keys: if causal { last[end - 1] } else { all } }
        })
    }

    /// Products of queries and keys, `[rows, keys]`.
    fn scores(&self, inputs: &Inputs<'_>, head: usize, part: &Part, into: &mut [f32]) {
        let (d, rows) = (self.dimension, part.end - part.start);
        let width = d / self.heads;
        let queries = Matrix::strided(&inputs.queries[part.start * d + head * width..], rows, width, d);
        let keys = Matrix::strided(&inputs.keys_values[head * width..], part.keys, width, 2 * d);
        product(self.precision, &mut MatrixMut::new(into, rows, part.keys), Write::Over, queries, keys.transposed());
    }

    /// The dropout of a head's weights.
    pub fn of_head(&self, head: usize) -> Keep {
        self.keep.site(head as u64)
    }

    fn scale(&self) -> f32 {
        1.0 / ((self.dimension / self.heads) as f32).sqrt()
    }

    /// How many of a part's keys a query sees.
    fn visible(&self, place: Place, keys: usize) -> usize {
        if self.causal { place.position as usize + 1 } else { keys }
    }
}

struct Part {
    start: usize,
    end: usize,
    keys: usize,
}

/// The first `length` values of a buffer that grows when needed; what they are is up to its last user.
pub fn sized(buffer: &mut Vec<f32>, length: usize) -> &mut [f32] {
    if buffer.len() < length {
        buffer.resize(length, 0.0);
    }
    &mut buffer[..length]
}

/// Scores become weights with dropout, not yet divided by their sum; `inverse` is 1 / the sum.
struct Weights<'a> {
    attention: Attention,
    head: usize,
    scores: &'a mut [f32],
    keys: usize,
    places: &'a [Place],
    log_sums: &'a mut [f32],
    inverse: &'a mut [f32],
}

impl Task for Weights<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self) {
        let scale = self.attention.scale();
        let site = self.attention.of_head(self.head);
        let outputs = self.log_sums.iter_mut().zip(self.inverse.iter_mut());
        for ((row, place), (log_sum, inverse)) in self.scores.chunks_exact_mut(self.keys).zip(self.places).zip(outputs)
        {
            let seen = self.attention.visible(*place, self.keys);
            let keep = site.row(place.sequence, place.position);
            let mut most = L::splat(f32::NEG_INFINITY);
            sweep!(L, seen, |at, FULL| {
                most = most.max(load::<L, FULL>(&row[..seen], at, f32::NEG_INFINITY));
            });
            let most = most.greatest() * scale;
            let (factor, shift) = (L::splat(scale), L::splat(-most));
            let mut sum = L::splat(0.0);
            sweep!(L, seen, |at, FULL| {
                let weight = exp(load::<L, FULL>(&row[..seen], at, f32::NEG_INFINITY).mul_add(factor, shift));
                sum = sum.add(weight);
                let kept = if site.is_active() { weight.mul(keep.factors(at)) } else { weight };
                store::<L, FULL>(kept, &mut row[..seen], at);
            });
            row[seen..].fill(0.0);
            let sum = sum.sum();
            *log_sum = most + sum.ln();
            *inverse = 1.0 / sum;
        }
    }
}

/// `rows[r] *= factors[r]`, for rows of `width` values that begin `stride` apart.
struct ScaleRows<'a> {
    rows: &'a mut [f32],
    width: usize,
    stride: usize,
    factors: &'a [f32],
}

impl Task for ScaleRows<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self) {
        for (row, factor) in self.rows.chunks_mut(self.stride).zip(self.factors) {
            let (row, factor) = (&mut row[..self.width], L::splat(*factor));
            sweep!(L, self.width, |at, FULL| {
                store::<L, FULL>(load::<L, FULL>(row, at, 0.0).mul(factor), row, at);
            });
        }
    }
}

/// Scores become weights with dropout, and the gradients of those in `changes` the gradients of the scores. With P the
/// weights, M dropout's factors and G the gradient of P M: dS = P (M G - Σ_k P M G) scale, whose sum over the keys is the
/// product of the mixed values and their gradient.
struct WeightsBackward<'a> {
    attention: Attention,
    head: usize,
    scores: &'a mut [f32],
    changes: &'a mut [f32],
    keys: usize,
    places: &'a [Place],
    log_sums: &'a [f32],
    mixed: &'a [f32],
    mixed_gradient: &'a [f32],
}

impl Task for WeightsBackward<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self) {
        let (d, width) = (self.attention.dimension, self.attention.dimension / self.attention.heads);
        let scale = self.attention.scale();
        let site = self.attention.of_head(self.head);
        let rows = self.scores.chunks_exact_mut(self.keys).zip(self.changes.chunks_exact_mut(self.keys));
        let mixes = self.mixed.chunks(d).zip(self.mixed_gradient.chunks(d));
        for ((((row, change), place), log_sum), (mixed, gradient)) in
            rows.zip(self.places).zip(self.log_sums).zip(mixes)
        {
            let mut along = L::splat(0.0);
            sweep!(L, width, |at, FULL| {
                let mixed = load::<L, FULL>(&mixed[..width], at, 0.0);
                along = load::<L, FULL>(&gradient[..width], at, 0.0).mul_add(mixed, along);
            });
            let along = L::splat(along.sum());
            let seen = self.attention.visible(*place, self.keys);
            let keep = site.row(place.sequence, place.position);
            let (factor, shift) = (L::splat(scale), L::splat(-*log_sum));
            sweep!(L, seen, |at, FULL| {
                let weight = exp(load::<L, FULL>(&row[..seen], at, 0.0).mul_add(factor, shift));
                let (mut kept, mut back) = (weight, load::<L, FULL>(&change[..seen], at, 0.0));
                if site.is_active() {
                    let keep = keep.factors(at);
                    kept = kept.mul(keep);
                    back = back.mul(keep);
                }
                store::<L, FULL>(kept, &mut row[..seen], at);
                store::<L, FULL>(back.sub(along).mul(weight).mul(factor), &mut change[..seen], at);
            });
            row[seen..].fill(0.0);
            change[seen..].fill(0.0);
        }
    }
}
