//! The prediction layer and the cross-peer losses on the processor, forward and backward, fused: for a chunk of rows and
//! all T peers at once, transform → logits → one pass over the chunk (softmax, cross-peer weights, gradient) → back.
//!
//! Threads take runs of chunks. A thread's memory is one chunk of logits and its own sums of the weights' gradients;
//! nothing of size R×V exists ([`Prediction::bytes`] is the account).
//!
//! Which rows count as noise is known only when all peers' cross-entropies of all rows are. Few rows are, so that all are
//! computed as if none were, and the few that are get what they differ by ([`Prediction::truncate`]): one pass over the
//! logits instead of two.

use super::SHAPES;
use crate::caches;
use crate::loss::{ChunkRows, LossKernel, LossSpec, RowLosses};
use crate::matrix::{Matrix, MatrixMut, Write, product};
use crate::model::packed::passes::{self, Gelu, GeluBackward, Normalize, NormalizeBackward, SumRows};
use crate::model::packed::sum_in_order;
use medley_common::config::Precision;
use rayon::prelude::*;
use std::ops::Range;

/// A chunk of logits as a multiple of a core's second-level cache, where the configuration leaves the choice. Twice the cache,
/// rather than all in it, because each product reads the whole item table once a chunk; measured flat from once to four
/// times.
const CHUNK_CACHES: usize = 2;

/// Fewest rows of a chunk, all peers counted: smaller products waste the processor's registers.
const MIN_CHUNK_ROWS: usize = 16;

/// The prediction layer's parameters or, as `W = Vec<f32>`, their gradients.
#[derive(Debug, Clone, Copy)]
pub struct Parts<W> {
    /// W_P, `[d, d]`.
    pub transform: W,
    /// b_P, `[d]`.
    pub transform_bias: W,
    /// Of the norm, `[d]`.
    pub gain: W,
    /// Of the norm, `[d]`.
    pub bias: W,
    /// U, `[V, d]`.
    pub output: W,
    /// b_U, `[V]`.
    pub output_bias: W,
}

/// The prediction layer of a step.
pub struct Prediction<'a> {
    parts: Parts<&'a [f32]>,
    /// `[V, d + 1]`: U and b_U side by side, so that one product adds the bias too.
    output: Vec<f32>,
    peers: usize,
    chunk_rows: usize,
    precision: Precision,
    loss: LossSpec,
    /// What gradients are multiplied by: 1 over the rows of the whole batch, in most losses.
    scale: f64,
}

/// How rows are taken.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rows {
    /// As none of them truncated.
    Plain,
    /// As truncated ones, of which [`Rows::Plain`] was computed before: gradients are the difference.
    Truncated,
}

/// What the losses of some rows came to.
pub struct Computed {
    /// Gradient of the hidden rows, `[T, rows, d]`.
    pub hidden: Vec<f32>,
    /// Sums over the rows.
    pub parts: Parts<Vec<f32>>,
    /// Of every row and peer.
    pub losses: RowLosses,
}

impl<'a> Prediction<'a> {
    /// Prepares a step's passes; `chunk_rows` is of the batch, 0 for as many as suit the caches.
    pub fn new(
        parts: Parts<&'a [f32]>,
        peers: usize,
        chunk_rows: usize,
        precision: Precision,
        loss: LossSpec,
        scale: f64,
    ) -> Self {
        let (d, catalogue) = (parts.gain.len(), parts.output_bias.len());
        let mut output = Vec::with_capacity(catalogue * (d + 1));
        for (row, bias) in parts.output.chunks_exact(d).zip(parts.output_bias) {
            output.extend_from_slice(row);
            output.push(*bias);
        }
        let fitting = CHUNK_CACHES * caches::second_level() / (4 * catalogue * peers);
        let automatic = fitting.max(MIN_CHUNK_ROWS.div_ceil(peers));
        let chunk_rows = if chunk_rows == 0 { automatic } else { chunk_rows };
        Self { parts, output, peers, chunk_rows, precision, loss, scale }
    }

