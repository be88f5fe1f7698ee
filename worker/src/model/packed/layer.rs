//! One encoder layer on one block of sequences, forward and backward (HAIL eqs 1-4).
//!
//! Shapes: the block has n tokens, of which q are asked for (`queries`): all of them, but in the last layer only the
//! positions to predict, since nothing reads the others. Keys and values come from all n.

use super::attention::{Attention, Inputs, Scratch as AttentionScratch, sized};
use super::blocks::{Block, Place, Sequence};
use super::norm::{self, Normalized};
use super::parameters::{Gradients, Weights};
use super::passes::{Add, Residual, ThroughKeep, run};
use super::sublayers::{matrix, split};
use crate::matrix::{Matrix, MatrixMut, Write, product};
use crate::simd::keep::Keep;
use medley_common::config::{NormPlacement, Precision};
use std::ops::Range;

/// Which tokens of a block a layer computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queries {
    /// All.
    Tokens,
    /// The positions to predict.
    Rows,
}

/// A layer of some peer, in some step.
#[derive(Clone, Copy)]
pub struct Layer<'a> {
    pub weights: Weights<'a>,
    pub dimension: usize,
    pub heads: usize,
    pub causal: bool,
    pub norm: NormPlacement,
    pub keep: Keep,
    pub precision: Precision,
    pub queries: Queries,
}

/// What the backward pass needs of a block's forward pass.
#[derive(Default)]
pub struct Tape {
    /// `[q, d]`.
    pub(super) queries: Vec<f32>,
    /// `[n, 2d]`.
    pub(super) keys_values: Vec<f32>,
    /// `[q, d]`.
    mixed: Vec<f32>,
    /// `[heads, q]` within each sequence.
    log_sums: Vec<f32>,
    /// Of the norm beside attention: `[q, d]` after it, `[n, d]` before it.
    attention_norm: Normalized,
    /// Of the norm beside the feed-forward sublayer, `[q, d]`.
    forward_norm: Normalized,
}

/// Buffers of a thread.
#[derive(Default)]
pub struct Scratch {
    attention: AttentionScratch,
    projected: Vec<f32>,
    gathered: Vec<f32>,
    sublayer: Vec<f32>,
    inner: Vec<f32>,
    inner_gradient: Vec<f32>,
    hidden: Vec<f32>,
    hidden_gradient: Vec<f32>,
    branch: Vec<f32>,
    mixed_gradient: Vec<f32>,
    queries_gradient: Vec<f32>,
    keys_values_gradient: Vec<f32>,
}

// Places where dropout stands in a layer.
const ATTENTION_WEIGHTS: u64 = 0;
const ATTENTION_OUTPUT: u64 = 1;
pub(super) const FORWARD_OUTPUT: u64 = 2;

