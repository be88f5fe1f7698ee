//! The work of a step in floating-point operations, by formula. A product of `[m, k]` and `[k, n]` is 2·m·n·k of them.
//!
//! Forward, a peer computes for each of N tokens of a layer the projections to query, key and value (d to 3d) and back
//! (d to d), and the feed-forward products (d to f to d); for each sequence of length l in all heads the scores and
//! their product with the values (l·l·d each); for each of R rows the prediction layer's transform (d to d) and the
//! logits (d to V). Backward costs each product twice: one for each of its operands. What softmax, normalisations,
//! dropout, losses and the optimiser compute is not counted, nor is padding, nor what an implementation computes twice.

use crate::data::Batch;
use medley_common::config::NetworkConfig;

/// Forward and backward.
const PASSES: f64 = 3.0;

/// The matrix products of one peer's step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Work {
    /// d, the width of hidden states.
    pub dimension: usize,
    /// f, the inner width of the feed-forward sublayer.
    pub feed_forward: usize,
    /// Encoder layers.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// Sequences of the batch.
    pub sequences: usize,
    /// N, tokens of the batch without padding.
    pub tokens: usize,
    /// Sum over sequences of their length squared.
    pub pairs: usize,
    /// R, rows of the batch.
    pub rows: usize,
    /// V, items of the catalogue.
    pub items: usize,
}

impl Work {
    /// The work that a batch is.
    pub fn of(batch: &Batch, network: &NetworkConfig, items: usize) -> Self {
        let lengths = || batch.buckets.iter().flat_map(|bucket| bucket.lengths.iter().copied());
        Self {
            sequences: batch.sequences(),
            tokens: lengths().sum(),
            pairs: lengths().map(|length| length * length).sum(),
            rows: batch.rows,
            items,
            ..Self::empty(network)
        }
    }

    /// The work of full-length sequences.
    pub fn full(network: &NetworkConfig, items: usize, sequences: usize, length: usize, masks: usize) -> Self {
        let (tokens, rows) = (sequences * length, sequences * masks);
        Self { sequences, tokens, pairs: tokens * length, rows, items, ..Self::empty(network) }
    }

    fn empty(network: &NetworkConfig) -> Self {
        Self {
            dimension: network.dimension as usize,
            feed_forward: network.feed_forward as usize,
            layers: network.layers,
            heads: network.heads as usize,
            sequences: 0,
            tokens: 0,
            pairs: 0,
            rows: 0,
            items: 0,
        }
    }

    /// Operations of projections and feed-forward sublayers.
    pub fn linear_flops(&self) -> f64 {
        let (d, f) = (self.dimension as f64, self.feed_forward as f64);
        PASSES * 2.0 * self.tokens as f64 * (4.0 * d * d + 2.0 * d * f) * self.layers as f64
    }

    /// Operations of attention.
    pub fn attention_flops(&self) -> f64 {
        PASSES * 2.0 * 2.0 * self.pairs as f64 * self.dimension as f64 * self.layers as f64
    }

    /// Operations of the prediction layer: transform and logits.
    pub fn prediction_flops(&self) -> f64 {
        let d = self.dimension as f64;
        PASSES * 2.0 * self.rows as f64 * d * (d + self.items as f64)
    }

    /// Operations of a step of one peer.
    pub fn flops(&self) -> f64 {
        self.linear_flops() + self.attention_flops() + self.prediction_flops()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::batches::Source;

    #[test]
    fn a_small_step_is_what_its_products_add_up_to() {
        let network = NetworkConfig { dimension: 4, feed_forward: 8, layers: 1, heads: 2, ..NetworkConfig::default() };
        let work = Work::full(&network, 10, 3, 5, 2);
        let product = |m: usize, n: usize, k: usize| 2.0 * (m * n * k) as f64;
        let tokens = 15;
        let linear = product(tokens, 12, 4) + product(tokens, 4, 4) + product(tokens, 8, 4) + product(tokens, 4, 8);
        // Three sequences of two heads that are two wide.
        let attention = 6.0 * (product(5, 5, 2) + product(5, 2, 5));
        let prediction = product(6, 4, 4) + product(6, 10, 4);
        assert_eq!(work.linear_flops(), 3.0 * linear);
        assert_eq!(work.attention_flops(), 3.0 * attention);
        assert_eq!(work.prediction_flops(), 3.0 * prediction);
        assert_eq!(work.flops(), 3.0 * (linear + attention + prediction));
    }

    #[test]
    fn a_full_batch_is_the_shape_itself() {
        let network = NetworkConfig::default();
        let batch = Source::Synthetic { items: 50, length: 9, masks: 3 }.batch(7, 0);
        assert_eq!(Work::of(&batch, &network, 50), Work::full(&network, 50, 7, 9, 3));
    }

    #[test]
    fn the_ml_1m_shape_is_sixty_billion_operations_a_peer() {
        let work = Work::full(&NetworkConfig::default(), 3416, 256, 200, 40);
        assert_eq!((work.flops() / 1e9).round(), 60.0);
    }
}
