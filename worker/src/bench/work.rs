//! The work of a step in floating-point operations, by formula. A product of `[m, k]` and `[k, n]` is 2·m·n·k of them.
//!
//! Forward, a peer computes for each of N tokens of a layer the projections to query, key and value (d to 3d) and back
//! (d to d), and the feed-forward products (d to f to d); for each sequence of length l in all heads the scores and
//! their product with the values (l·l·d each); for each of R rows the prediction layer's transform (d to d) and the
//! logits (d to V). Of the last layer nothing but the rows is read: there only keys and values are computed for all tokens.
//! Backward costs each product twice: one for each of its operands. Counted is what the result needs: not what softmax,
//! normalisations, dropout, losses and the optimiser compute, nor padding, nor what an implementation computes twice or
//! in vain. [`Work::dense_flops`] is what a plain program computes of the same sequences, whose last layer is whole.

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
    /// Sum over sequences of their length times their rows.
    pub row_pairs: usize,
    /// R, rows of the batch.
    pub rows: usize,
    /// V, items of the catalogue.
    pub items: usize,
}

impl Work {
    /// The work that a batch is.
    pub fn of(batch: &Batch, network: &NetworkConfig, items: usize) -> Self {
        let lengths = || batch.buckets.iter().flat_map(|bucket| bucket.lengths.iter().copied());
        let row_pairs = batch.buckets.iter().map(|bucket| {
            let of = |position: &i64| bucket.lengths[*position as usize / bucket.length];
            bucket.row_positions.iter().map(of).sum::<usize>()
        });
        Self {
            row_pairs: row_pairs.sum(),
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
        let (pairs, row_pairs) = (tokens * length, rows * length);
        Self { sequences, tokens, pairs, row_pairs, rows, items, ..Self::empty(network) }
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
            row_pairs: 0,
            rows: 0,
            items: 0,
        }
    }

    /// Operations of projections and feed-forward sublayers.
    pub fn linear_flops(&self) -> f64 {
        let (d, whole) = (self.dimension as f64, self.layers.saturating_sub(1) as f64);
        let last = self.tokens as f64 * 2.0 * d * d + self.rows as f64 * (self.linear() - 2.0 * d * d);
        PASSES * 2.0 * (whole * self.tokens as f64 * self.linear() + last)
    }

    /// Operations of attention.
    pub fn attention_flops(&self) -> f64 {
        let pairs = self.layers.saturating_sub(1) as f64 * self.pairs as f64 + self.row_pairs as f64;
        PASSES * 2.0 * 2.0 * pairs * self.dimension as f64
    }

    /// Products of a token in a layer's projections and feed-forward sublayer.
    fn linear(&self) -> f64 {
        let (d, f) = (self.dimension as f64, self.feed_forward as f64);
        4.0 * d * d + 2.0 * d * f
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

    /// Operations of a step of one peer whose last layer is computed for all tokens.
    pub fn dense_flops(&self) -> f64 {
        let linear = self.tokens as f64 * self.linear();
        let attention = 2.0 * self.pairs as f64 * self.dimension as f64;
        PASSES * 2.0 * self.layers as f64 * (linear + attention) + self.prediction_flops()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::batches::Source;

    #[test]
    fn a_small_step_is_what_its_products_add_up_to() {
        let network = NetworkConfig { dimension: 4, feed_forward: 8, layers: 2, heads: 2, ..NetworkConfig::default() };
        let work = Work::full(&network, 10, 3, 5, 2);
        let product = |m: usize, n: usize, k: usize| 2.0 * (m * n * k) as f64;
        // Three sequences of 5 tokens and 2 rows, in two heads that are two wide; a whole layer and the last one.
        let whole = product(15, 12, 4) + product(15, 4, 4) + product(15, 8, 4) + product(15, 4, 8);
        let last = product(15, 8, 4) + product(6, 4, 4) + product(6, 4, 4) + product(6, 8, 4) + product(6, 4, 8);
        let whole_attention = 6.0 * (product(5, 5, 2) + product(5, 2, 5));
        let last_attention = 6.0 * (product(2, 5, 2) + product(2, 2, 5));
        let prediction = product(6, 4, 4) + product(6, 10, 4);
        assert_eq!(work.linear_flops(), 3.0 * (whole + last));
        assert_eq!(work.attention_flops(), 3.0 * (whole_attention + last_attention));
        assert_eq!(work.prediction_flops(), 3.0 * prediction);
        assert_eq!(work.flops(), 3.0 * (whole + last + whole_attention + last_attention + prediction));
        assert_eq!(work.dense_flops(), 3.0 * (2.0 * (whole + whole_attention) + prediction));
    }

    #[test]
    fn a_full_batch_is_the_shape_itself() {
        let network = NetworkConfig::default();
        let batch = Source::Synthetic { items: 50, length: 9, masks: 3 }.batch(7, 0);
        assert_eq!(Work::of(&batch, &network, 50), Work::full(&network, 50, 7, 9, 3));
    }

    #[test]
    fn the_ml_1m_shape_is_43_billion_operations_a_peer_and_60_where_the_last_layer_is_whole() {
        let work = Work::full(&NetworkConfig::default(), 3416, 256, 200, 40);
        assert_eq!((work.flops() / 1e9).round(), 43.0);
        assert_eq!((work.dense_flops() / 1e9).round(), 60.0);
    }
}
