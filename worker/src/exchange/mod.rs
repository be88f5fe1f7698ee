//! How peers learn what the others believe: from every hosted peer's hidden rows to their gradients.
//!
//! The losses are row-wise, so the rows are sharded over the workers; the peers' distributions over a row meet in one
//! place, and what crosses the wire is as small as the mode allows:
//!
//! | mode | out | back | floats a worker sends, R rows, T peers, one a worker |
//! |---|---|---|---|
//! | [`hidden`] | hidden rows `[R, d]` | their gradients | `2 R d (T-1)/T` |
//! | [`logits`] | logits `[R, V]` | their gradients | `2 R V (T-1)/T` |
//! | [`distributions`] | probabilities `[R, V]` to everybody | nothing | `R V (T-1)` |
//!
//! All three yield the same gradients to float tolerance. In each, rows are worked on in chunks; nothing of size R×V is
//! kept. [`Exchange::gradients`] is the entry; [`output_layer`] the products with the item table around the loss;
//! [`placement`] says which peers live where; [`floats`] is the border between tensors and slices.

mod distributions;
pub mod floats;
mod hidden;
mod logits;
mod output_layer;
mod placement;
mod prediction;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod prediction_tests;
mod truncation;

use crate::collective::{Collective, CollectiveError, Traffic};
use crate::loss::{ChunkRows, LossKernel, LossSpec, LossSums, Truncation};
use crate::model::Shared;
use medley_common::config::{ExchangeConfig, ExchangeMode, Precision, RunConfig};
use output_layer::OutputLayer;
use std::ops::Range;
use std::time::{Duration, Instant};
use tch::{Device, Tensor};

pub use placement::Placement;
pub use prediction::{Computed, Parts as PredictionParts, Prediction};

/// The exchange of one worker.
pub struct Exchange {
    collective: Box<dyn Collective>,
    placement: Placement,
    mode: ExchangeMode,
    chunk_rows: usize,
    precision: Precision,
    /// Whether [`Prediction`] computes losses on the processor; libtorch's graph does elsewhere, and in tests of the two.
    fuses_losses: bool,
}

/// The batch's rows, as every worker knows them.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    /// The item that stands at each row, `[R]`.
    pub targets: &'a [i64],
    /// The loss of this step.
    pub loss: LossSpec,
    /// Which rows count as noise.
    pub truncation: Option<Truncation>,
    /// Slots of the batch, of which the noise may be a share.
    pub slots: usize,
}

/// What the cross-peer loss asks of the parameters.
pub struct Gradients {
    /// Gradient of every hosted peer's hidden rows, each `[R, d]`.
    pub hidden: Vec<Tensor>,
    /// Gradient of the prediction layer from the rows that this worker worked on, flat over all shared parameters.
    pub shared: Tensor,
    /// Sums over the same rows. Added up over workers they cover every row of every peer once.
    pub losses: LossSums,
    /// Rows taken for noise, of the whole batch.
    pub truncated_rows: usize,
    /// Time spent waiting for and moving bytes.
    pub exchange_time: Duration,
    /// Time spent on logits and losses.
    pub loss_time: Duration,
}

impl Exchange {
    /// A job's exchange over a formed group.
    pub fn new(collective: Box<dyn Collective>, placement: Placement, config: &RunConfig) -> Self {
        let ExchangeConfig { mode, chunk_rows, .. } = config.exchange;
        Self { collective, placement, mode, chunk_rows, precision: config.train.precision, fuses_losses: true }
    }

    /// Which peers live where.
    pub fn placement(&self) -> &Placement {
        &self.placement
    }

    /// The group.
    pub fn collective(&mut self) -> &mut dyn Collective {
        &mut *self.collective
    }

    /// Whether the losses of rows on a device are computed by [`Prediction`].
    fn fuses(&self, device: Device) -> bool {
        self.fuses_losses && device == Device::Cpu
    }

    /// Bytes since the last call.
    pub fn take_traffic(&mut self) -> Traffic {
        self.collective.take_traffic()
    }

