//! One encoder layer on one block of sequences, forward and backward (HAIL eqs 1-4).
//!
//! Shapes: the block has n tokens, of which q are asked for (`queries`): all of them, but in the last layer only the
//! positions to predict, since nothing reads the others. Keys and values come from all n.

use super::attention::{Attention, Inputs, Scratch as AttentionScratch, sized};
use super::blocks::{Block, Place, Sequence};
use super::passes::{
    Add, AddBias, Affine, Gelu, GeluBackward, Normalize, NormalizeBackward, Residual, SumRows, ThroughKeep, run,
};
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

/// The parameters of a layer or, as `W = &mut [f32]`, their gradients; in the order of the flat vector.
#[derive(Clone, Copy)]
pub struct Parts<W> {
    pub query_key_value: W,
    pub query_key_value_bias: W,
    pub output: W,
    pub output_bias: W,
    pub attention_gain: W,
    pub attention_bias: W,
    pub inner: W,
    pub inner_bias: W,
    pub outer: W,
    pub outer_bias: W,
    pub forward_gain: W,
    pub forward_bias: W,
}

pub type Weights<'a> = Parts<&'a [f32]>;
pub type Gradients<'a> = Parts<&'a mut [f32]>;

impl<W> Parts<W> {
    /// Takes the parts in order from something that hands out so many values.
    pub fn take(dimension: usize, inner: usize, mut next: impl FnMut(usize) -> W) -> Self {
        let d = dimension;
        Self {
            query_key_value: next(3 * d * d),
            query_key_value_bias: next(3 * d),
            output: next(d * d),
            output_bias: next(d),
            attention_gain: next(d),
            attention_bias: next(d),
            inner: next(inner * d),
            inner_bias: next(inner),
            outer: next(d * inner),
            outer_bias: next(d),
            forward_gain: next(d),
            forward_bias: next(d),
        }
    }
}

/// What the backward pass needs of a block's forward pass.
#[derive(Default)]
pub struct Tape {
    /// `[q, d]`.
    queries: Vec<f32>,
    /// `[n, 2d]`.
    keys_values: Vec<f32>,
    /// `[q, d]`.
    mixed: Vec<f32>,
    /// `[heads, q]` within each sequence.
    log_sums: Vec<f32>,
    /// Of the norm beside attention: `[q, d]` after it, `[n, d]` before it.
    attention_norm: Normalized,
    /// Of the norm beside the feed-forward sublayer, `[q, d]`.
    forward_norm: Normalized,
}

