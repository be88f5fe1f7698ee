//! How fast this process computes a step's matrix products when it computes nothing else: the yardstick of a step. It is no
//! lower bound, though called a floor: products of blocks that stay in cache can be faster than these of the whole batch.
//!
//! Measured are all products of [`Work`], forward and backward, by libtorch on all of this process's threads, in the
//! precision of the step (bfloat16 with results of bfloat16, half the bytes that the step writes), with operands of
//! the batch's own sizes and results written to memory that is already there:
//! - projections and feed-forward: `[N, d]` by `[d, 3d]`, `[d, d]`, `[d, f]`, `[N, f]` by `[f, d]`, and for each the two
//!   products of its gradient; of the last layer what the rows need;
//! - attention: of all sequences and heads at once, `[l, d/heads]` by `[d/heads, l]`, `[l, l]` by `[l, d/heads]`, and
//!   the four of the gradient; l is the root of the mean squared length where lengths differ;
//! - prediction: the transform of `[R, d]`, and the logits of chunks of rows that fit a core's second-level cache,
//!   `[n, d]` by `[d, V]`, with `[n, V]` by `[V, d]` and `[V, n]` by `[n, d]` of the gradient.
//!
//! Products differ much in rate: those with a long side of 64 move nearly as many bytes as they compute. So the rate of
//! the whole is that of the step's mixture, and the best rate, of square products in cache, is reported beside it.

use super::work::Work;
use medley_common::config::Precision;
use std::time::{Duration, Instant};
use tch::{Device, Kind, Tensor};

/// What this process computes when it computes products alone.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Rate {
    /// 10⁹ operations a second of the step's mixture of products.
    pub gflops: f64,
    /// The same of square products that fit the cache.
    pub peak_gflops: f64,
}

/// Time and operations of some products.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Measured {
    /// Time of all.
    pub seconds: f64,
    /// Operations of all.
    pub flops: f64,
    /// In what they are computed.
    pub precision: Precision,
}

/// Fewest repetitions of a product; the median counts.
const REPETITIONS: usize = 5;

/// Short products are repeated until they have taken so long together.
const LEAST: Duration = Duration::from_millis(10);

/// Bytes of a chunk's logits.
const CHUNK_BYTES: usize = 2 << 20;

/// Side of the square products.
const SQUARE: i64 = 768;

impl Rate {
    /// Measures the products of a step.
    pub fn of(work: &Work, precision: Precision) -> Self {
        let _guard = tch::no_grad_guard();
        let mut total = Measured { precision, ..Measured::default() };
        linear(work, &mut total);
        attention(work, &mut total);
        prediction(work, &mut total);
        let (left, right) = (random(&[SQUARE, SQUARE]), random(&[SQUARE, SQUARE]));
        let mut square = Measured { precision, ..Measured::default() };
        square.add(&left, &right, 1.0);
        Self { gflops: total.gflops(), peak_gflops: square.gflops() }
    }
}

impl Measured {
    /// 10⁹ operations a second.
    pub fn gflops(&self) -> f64 {
        self.flops / self.seconds.max(f64::MIN_POSITIVE) / 1e9
    }

    /// Measures `left · right`, either both matrices or both batches of them, and counts it `times` times.
    pub fn add(&mut self, left: &Tensor, right: &Tensor, times: f64) {
        let mut shape = left.size();
        let inner = *shape.last().unwrap_or(&0);
        let columns = *right.size().last().unwrap_or(&0);
        if let Some(last) = shape.last_mut() {
            *last = columns;
        }
        let kind = match self.precision {
            Precision::Float32 => Kind::Float,
            Precision::Bfloat16 => Kind::BFloat16,
        };
        let (left, right) = (&left.to_kind(kind), &right.to_kind(kind));
        let out = Tensor::zeros(&shape[..], (kind, left.device()));
        let run = || {
            let _ = if shape.len() == 2 { left.mm_out(&out, right) } else { left.bmm_out(&out, right) };
        };
        run();
        let mut seconds: Vec<f64> = Vec::new();
        let started = Instant::now();
        while seconds.len() < REPETITIONS || started.elapsed() < LEAST {
            let lap = Instant::now();
            run();
            seconds.push(lap.elapsed().as_secs_f64());
        }
        self.seconds += times * median(&mut seconds);
        self.flops += times * 2.0 * (out.numel() as f64) * inner as f64;
    }

