//! The model: a step as work, bytes and messages, and what each costs.
//!
//! **Work** is that of the matrix products ([`Work`]), split into three kinds with a cost of their own per operation: the
//! encoder's layers, attention, and the prediction layer with the loss. Each peer has its own encoder; the losses of
//! all T peers on a row are computed by the one worker that answers for it, so a worker that hosts T/W peers computes
//! T/W of each kind. What is not a product (softmax, normalisations, dropout, the update) is in the cost of the product
//! that it goes with, or in the constant part of a step.
//!
//! **Bytes** are those that the worker sends that sends most. With R rows, width d, P shared parameters, t hosted peers and
//! shards of R/W rows, a step in `hidden` mode is seven calls: hidden rows to their owners, their cross-entropies to the
//! peers' workers and an all-reduce of one count a row (both where noise is sought), gradients back, an all-reduce of P,
//! norms and losses to everybody with the hosted peers' gradients to the buddy, and a barrier. The formula follows the
//! code message by message, frame headers included, and is exact. `logits` sends V floats in the place of each d,
//! `distributions` R·V for every hosted peer to every worker; both do so in many chunks, whose headers are left out.
//!
//! **Time** of a step: `(fixed + Σ work · cost) / speed-up + bytes / bandwidth + calls · latency + messages · overhead`. The
//! speed-up of W workers on few cores is the number of cores that they have between them. **Memory** of a worker:
//! `process + parameters · 20 bytes + copies · 16 bytes + t · tokens · a + what it exchanges`: attention weights are never
//! kept.

use crate::bench::work::Work;
use crate::collective::{HEADER_BYTES, shard};
use crate::model::{Encoder, Shared};
use medley_common::config::{ExchangeMode, NetworkConfig};

/// A cohort and the batch that it steps through.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cohort {
    /// The products of one peer.
    pub work: Work,
    /// Items of the longest sequence: the positions that have parameters.
    pub length: usize,
    /// T.
    pub peers: usize,
    /// W.
    pub workers: usize,
    /// Cores that all workers have between them.
    pub cores: usize,
    /// Whether noise is sought, which takes all cross-entropies of all peers.
    pub truncates: bool,
}

/// What a unit of each kind costs on a machine.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Constants {
    /// Seconds that a worker with a core, or device, of its own needs in a step beside all that grows.
    pub fixed_s: f64,
    /// Seconds per operation of projections and feed-forward layers, on one core or device.
    pub linear_s: f64,
    /// Seconds per operation of attention.
    pub attention_s: f64,
    /// Seconds per operation of the prediction layer, the loss included.
    pub prediction_s: f64,
    /// Seconds per byte that a worker sends, while all do.
    pub byte_s: f64,
    /// Seconds that a call between workers takes with nothing in it.
    pub call_s: f64,
    /// Seconds per message that a worker sends, beside its bytes.
    pub message_s: f64,
    /// Bytes of a process that has nothing to compute.
    pub process_bytes: f64,
    /// Bytes of a hosted peer per token of the batch: activations, kept for the way back.
    pub token_bytes: f64,
}

/// What the model says of a cohort's step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Prediction {
    /// Seconds of a step.
    pub seconds: f64,
    /// Of these, seconds in which nothing but exchange happens.
    pub exchange_seconds: f64,
    /// Bytes that the worker sends that sends most.
    pub bytes: f64,
    /// Bytes of memory of the largest worker.
    pub memory_bytes: f64,
}

/// Numbers of a loss that travel a peer (total, cross-entropy, positive, negative, divergence), and those of a worker (its
/// wish to stop, a norm).
const LOSS_NUMBERS: usize = 5;
const WORKER_NUMBERS: usize = 2;

/// Floats that carry one such number.
const FLOATS_A_NUMBER: usize = 2;

/// Values, gradients and two moments of a parameter, and what the update makes on its way.
const BYTES_A_PARAMETER: f64 = 20.0;

/// Of a peer that is copied for another worker: values, two moments, and the gradient that came.
const BYTES_A_COPIED_PARAMETER: f64 = 16.0;

impl Cohort {
    /// Peers of the worker with the most.
    pub fn hosted(&self) -> usize {
        self.peers.div_ceil(self.workers)
    }

    /// P, shared parameters.
    pub fn shared_parameters(&self) -> usize {
        let specifications = Shared::specifications(&self.network(), self.work.items, self.length);
        specifications.iter().map(|s| s.len() as usize).sum()
    }