    /// Bytes that [`Prediction::compute`] and [`Prediction::truncate`] hold at most on `threads` threads, beside the
    /// hidden rows, their gradients and the losses of each row.
    pub fn bytes(&self, threads: usize) -> usize {
        let (d, catalogue) = (self.dimension(), self.catalogue());
        let rows = self.peers * self.chunk_rows;
        // Logits, and once more where some are truncated; beside them the loss keeps a row of each peer and some more.
        let chunk = rows * (2 * catalogue + 5 * d + 2) + (self.peers + 3) * catalogue;
        let sums = catalogue * (d + 1) + d * d + 3 * d;
        // What the product library packs of the item table; and the sums of all rows, which stay while noise is computed.
        let packed = self.output.len();
        4 * (threads * (chunk + sums + packed) + sums + self.output.len())
    }

    /// Losses of all peers on some rows, none of them truncated, and their gradients. `hidden` is `[T, rows, d]`, `targets`
    /// `[rows]`.
    pub fn compute(&self, hidden: &[f32], targets: &[i64]) -> Computed {
        self.on_threads(hidden, targets, Rows::Plain)
    }

    /// Makes truncated rows of those in `noise`, which [`Prediction::compute`] took for others: adds to gradients and sums
    /// what a truncated row's differ by. `hidden` and `targets` are those of that call.
    pub fn truncate(&self, computed: &mut Computed, hidden: &[f32], targets: &[i64], noise: &[usize]) {
        let (d, rows) = (self.dimension(), targets.len());
        let place = |peer: usize, row: usize| (peer * rows + row) * d..(peer * rows + row + 1) * d;
        let each = || (0..self.peers).flat_map(|peer| noise.iter().map(move |row| (peer, *row)));
        let few: Vec<f32> = each().flat_map(|(peer, row)| hidden[place(peer, row)].iter().copied()).collect();
        let few_targets: Vec<i64> = noise.iter().map(|row| targets[*row]).collect();
        let change = self.on_threads(&few, &few_targets, Rows::Truncated);
        for ((peer, row), change) in each().zip(change.hidden.chunks_exact(d)) {
            passes::run(passes::Add { into: &mut computed.hidden[place(peer, row)], addend: change });
        }
        let before = std::mem::replace(&mut computed.parts, Parts::zeros(0, 0));
        computed.parts = Parts::total(vec![before, change.parts]);
        noise.iter().enumerate().for_each(|(from, row)| computed.losses.replace(*row, &change.losses, from));
    }

    fn on_threads(&self, hidden: &[f32], targets: &[i64], kind: Rows) -> Computed {
        let (d, rows) = (self.dimension(), targets.len());
        let lanes = self.lanes(rows);
        let results: Vec<Computed> =
            lanes.par_iter().map(|lane| self.lane(hidden, targets, lane.clone(), kind)).collect();
        let mut whole = vec![0.0; self.peers * rows * d];
        let mut losses = RowLosses::new(self.peers);
        let mut parts = Vec::with_capacity(lanes.len());
        for (result, lane) in results.into_iter().zip(lanes) {
            for peer in 0..self.peers {
                let into = &mut whole[(peer * rows + lane.start) * d..(peer * rows + lane.end) * d];
                into.copy_from_slice(&result.hidden[peer * lane.len() * d..(peer + 1) * lane.len() * d]);
            }
            losses.append(result.losses);
            parts.push(result.parts);
        }
        Computed { hidden: whole, parts: Parts::total(parts), losses }
    }

    /// A run of rows for each thread, as far as there are chunks.
    fn lanes(&self, rows: usize) -> Vec<Range<usize>> {
        let count = rayon::current_num_threads().min(rows.div_ceil(self.chunk_rows)).max(1);
        (0..count).map(|lane| rows * lane / count..rows * (lane + 1) / count).collect()
    }