    /// A layer `[n, inputs]` to `[n, outputs]` and its gradient.
    fn add_layer(&mut self, rows: i64, inputs: i64, outputs: i64, times: f64) {
        let (x, dy, weight) = (random(&[rows, inputs]), random(&[rows, outputs]), random(&[inputs, outputs]));
        self.add(&x, &weight, times);
        self.add(&dy, &weight.transpose(0, 1), times);
        self.add(&dy.transpose(0, 1), &x, times);
    }
}

fn linear(work: &Work, total: &mut Measured) {
    let (n, rows, d, f) = (work.tokens as i64, work.rows as i64, work.dimension as i64, work.feed_forward as i64);
    let whole = work.layers.saturating_sub(1) as f64;
    for (inputs, outputs) in [(d, 3 * d), (d, d), (d, f), (f, d)] {
        total.add_layer(n, inputs, outputs, whole);
    }
    total.add_layer(n, d, 2 * d, 1.0);
    for (inputs, outputs) in [(d, d), (d, d), (d, f), (f, d)] {
        total.add_layer(rows, inputs, outputs, 1.0);
    }
}

fn attention(work: &Work, total: &mut Measured) {
    let (batch, width) = ((work.sequences * work.heads) as i64, (work.dimension / work.heads) as i64);
    let length = (work.pairs as f64 / work.sequences as f64).sqrt().round().max(1.0) as i64;
    // The rounded length's operations are scaled to the true ones, and the last layer's rows count at the rate of all.
    let pairs = work.layers.saturating_sub(1) as f64 * work.pairs as f64 + work.row_pairs as f64;
    let times = pairs / (work.sequences as f64 * (length * length) as f64);
    let wide = random(&[batch, length, width]);
    let square = random(&[batch, length, length]);
    // Scores, and likewise the gradient of the weights.
    total.add(&wide, &wide.transpose(1, 2), 2.0 * times);
    // Weights by values, and likewise the gradient of the queries.
    total.add(&square, &wide, 2.0 * times);
    // The gradients of the values and of the keys.
    total.add(&square.transpose(1, 2), &wide, 2.0 * times);
}

fn prediction(work: &Work, total: &mut Measured) {
    let (rows, d) = (work.rows as i64, work.dimension as i64);
    total.add_layer(rows, d, d, 1.0);
    logits(work.rows, work.dimension, work.items, total);
}

/// The three products around the loss of `rows` rows.
pub fn logits(rows: usize, dimension: usize, items: usize, total: &mut Measured) {
    let chunk = (CHUNK_BYTES / (4 * items)).clamp(8, rows.max(8));
    total.add_layer(chunk as i64, dimension as i64, items as i64, rows as f64 / chunk as f64);
}

fn random(shape: &[i64]) -> Tensor {
    Tensor::rand(shape, (Kind::Float, Device::Cpu)) - 0.5
}

/// The middle value; of an even number the mean of the two in the middle. 0 of none.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    match (values.len(), values.len() / 2) {
        (0, _) => 0.0,
        (length, half) if length % 2 == 1 => values[half],
        (_, half) => 0.5 * (values[half - 1] + values[half]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use medley_common::config::NetworkConfig;

    #[test]
    fn the_products_measured_are_those_of_the_formula() {
        let network = NetworkConfig { dimension: 8, feed_forward: 16, ..NetworkConfig::default() };
        let work = Work::full(&network, 30, 4, 6, 2);
        let mut total = Measured::default();
        linear(&work, &mut total);
        assert_eq!(total.flops, work.linear_flops());
        attention(&work, &mut total);
        assert_eq!(total.flops, work.linear_flops() + work.attention_flops());
        prediction(&work, &mut total);
        assert!((total.flops / work.flops() - 1.0).abs() < 1e-12);
        assert!(total.seconds > 0.0 && total.gflops() > 0.0);
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&mut [4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(&mut []), 0.0);
    }
}