    /// Parameters of one peer's encoder.
    pub fn private_parameters(&self) -> usize {
        Encoder::specifications(&self.network()).iter().map(|s| s.len() as usize).sum()
    }

    /// Bytes and messages that the worker sends in a step that sends most bytes, and calls between workers.
    pub fn traffic(&self, mode: ExchangeMode) -> (usize, usize, usize) {
        if self.workers == 1 {
            return (0, 0, 0);
        }
        // Rows and their gradients, or distributions alone; then the all-reduce, the report and the barrier.
        let losses = if mode == ExchangeMode::Distributions { 1 } else { 2 };
        // Cross-entropies to their peers, which two of the modes have at home, and the all-reduce of counts.
        let entropies = usize::from(self.truncates && mode == ExchangeMode::Hidden);
        let reduces = 1 + usize::from(self.truncates);
        let calls = losses + entropies + reduces + 2;
        // An all-reduce is two messages to each of the others.
        let messages = (calls + reduces) * (self.workers - 1);
        let floats = (0..self.workers).map(|rank| self.floats(mode, rank)).max().unwrap_or(0);
        (4 * floats + HEADER_BYTES * messages, messages, calls)
    }

    /// Floats that a worker sends in a step.
    fn floats(&self, mode: ExchangeMode, rank: usize) -> usize {
        let rows = |rank| shard(self.work.rows, self.workers, rank).len();
        let hosted = |rank| shard(self.peers, self.workers, rank).len();
        let parameters = self.shared_parameters();
        let part = |rank| shard(parameters, self.workers, rank).len();
        let (total, others) = (self.work.rows, self.workers - 1);
        let foreign_rows = total - rows(rank);
        let foreign_peers = self.peers - hosted(rank);
        let there_and_back = hosted(rank) * foreign_rows + foreign_peers * rows(rank);
        let losses = match mode {
            ExchangeMode::Hidden => there_and_back * self.work.dimension,
            ExchangeMode::Logits => there_and_back * self.work.items,
            ExchangeMode::Distributions => others * hosted(rank) * total * self.work.items,
        };
        // Cross-entropies of the own shard to the peers' workers, and an all-reduce of one count a row.
        let to_peers = if mode == ExchangeMode::Hidden { foreign_peers * rows(rank) } else { 0 };
        let entropies = if self.truncates { to_peers + foreign_rows + others * rows(rank) } else { 0 };
        let reduce = parameters - part(rank) + others * part(rank);
        let report = others * FLOATS_A_NUMBER * (WORKER_NUMBERS + LOSS_NUMBERS * self.peers + hosted(rank));
        let to_buddy = hosted(rank) * self.private_parameters();
        losses + entropies + reduce + report + to_buddy
    }

    /// Operations of the largest worker: of layers, attention and prediction.
    pub fn operations(&self) -> [f64; 3] {
        let work = &self.work;
        let hosted = self.hosted() as f64;
        // Its share of all peers' rows, whatever it hosts.
        let answered = self.peers as f64 / self.workers as f64;
        [hosted * work.linear_flops(), hosted * work.attention_flops(), answered * work.prediction_flops()]
    }

    /// How many workers take turns on a core; below 1 where a worker has several.
    pub fn turns(&self) -> f64 {
        self.workers as f64 / self.cores as f64
    }

    /// Bytes of parameters, gradients and moments of the largest worker, the copies of its ward's included.
    pub fn parameter_bytes(&self) -> f64 {
        let hosted = self.hosted() * self.private_parameters();
        let copied = if self.workers > 1 { hosted } else { 0 };
        BYTES_A_PARAMETER * (self.shared_parameters() + hosted) as f64 + BYTES_A_COPIED_PARAMETER * copied as f64
    }

    /// Bytes of the hidden rows that the largest worker holds on their way out, as received, and back.
    pub fn row_bytes(&self) -> f64 {
        3.0 * 4.0 * (self.hosted() * self.work.rows * self.work.dimension) as f64
    }

    fn network(&self) -> NetworkConfig {
        NetworkConfig {
            dimension: self.work.dimension as i64,
            feed_forward: self.work.feed_forward as i64,
            layers: self.work.layers,
            heads: self.work.heads as i64,
            ..NetworkConfig::default()
        }
    }
}