    fn lane(&self, hidden: &[f32], targets: &[i64], lane: Range<usize>, kind: Rows) -> Computed {
        let (d, rows) = (self.dimension(), targets.len());
        let mut result = Computed {
            hidden: vec![0.0; self.peers * lane.len() * d],
            parts: Parts::zeros(d, self.catalogue()),
            losses: RowLosses::new(self.peers),
        };
        // Chunks of about equal size: a last one of a few rows would waste a pass over the weights.
        let count = lane.len().div_ceil(self.chunk_rows);
        let mut chunk = Chunk::new(self.peers * lane.len().div_ceil(count.max(1)), d, self.catalogue());
        for number in 0..count {
            let range = lane.len() * number / count..lane.len() * (number + 1) / count;
            for peer in 0..self.peers {
                let from = (peer * rows + lane.start + range.start) * d;
                chunk.hidden[peer * range.len() * d..][..range.len() * d]
                    .copy_from_slice(&hidden[from..from + range.len() * d]);
            }
            let targets = &targets[lane.start + range.start..lane.start + range.end];
            let n = self.logits(&mut chunk, range.len());
            result.losses.append(self.losses_of(kind, targets, &mut chunk, n));
            self.back(&mut chunk, n, &mut result.parts);
            for peer in 0..self.peers {
                let into = (peer * lane.len() + range.start) * d;
                result.hidden[into..into + range.len() * d]
                    .copy_from_slice(&chunk.gradient[peer * range.len() * d..][..range.len() * d]);
            }
        }
        result
    }

    /// From `chunk.hidden`, of `rows` rows of each peer, to `chunk.logits`; returns how many rows that is in all.
    fn logits(&self, chunk: &mut Chunk, rows: usize) -> usize {
        let (w, d, catalogue) = (&self.parts, self.dimension(), self.catalogue());
        let n = self.peers * rows;
        let hidden = Matrix::new(&chunk.hidden, n, d);
        let projected = &mut chunk.projected[..n * d];
        let transform = Matrix::new(w.transform, d, d).transposed();
        product(self.precision, &mut MatrixMut::new(projected, n, d), Write::Over, hidden, transform);
        let normalized = &mut chunk.normalized[..n * d];
        normalized.copy_from_slice(projected);
        passes::run(Gelu { values: normalized, bias: w.transform_bias });
        let (inverse, transformed) = (&mut chunk.inverse[..n], &mut chunk.transformed[..n * (d + 1)]);
        let into_width = d + 1;
        passes::run(Normalize { rows: normalized, inverse, gain: w.gain, bias: w.bias, into: transformed, into_width });
        transformed.iter_mut().skip(d).step_by(d + 1).for_each(|one| *one = 1.0);
        let output = Matrix::new(&self.output, catalogue, d + 1).transposed();
        let with_one = Matrix::new(transformed, n, d + 1);
        product(self.precision, &mut MatrixMut::new(&mut chunk.logits, n, catalogue), Write::Over, with_one, output);
        n
    }

    /// The losses of a chunk, whose logits become their gradients or, of truncated rows, what these differ by from those
    /// of other rows.
    fn losses_of(&self, kind: Rows, targets: &[i64], chunk: &mut Chunk, n: usize) -> RowLosses {
        let logits = &mut chunk.logits[..n * self.catalogue()];
        if kind == Rows::Plain {
            return self.losses(targets, false, self.scale, logits);
        }
        chunk.others.clear();
        chunk.others.extend_from_slice(logits);
        self.losses(targets, false, -self.scale, &mut chunk.others);
        let losses = self.losses(targets, true, self.scale, logits);
        passes::run(passes::Add { into: logits, addend: &chunk.others });
        losses
    }

    /// The losses of logits, `[T, rows, V]`, which become their gradients.
    fn losses(&self, targets: &[i64], truncated: bool, scale: f64, logits: &mut [f32]) -> RowLosses {
        let truncated = vec![truncated; targets.len()];
        let truncated = Some(&truncated[..]);
        let rows = ChunkRows { targets, weights: None, truncated, catalogue: self.catalogue(), scale };
        LossKernel::new().losses_by_row(&self.loss, &rows, self.peers, logits).expect(SHAPES)
    }