impl Layer<'_> {
    /// Encodes `x`, `[n, d]`, as `into`, `[q, d]`.
    pub fn forward(&self, x: &[f32], block: &Block, into: &mut [f32], tape: &mut Tape, scratch: &mut Scratch) {
        let (w, d, n, places) = (&self.weights, self.dimension, block.token_places.len(), self.places(block));
        let count = places.len();
        let projected = match self.norm {
            NormPlacement::Post => x,
            NormPlacement::Pre => {
                let into = sized(&mut scratch.projected, n * d);
                norm::forward(x, w.attention_gain, w.attention_bias, &mut tape.attention_norm, into);
                into
            }
        };
        self.project(projected, block, tape, &mut scratch.gathered);
        let mixed = sized(&mut tape.mixed, count * d);
        let log_sums = sized(&mut tape.log_sums, count * self.heads);
        for (sequence, inputs) in self.sequences(block, &tape.queries, &tape.keys_values) {
            let q = self.span(sequence);
            let log_sums = &mut log_sums[q.start * self.heads..q.end * self.heads];
            self.attention().forward(inputs, &mut mixed[q.start * d..q.end * d], log_sums, &mut scratch.attention);
        }

        let sublayer = sized(&mut scratch.sublayer, count * d);
        product(
            self.precision,
            &mut MatrixMut::new(sublayer, count, d),
            Write::Over,
            Matrix::new(mixed, count, d),
            matrix(w.output, d, d).transposed(),
        );
        let residual = self.at_queries(x, block, &mut scratch.gathered);
        run(Residual { sublayer, bias: w.output_bias, residual, keep: self.keep.site(ATTENTION_OUTPUT), places });
        match self.norm {
            NormPlacement::Post => {
                let hidden = sized(&mut scratch.hidden, count * d);
                norm::forward(sublayer, w.attention_gain, w.attention_bias, &mut tape.attention_norm, hidden);
                self.feed_forward(hidden, hidden, places, sublayer, &mut scratch.inner);
                norm::forward(sublayer, w.forward_gain, w.forward_bias, &mut tape.forward_norm, into);
            }
            NormPlacement::Pre => {
                let hidden = sized(&mut scratch.hidden, count * d);
                norm::forward(sublayer, w.forward_gain, w.forward_bias, &mut tape.forward_norm, hidden);
                self.feed_forward(hidden, sublayer, places, into, &mut scratch.inner);
            }
        }
    }

    /// Takes `gradient`, `[q, d]`, back to that of `x`, `[n, d]`, and adds to those of the weights.
    #[allow(clippy::too_many_arguments)]
    pub fn backward(
        &self,
        x: &[f32],
        block: &Block,
        tape: &Tape,
        gradient: &mut [f32],
        gradients: &mut Gradients<'_>,
        x_gradient: &mut [f32],
        scratch: &mut Scratch,
    ) {
        let (w, d, n, places) = (&self.weights, self.dimension, block.token_places.len(), self.places(block));
        let count = places.len();
        // The feed-forward sublayer. Afterwards `gradient` is that of what enters its residual sum.
        let hidden = sized(&mut scratch.hidden, count * d);
        let hidden_gradient = sized(&mut scratch.hidden_gradient, count * d);
        match self.norm {
            NormPlacement::Post => {
                norm::backward(
                    gradient,
                    &tape.forward_norm,
                    w.forward_gain,
                    gradients.forward_gain,
                    gradients.forward_bias,
                );
                norm::again(&tape.attention_norm, w.attention_gain, w.attention_bias, hidden);
            }
            NormPlacement::Pre => norm::again(&tape.forward_norm, w.forward_gain, w.forward_bias, hidden),
        }
        self.feed_forward_backward(
            hidden,
            gradient,
            places,
            gradients,
            hidden_gradient,
            [&mut scratch.branch, &mut scratch.inner, &mut scratch.inner_gradient],
        );
        match self.norm {
            NormPlacement::Post => {
                run(Add { into: gradient, addend: hidden_gradient });
                norm::backward(
                    gradient,
                    &tape.attention_norm,
                    w.attention_gain,
                    gradients.attention_gain,
                    gradients.attention_bias,
                );
            }
            NormPlacement::Pre => {
                norm::backward(
                    hidden_gradient,
                    &tape.forward_norm,
                    w.forward_gain,
                    gradients.forward_gain,
                    gradients.forward_bias,
                );
                run(Add { into: gradient, addend: hidden_gradient });
            }
        }

        // The attention sublayer, of which `gradient` is now what leaves it.
        let mixed = &tape.mixed[..count * d];
        let branch = sized(&mut scratch.branch, count * d);
        run(ThroughKeep {
            gradient,
            into: branch,
            sums: gradients.output_bias,
            keep: self.keep.site(ATTENTION_OUTPUT),
            places,
        });
        let branch = Matrix::new(branch, count, d);
        product(
            self.precision,
            &mut MatrixMut::new(gradients.output, d, d),
            Write::Add,
            branch.transposed(),
            Matrix::new(mixed, count, d),
        );
        let mixed_gradient = sized(&mut scratch.mixed_gradient, count * d);
        product(
            self.precision,
            &mut MatrixMut::new(mixed_gradient, count, d),
            Write::Over,
            branch,
            matrix(w.output, d, d),
        );
        let queries_gradient = sized(&mut scratch.queries_gradient, count * d);
        let keys_values_gradient = sized(&mut scratch.keys_values_gradient, n * 2 * d);
        keys_values_gradient.fill(0.0);
        for (sequence, inputs) in self.sequences(block, &tape.queries, &tape.keys_values) {
            let q = self.span(sequence);
            let (q, log_sums) = (q.start * d..q.end * d, q.start * self.heads..q.end * self.heads);
            self.attention().backward(
                inputs,
                &mixed[q.clone()],
                &tape.log_sums[log_sums],
                &mixed_gradient[q.clone()],
                &mut queries_gradient[q],
                &mut keys_values_gradient[2 * d * sequence.tokens.start..2 * d * sequence.tokens.end],
                &mut scratch.attention,
            );
        }
        let projected = match self.norm {
            NormPlacement::Post => x,
            NormPlacement::Pre => {
                let projected = sized(&mut scratch.projected, n * d);
                norm::again(&tape.attention_norm, w.attention_gain, w.attention_bias, projected);
                projected
            }
        };
        let at_queries = self.at_queries(projected, block, &mut scratch.gathered);
        self.project_backward(projected, at_queries, queries_gradient, keys_values_gradient, gradients);
        // To the projections' input: through keys and values, and through queries where there are any.
        let [query, key_value] = split(w.query_key_value, d);
        let into = &mut MatrixMut::new(x_gradient, n, d);
        product(
            self.precision,
            into,
            Write::Over,
            Matrix::new(keys_values_gradient, n, 2 * d),
            matrix(key_value, 2 * d, d),
        );
        let through_queries = sized(&mut scratch.mixed_gradient, count * d);
        let into = &mut MatrixMut::new(through_queries, count, d);
        product(self.precision, into, Write::Over, Matrix::new(queries_gradient, count, d), matrix(query, d, d));
        match self.norm {
            NormPlacement::Post => {
                run(Add { into: through_queries, addend: gradient });
                self.add_at_queries(through_queries, places, x_gradient);
            }
            NormPlacement::Pre => {
                self.add_at_queries(through_queries, places, x_gradient);
                norm::backward(
                    x_gradient,
                    &tape.attention_norm,
                    w.attention_gain,
                    gradients.attention_gain,
                    gradients.attention_bias,
                );
                self.add_at_queries(gradient, places, x_gradient);
            }
        }
    }

    /// All its dropout: each head's weights, then the outputs of the two sublayers.
    #[cfg(test)]
    pub fn sites(&self) -> Vec<Keep> {
        let heads = (0..self.heads).map(|head| self.attention().of_head(head));
        heads.chain([ATTENTION_OUTPUT, FORWARD_OUTPUT].map(|site| self.keep.site(site))).collect()
    }

    fn attention(&self) -> Attention {
        let keep = self.keep.site(ATTENTION_WEIGHTS);
        Attention { dimension: self.dimension, heads: self.heads, causal: self.causal, keep, precision: self.precision }
    }

    pub(super) fn places<'b>(&self, block: &'b Block) -> &'b [Place] {
        match self.queries {
            Queries::Tokens => &block.token_places,
            Queries::Rows => &block.row_places,
        }
    }

    /// A sequence's queries among those of the block.
    fn span(&self, sequence: &Sequence) -> Range<usize> {
        match self.queries {
            Queries::Tokens => sequence.tokens.clone(),
            Queries::Rows => sequence.rows.clone(),
        }
    }

    /// Every sequence that has queries, with its part of them, and of all keys and values.
    fn sequences<'b>(
        &'b self,
        block: &'b Block,
        queries: &'b [f32],
        keys_values: &'b [f32],
    ) -> impl Iterator<Item = (&'b Sequence, Inputs<'b>)> {
        let (d, places) = (self.dimension, self.places(block));
        block.sequences.iter().filter(|sequence| !self.span(sequence).is_empty()).map(move |sequence| {
            let (q, n) = (self.span(sequence), &sequence.tokens);
            let (queries, keys_values) =
                (&queries[q.start * d..q.end * d], &keys_values[2 * d * n.start..2 * d * n.end]);
            (sequence, Inputs { queries, keys_values, places: &places[q] })
        })
    }

    /// The rows of `values`, `[n, d]`, at the queries: `[q, d]`.
    pub(super) fn at_queries<'v>(&self, values: &'v [f32], block: &Block, gathered: &'v mut Vec<f32>) -> &'v [f32] {
        if self.queries == Queries::Tokens {
            return values;
        }
        let d = self.dimension;
        gathered.clear();
        for place in &block.row_places {
            gathered.extend_from_slice(&values[place.in_block as usize * d..][..d]);
        }
        gathered
    }

    /// Adds rows `[q, d]` to those of `into`, `[n, d]`, at the queries.
    fn add_at_queries(&self, rows: &[f32], places: &[Place], into: &mut [f32]) {
        if self.queries == Queries::Tokens {
            return run(Add { into, addend: rows });
        }
        let d = self.dimension;
        for (row, place) in rows.chunks_exact(d).zip(places) {
            let into = &mut into[place.in_block as usize * d..][..d];
            into.iter_mut().zip(row).for_each(|(into, value)| *into += value);
        }
    }
}

impl Tape {
    /// What a layer with the norm after its sublayers gave out, `into` `[q, d]`.
    pub fn output(&self, weights: &Weights<'_>, into: &mut [f32]) {
        norm::again(&self.forward_norm, weights.forward_gain, weights.forward_bias, into);
    }
}