impl Constants {
    /// A step of a cohort on this machine.
    pub fn predict(&self, cohort: &Cohort, mode: ExchangeMode) -> Prediction {
        let (bytes, messages, calls) = cohort.traffic(mode);
        let [linear, attention, prediction] = cohort.operations();
        let compute = linear * self.linear_s + attention * self.attention_s + prediction * self.prediction_s;
        let exchange_seconds =
            bytes as f64 * self.byte_s + calls as f64 * self.call_s + messages as f64 * self.message_s;
        let hosted = cohort.hosted() as f64;
        let activations = hosted * cohort.work.tokens as f64 * self.token_bytes;
        // Whole distributions lie in memory as they come and go.
        let buffers = if mode == ExchangeMode::Hidden { 0.0 } else { 2.0 * bytes as f64 / cohort.peers.max(1) as f64 };
        Prediction {
            // Every worker builds the batch and updates all shared parameters, and waits for its turn at that too.
            seconds: (self.fixed_s + compute) * cohort.turns() + exchange_seconds,
            exchange_seconds,
            bytes: bytes as f64,
            memory_bytes: self.process_bytes + cohort.parameter_bytes() + cohort.row_bytes() + activations + buffers,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::Shape;
    use ExchangeMode::{Distributions, Hidden, Logits};

    fn cohort(peers: usize, workers: usize) -> Cohort {
        let shape = Shape::Ml1m;
        let work = Work::full(&NetworkConfig::default(), shape.items(), 256, shape.length(), shape.masks());
        Cohort { work, length: shape.length(), peers, workers, cores: workers, truncates: peers > 1 }
    }

    const UNIT: Constants = Constants {
        fixed_s: 1.0,
        linear_s: 0.0,
        attention_s: 0.0,
        prediction_s: 1e-12,
        byte_s: 0.0,
        call_s: 0.0,
        message_s: 0.0,
        process_bytes: 1e8,
        token_bytes: 0.0,
    };

    #[test]
    fn one_worker_sends_nothing_and_modes_differ_by_the_width_of_a_row() {
        assert_eq!(cohort(4, 1).traffic(Hidden), (0, 0, 0));
        let bytes = |peers, mode| cohort(peers, peers).traffic(mode).0 as f64;
        // 4 bytes · 2 R d (T-1)/T of rows, 4 · 2 P (T-1)/T of the shared gradient, and 4 bytes a parameter of the hosted peer
        // make up nearly all.
        let (parameters, private) = (cohort(4, 4).shared_parameters() as f64, cohort(4, 4).private_parameters() as f64);
        let expected = 4.0 * (2.0 * 0.75 * (10240.0 * 64.0 + parameters) + private);
        assert!((bytes(4, Hidden) / expected - 1.0).abs() < 0.1, "{} {expected}", bytes(4, Hidden));
        let rows = 4.0 * 2.0 * 0.75 * 10240.0 * 3416.0;
        assert!((bytes(4, Logits) / rows - 1.0).abs() < 0.05);
        let gathered = 4.0 * 3.0 * 10240.0 * 3416.0;
        assert!((bytes(4, Distributions) / gathered - 1.0).abs() < 0.05);
        assert!(bytes(16, Hidden) / bytes(4, Hidden) < 1.3 && bytes(16, Distributions) / bytes(4, Distributions) > 4.9);
    }

    #[test]
    fn work_is_shared_out_and_workers_take_turns_on_few_cores() {
        let one_each = cohort(4, 4);
        assert_eq!(one_each.operations()[0], one_each.work.linear_flops());
        assert_eq!(cohort(4, 2).operations()[2], 2.0 * one_each.work.prediction_flops());
        // Three peers on two workers: one hosts two, but rows are shared out evenly.
        let uneven = cohort(3, 2);
        assert_eq!((uneven.hosted(), uneven.operations()[2]), (2, 1.5 * uneven.work.prediction_flops()));
        let seconds = |cores| UNIT.predict(&Cohort { cores, ..one_each }, Hidden).seconds;
        assert!((seconds(1) / seconds(4) - 4.0).abs() < 1e-9);
    }

    #[test]
    fn memory_does_not_grow_with_the_cohort_but_with_what_a_worker_hosts() {
        let memory = |peers, workers| UNIT.predict(&cohort(peers, workers), Hidden).memory_bytes;
        assert_eq!(memory(4, 4), memory(16, 16));
        assert!(memory(4, 1) > memory(4, 4));
    }
}