    /// From the gradients in `chunk.logits`, of n rows, to `chunk.gradient`; adds to those of the parameters.
    fn back(&self, chunk: &mut Chunk, n: usize, sums: &mut Parts<Vec<f32>>) {
        let (w, d, catalogue) = (&self.parts, self.dimension(), self.catalogue());
        let logits = &chunk.logits[..n * catalogue];
        passes::run(SumRows { rows: logits, sums: &mut sums.output_bias });
        let change = Matrix::new(logits, n, catalogue);
        let transformed = Matrix::strided(&chunk.transformed, n, d, d + 1);
        product(
            self.precision,
            &mut MatrixMut::new(&mut sums.output, catalogue, d),
            Write::Add,
            change.transposed(),
            transformed,
        );
        let output = Matrix::strided(&self.output, catalogue, d, d + 1);
        let back = &mut chunk.back[..n * d];
        product(self.precision, &mut MatrixMut::new(back, n, d), Write::Over, change, output);

        let (normalized, inverse) = (&chunk.normalized[..n * d], &chunk.inverse[..n]);
        let (gain_gradient, bias_gradient) = (&mut sums.gain[..], &mut sums.bias[..]);
        passes::run(NormalizeBackward {
            gradient: back,
            normalized,
            inverse,
            gain: w.gain,
            gain_gradient,
            bias_gradient,
        });
        let (values, bias_sums) = (&mut chunk.projected[..n * d], &mut sums.transform_bias[..]);
        passes::run(GeluBackward { values, gradient: back, bias: w.transform_bias, sums: bias_sums });
        let (back, hidden) = (Matrix::new(back, n, d), Matrix::new(&chunk.hidden, n, d));
        product(self.precision, &mut MatrixMut::new(&mut sums.transform, d, d), Write::Add, back.transposed(), hidden);
        let into = &mut MatrixMut::new(&mut chunk.gradient, n, d);
        product(self.precision, into, Write::Over, back, Matrix::new(w.transform, d, d));
    }

    fn dimension(&self) -> usize {
        self.parts.gain.len()
    }

    /// V.
    fn catalogue(&self) -> usize {
        self.parts.output_bias.len()
    }
}

impl Parts<Vec<f32>> {
    fn zeros(d: usize, catalogue: usize) -> Self {
        let zeros = |count| vec![0.0; count];
        Self {
            transform: zeros(d * d),
            transform_bias: zeros(d),
            gain: zeros(d),
            bias: zeros(d),
            output: zeros(catalogue * d),
            output_bias: zeros(catalogue),
        }
    }

    /// The sums of lanes, in their order.
    fn total(lanes: Vec<Self>) -> Self {
        let sum = |of: fn(&mut Self) -> &mut Vec<f32>, lanes: &mut [Self]| {
            sum_in_order(lanes.iter_mut().map(|lane| std::mem::take(of(lane))).collect())
        };
        let mut lanes = lanes;
        Self {
            transform: sum(|parts| &mut parts.transform, &mut lanes),
            transform_bias: sum(|parts| &mut parts.transform_bias, &mut lanes),
            gain: sum(|parts| &mut parts.gain, &mut lanes),
            bias: sum(|parts| &mut parts.bias, &mut lanes),
            output: sum(|parts| &mut parts.output, &mut lanes),
            output_bias: sum(|parts| &mut parts.output_bias, &mut lanes),
        }
    }
}

/// A thread's buffers for n rows, all peers counted.
struct Chunk {
    /// `[n, d]`.
    hidden: Vec<f32>,
    /// `[n, d]`, before the transform's bias and GELU.
    projected: Vec<f32>,
    /// `[n, d]`.
    normalized: Vec<f32>,
    /// `[n]`.
    inverse: Vec<f32>,
    /// `[n, d + 1]`: with a 1 at the end of each row.
    transformed: Vec<f32>,
    /// `[n, V]`, then their gradients.
    logits: Vec<f32>,
    /// Logits once more, where rows are truncated.
    others: Vec<f32>,
    /// `[n, d]`.
    back: Vec<f32>,
    /// `[n, d]`.
    gradient: Vec<f32>,
}

impl Chunk {
    fn new(rows: usize, d: usize, catalogue: usize) -> Self {
        let of = |width: usize| vec![0.0; rows * width];
        Self {
            hidden: of(d),
            projected: of(d),
            normalized: of(d),
            inverse: of(1),
            transformed: of(d + 1),
            logits: of(catalogue),
            others: Vec::new(),
            back: of(d),
            gradient: of(d),
        }
    }
}