    /// Turns the hosted peers' hidden rows, each `[R, d]` and free of a graph, into their gradients.
    ///
    /// # Errors
    /// Those of the collective; the step has then not happened.
    pub fn gradients(
        &mut self,
        shared: &mut Shared,
        hidden: &[Tensor],
        rows: Rows<'_>,
    ) -> Result<Gradients, CollectiveError> {
        let output = OutputLayer::new(shared, self.chunk_rows, self.placement.peers());
        let mut pass = Pass { exchange: self, shared, rows, output, clock: Clock::default() };
        match pass.exchange.mode {
            ExchangeMode::Hidden => hidden::gradients(&mut pass, hidden),
            ExchangeMode::Logits => logits::gradients(&mut pass, hidden),
            ExchangeMode::Distributions => distributions::gradients(&mut pass, hidden),
        }
    }
}

/// One step's pass through the exchange.
struct Pass<'a> {
    exchange: &'a mut Exchange,
    shared: &'a mut Shared,
    rows: Rows<'a>,
    output: OutputLayer,
    clock: Clock,
}

impl Pass<'_> {
    fn finish(self_: &mut Self, hidden: Vec<Tensor>, losses: LossSums, truncated: &[bool]) -> Gradients {
        let shared = self_.shared.parameters.take_gradients();
        if let Some([weights, bias]) = self_.output.gradients() {
            self_.shared.add_output_gradients(&shared, weights, bias);
        }
        self_.collected(hidden, shared, losses, truncated)
    }

    fn collected(&self, hidden: Vec<Tensor>, shared: Tensor, losses: LossSums, truncated: &[bool]) -> Gradients {
        Gradients {
            hidden,
            shared,
            losses,
            truncated_rows: truncated.iter().filter(|truncated| **truncated).count(),
            exchange_time: self.clock.exchange,
            loss_time: self.clock.loss,
        }
    }

    fn all_to_all(&mut self, send: &[Vec<f32>], receive: &mut [Vec<f32>]) -> Result<(), CollectiveError> {
        let start = Instant::now();
        let send: Vec<&[f32]> = send.iter().map(Vec::as_slice).collect();
        let mut receive: Vec<&mut [f32]> = receive.iter_mut().map(Vec::as_mut_slice).collect();
        let result = self.exchange.collective.all_to_all(&send, &mut receive);
        self.clock.exchange += start.elapsed();
        result
    }

    /// Gathers from every rank `per_peer` floats for each peer that it hosts, and returns them by peer: `[T * per_peer]`.
    fn all_gather_by_peer(&mut self, mine: &[f32], per_peer: usize) -> Result<Vec<f32>, CollectiveError> {
        let start = Instant::now();
        let mut received = self.exchange.placement.buffers(|_| per_peer);
        let mut parts: Vec<&mut [f32]> = received.iter_mut().map(Vec::as_mut_slice).collect();
        let result = self.exchange.collective.all_gather(mine, &mut parts);
        self.clock.exchange += start.elapsed();
        result?;
        Ok(self.exchange.placement.by_peer(&received, per_peer))
    }

    /// Some rows of the batch, as the loss takes them.
    fn chunk<'c>(&'c self, range: Range<usize>, truncated: &'c [bool]) -> ChunkRows<'c> {
        ChunkRows {
            targets: &self.rows.targets[range.clone()],
            weights: None,
            truncated: Some(&truncated[range]),
            catalogue: self.output.catalogue(),
            scale: 1.0 / self.rows.loss.denominator(self.rows.targets.len() as f64),
        }
    }

    /// Cross-entropies of some rows, `[peers, rows]`, from their logits.
    fn cross_entropies(&self, range: Range<usize>, logits: &[f32]) -> Vec<f32> {
        let peers = logits.len() / (range.len() * self.output.catalogue());
        let mut entropies = vec![0.0; peers * range.len()];
        let rows = ChunkRows {
            targets: &self.rows.targets[range],
            weights: None,
            truncated: None,
            catalogue: self.output.catalogue(),
            scale: 1.0,
        };
        kernel().cross_entropies(&rows, logits, &mut entropies).expect(SHAPES);
        entropies.into_iter().map(|entropy| entropy as f32).collect()
    }

    fn timed_loss<T>(&mut self, work: impl FnOnce(&mut Self) -> T) -> T {
        let start = Instant::now();
        let result = work(self);
        self.clock.loss += start.elapsed();
        result
    }
}

/// Why the loss cannot refuse what it is given here.
const SHAPES: &str = "chunks are cut to the loss's shapes, and targets come from the catalogue";

/// The loss on all of this worker's threads.
fn kernel() -> LossKernel {
    LossKernel::new().on_threads(true)
}

#[derive(Debug, Default)]
struct Clock {
    exchange: Duration,
    loss: Duration,
}