#[derive(Default)]
pub struct Normalized {
    pub values: Vec<f32>,
    pub inverse: Vec<f32>,
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
const FORWARD_OUTPUT: u64 = 2;

impl Layer<'_> {
    /// Encodes `x`, `[n, d]`, as `into`, `[q, d]`.
    pub fn forward(&self, x: &[f32], block: &Block, into: &mut [f32], tape: &mut Tape, scratch: &mut Scratch) {
        let (w, d, n, places) = (&self.weights, self.dimension, block.token_places.len(), self.places(block));
        let count = places.len();
        let projected = match self.norm {
            NormPlacement::Post => x,
            NormPlacement::Pre => {
                let into = sized(&mut scratch.projected, n * d);
                normalize(x, w.attention_gain, w.attention_bias, &mut tape.attention_norm, into);
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
                normalize(sublayer, w.attention_gain, w.attention_bias, &mut tape.attention_norm, hidden);
                self.feed_forward(hidden, hidden, places, sublayer, &mut scratch.inner);
                normalize(sublayer, w.forward_gain, w.forward_bias, &mut tape.forward_norm, into);
            }
            NormPlacement::Pre => {
                let hidden = sized(&mut scratch.hidden, count * d);
                normalize(sublayer, w.forward_gain, w.forward_bias, &mut tape.forward_norm, hidden);
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
                back(gradient, &tape.forward_norm, w.forward_gain, gradients.forward_gain, gradients.forward_bias);
                affine(&tape.attention_norm, w.attention_gain, w.attention_bias, hidden);
            }
            NormPlacement::Pre => affine(&tape.forward_norm, w.forward_gain, w.forward_bias, hidden),
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
                back(
                    gradient,
                    &tape.attention_norm,
                    w.attention_gain,
                    gradients.attention_gain,
                    gradients.attention_bias,
                );
            }
            NormPlacement::Pre => {
                back(
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
                affine(&tape.attention_norm, w.attention_gain, w.attention_bias, projected);
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
                back(
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

    /// `into = residual + dropout(FFN(hidden))`.
    fn feed_forward(&self, hidden: &[f32], residual: &[f32], places: &[Place], into: &mut [f32], inner: &mut Vec<f32>) {
        let (w, d, count) = (&self.weights, self.dimension, places.len());
        let width = w.inner_bias.len();
        let inner = sized(inner, count * width);
        let to = &mut MatrixMut::new(inner, count, width);
        product(self.precision, to, Write::Over, Matrix::new(hidden, count, d), matrix(w.inner, width, d).transposed());
        run(Gelu { values: inner, bias: w.inner_bias });
        let to = &mut MatrixMut::new(into, count, d);
        product(
            self.precision,
            to,
            Write::Over,
            Matrix::new(inner, count, width),
            matrix(w.outer, d, width).transposed(),
        );
        let keep = self.keep.site(FORWARD_OUTPUT);
        run(Residual { sublayer: into, bias: w.outer_bias, residual, keep, places });
    }

    /// From the gradient of the sublayer's dropped-out output to that of `hidden`.
    fn feed_forward_backward(
        &self,
        hidden: &[f32],
        gradient: &[f32],
        places: &[Place],
        gradients: &mut Gradients<'_>,
        hidden_gradient: &mut [f32],
        [branch, inner, inner_gradient]: [&mut Vec<f32>; 3],
    ) {
        let (w, d, count) = (&self.weights, self.dimension, places.len());
        let width = w.inner_bias.len();
        let branch = sized(branch, count * d);
        run(ThroughKeep {
            gradient,
            into: branch,
            sums: gradients.outer_bias,
            keep: self.keep.site(FORWARD_OUTPUT),
            places,
        });
        let (branch, hidden) = (Matrix::new(branch, count, d), Matrix::new(hidden, count, d));
        let inner = sized(inner, count * width);
        product(
            self.precision,
            &mut MatrixMut::new(inner, count, width),
            Write::Over,
            hidden,
            matrix(w.inner, width, d).transposed(),
        );
        let change = sized(inner_gradient, count * width);
        product(
            self.precision,
            &mut MatrixMut::new(change, count, width),
            Write::Over,
            branch,
            matrix(w.outer, d, width),
        );
        run(GeluBackward { values: inner, gradient: change, bias: w.inner_bias, sums: gradients.inner_bias });
        let inner = Matrix::new(inner, count, width);
        product(self.precision, &mut MatrixMut::new(gradients.outer, d, width), Write::Add, branch.transposed(), inner);
        let change = Matrix::new(change, count, width);
        product(
            self.precision,
            &mut MatrixMut::new(gradients.inner, width, d),
            Write::Add,
            change.transposed(),
            hidden,
        );
        product(
            self.precision,
            &mut MatrixMut::new(hidden_gradient, count, d),
            Write::Over,
            change,
            matrix(w.inner, width, d),
        );
    }

    /// Queries, keys and values of `projected`, `[n, d]`, onto the tape.
    fn project(&self, projected: &[f32], block: &Block, tape: &mut Tape, gathered: &mut Vec<f32>) {
        let (d, n) = (self.dimension, block.token_places.len());
        let count = self.places(block).len();
        let [query, key_value] = split(self.weights.query_key_value, d);
        let (query_bias, key_value_bias) = self.weights.query_key_value_bias.split_at(d);
        let keys_values = sized(&mut tape.keys_values, n * 2 * d);
        let into = &mut MatrixMut::new(keys_values, n, 2 * d);
        product(
            self.precision,
            into,
            Write::Over,
            Matrix::new(projected, n, d),
            matrix(key_value, 2 * d, d).transposed(),
        );
        run(AddBias { rows: keys_values, bias: key_value_bias });
        let queries = sized(&mut tape.queries, count * d);
        let at_queries = self.at_queries(projected, block, gathered);
        let into = &mut MatrixMut::new(queries, count, d);
        product(self.precision, into, Write::Over, Matrix::new(at_queries, count, d), matrix(query, d, d).transposed());
        run(AddBias { rows: queries, bias: query_bias });
    }

    /// Adds to the gradients of the projections' weights.
    fn project_backward(
        &self,
        projected: &[f32],
        at_queries: &[f32],
        queries_gradient: &[f32],
        keys_values_gradient: &[f32],
        gradients: &mut Gradients<'_>,
    ) {
        let d = self.dimension;
        let (n, count) = (projected.len() / d, at_queries.len() / d);
        let (query, key_value) = gradients.query_key_value.split_at_mut(d * d);
        let (query_bias, key_value_bias) = gradients.query_key_value_bias.split_at_mut(d);
        run(SumRows { rows: queries_gradient, sums: query_bias });
        run(SumRows { rows: keys_values_gradient, sums: key_value_bias });
        let change = Matrix::new(queries_gradient, count, d).transposed();
        product(
            self.precision,
            &mut MatrixMut::new(query, d, d),
            Write::Add,
            change,
            Matrix::new(at_queries, count, d),
        );
        let change = Matrix::new(keys_values_gradient, n, 2 * d).transposed();
        product(
            self.precision,
            &mut MatrixMut::new(key_value, 2 * d, d),
            Write::Add,
            change,
            Matrix::new(projected, n, d),
        );
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

    fn places<'b>(&self, block: &'b Block) -> &'b [Place] {
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
    fn at_queries<'v>(&self, values: &'v [f32], block: &Block, gathered: &'v mut Vec<f32>) -> &'v [f32] {
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

/// `into = norm(rows)`; the tape gets what the way back needs.
pub fn normalize(rows: &[f32], gain: &[f32], bias: &[f32], tape: &mut Normalized, into: &mut [f32]) {
    let d = gain.len();
    let values = sized(&mut tape.values, rows.len());
    values.copy_from_slice(rows);
    let inverse = sized(&mut tape.inverse, rows.len() / d);
    run(Normalize { rows: values, inverse, gain, bias, into, into_width: d });
}

/// What [`normalize`] wrote, once more; `into` says how many rows.
pub fn affine(tape: &Normalized, gain: &[f32], bias: &[f32], into: &mut [f32]) {
    run(Affine { normalized: &tape.values[..into.len()], gain, bias, into });
}

/// Back through [`normalize`], in place; adds to the gradients of gain and bias.
pub fn back(
    gradient: &mut [f32],
    tape: &Normalized,
    gain: &[f32],
    gain_gradient: &mut [f32],
    bias_gradient: &mut [f32],
) {
    let (normalized, inverse) = (&tape.values[..gradient.len()], &tape.inverse[..gradient.len() / gain.len()]);
    run(NormalizeBackward { gradient, normalized, inverse, gain, gain_gradient, bias_gradient });
}

fn matrix(values: &[f32], rows: usize, columns: usize) -> Matrix<'_> {
    Matrix::new(values, rows, columns)
}

/// The weights of queries `[d, d]`, and of keys and values `[2d, d]`.
fn split(query_key_value: &[f32], d: usize) -> [&[f32]; 2] {
    let (query, key_value) = query_key_value.split_at(d * d);
    [query, key_value]
}

impl Tape {
    /// What a layer with the norm after its sublayers gave out, `into` `[q, d]`.
    pub fn output(&self, weights: &Weights<'_>, into: &mut [f32]) {
        affine(&self.forward_norm, weights.forward_gain, weights.forward_bias, into);
    }
}
