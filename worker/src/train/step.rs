//! One step of the cohort: batch → hidden rows → exchange and loss → gradients → one all-reduce → clip → update.

use super::TrainError;
use super::optimizer::{Moments, clip_factor, squared_norm};
use super::schedule::Plan;
use crate::data::Batch;
use crate::exchange::{Exchange, Rows, floats};
use crate::loss::LossSums;
use crate::model::{Network, Parameters};
use medley_common::config::OptimizerConfig;
use medley_common::events::Losses;
use std::time::{Duration, Instant};
use tch::{Device, Tensor};

/// What a worker trains: networks and their moments.
pub struct Learner {
    /// Shared parameters and hosted encoders.
    pub network: Network,
    /// Moments of the shared parameters; the same on every worker.
    pub shared_moments: Moments,
    /// Moments of the hosted encoders.
    pub peer_moments: Vec<Moments>,
    /// Updates since the moments were cleared.
    pub updates: u64,
}

/// What a step did. All but `traffic` and the times is the same on every worker.
#[derive(Debug, Clone)]
pub struct StepOutcome {
    /// Losses of all T peers: means over the batch's rows.
    pub losses: Vec<Losses>,
    /// Global norm of all gradients before clipping.
    pub gradient_norm: f64,
    /// Learning rate.
    pub learning_rate: f64,
    /// Masked rows of the batch.
    pub rows: usize,
    /// Rows taken for noise.
    pub truncated_rows: usize,
    /// Whether any worker was asked to stop.
    pub stop: bool,
    /// Where the time went.
    pub split: Split,
}

/// Where a step's time went.
#[derive(Debug, Clone, Copy, Default)]
pub struct Split {
    /// Waiting for the batch, which is built while the step before computes. [`Learner::step`] leaves it at 0.
    pub data: Duration,
    /// Hosted encoders, forward.
    pub encoder: Duration,
    /// Waiting for and moving hidden rows, logits or distributions.
    pub exchange: Duration,
    /// Logits and losses of this worker's rows, and all else that is done with rows between the passes of the encoders.
    pub loss: Duration,
    /// Hosted encoders, backward.
    pub backward: Duration,
    /// Summing gradients over workers.
    pub reduce: Duration,
    /// Updates.
    pub optimizer: Duration,
}

impl Learner {
    /// Fresh moments for a network.
    pub fn new(network: Network, config: &OptimizerConfig) -> Self {
        let shared_moments = Moments::new(&network.shared.parameters, config);
        let peer_moments = network.encoders.iter().map(|e| Moments::new(&e.parameters, config)).collect();
        Self { network, shared_moments, peer_moments, updates: 0 }
    }

    /// Forgets all moments.
    pub fn clear_moments(&mut self) {
        self.shared_moments.clear();
        self.peer_moments.iter_mut().for_each(Moments::clear);
        self.updates = 0;
    }

    /// Takes step number `step`, 0-based. `stop` says whether this worker was asked to stop after it.
    ///
    /// # Errors
    /// When the exchange fails, the step has not happened on this worker. A loss that is not a number fails on every
    /// worker alike.
    pub fn step(
        &mut self,
        exchange: &mut Exchange,
        plan: &Plan,
        config: &OptimizerConfig,
        batch: &Batch,
        step: u64,
        stop: bool,
    ) -> Result<StepOutcome, TrainError> {
        let mut split = Split::default();
        let mut lap = Lap::new();
        let hidden = self.network.train_forward(batch, step);
        split.encoder = lap.time();

        let targets: Vec<i64> = batch.targets().collect();
        let rows =
            Rows { targets: &targets, loss: plan.loss(step), truncation: plan.truncation(step), slots: plan.slots() };
        let mut gradients = exchange.gradients(&mut self.network.shared, &hidden, rows)?;
        split.exchange = gradients.exchange_time;
        split.loss = lap.time() - gradients.exchange_time;

        let private = self.network.backward(&gradients.hidden, &mut gradients.shared);
        split.backward = lap.time();

        let shared = all_reduce(exchange, gradients.shared)?;
        let norms: Vec<f64> = private.iter().map(squared_norm).collect();
        let report = agree(exchange, squared_norm(&shared), &norms, &gradients.losses, stop)?;
        let norm = (report.shared_norm + report.private_norms.iter().sum::<f64>()).sqrt();
        split.reduce = lap.time();
        let losses = means(&report.losses, targets.len());
        if !norm.is_finite() || losses.iter().any(|loss| !loss.total.is_finite()) {
            return Err(TrainError::NotFinite { step: step + 1 });
        }

        let learning_rate = plan.learning_rate(step);
        if plan.resets_optimizer(step) {
            self.clear_moments();
        }
        self.update(&shared, &private, clip_factor(norm, config.clip_norm), learning_rate, config);
        split.optimizer = lap.time();
        Ok(StepOutcome {
            losses,
            gradient_norm: norm,
            learning_rate,
            rows: targets.len(),
            truncated_rows: gradients.truncated_rows,
            stop: report.stop,
            split,
        })
    }

    fn update(
        &mut self,
        shared: &Tensor,
        private: &[Tensor],
        factor: f64,
        learning_rate: f64,
        config: &OptimizerConfig,
    ) {
        self.updates += 1;
        let updates = self.updates;
        let apply = |parameters: &Parameters, moments: &mut Moments, gradient: &Tensor| {
            moments.update(parameters, gradient, factor, learning_rate, updates, config);
        };
        apply(&self.network.shared.parameters, &mut self.shared_moments, shared);
        for ((encoder, moments), gradient) in self.network.encoders.iter().zip(&mut self.peer_moments).zip(private) {
            apply(&encoder.parameters, moments, gradient);
        }
    }
}

/// Sums the shared gradient over workers; a peer's share of it exists on its own worker only.
fn all_reduce(exchange: &mut Exchange, mut gradient: Tensor) -> Result<Tensor, TrainError> {
    if exchange.placement().world_size() == 1 {
        return Ok(gradient);
    }
    if gradient.device() == Device::Cpu {
        exchange.collective().all_reduce_sum(floats::slice_mut(&mut gradient))?;
        return Ok(gradient);
    }
    let mut values = floats::to_vec(&gradient);
    exchange.collective().all_reduce_sum(&mut values)?;
    Ok(floats::to_tensor(&values, &gradient.size(), gradient.device()))
}

/// Numbers that report a peer's losses.
const LOSSES: usize = 5;

/// What all workers know after a step.
struct Report {
    /// Squared, as rank 0 computed it.
    shared_norm: f64,
    /// Squared, by peer.
    private_norms: Vec<f64>,
    /// Sums over the batch's rows, by peer: total, cross-entropy, positive, negative, divergence.
    losses: Vec<[f64; LOSSES]>,
    stop: bool,
}

/// Gathers squared norms of gradients, loss sums and stop requests, and adds them up in the order of ranks and peers, so
/// that all workers hold the same bits. The shared gradient is everybody's, but unlike processors may differ in the last
/// bit of its norm: rank 0's counts.
fn agree(
    exchange: &mut Exchange,
    shared_norm: f64,
    norms: &[f64],
    losses: &LossSums,
    stop: bool,
) -> Result<Report, TrainError> {
    let placement = exchange.placement().clone();
    let peers = placement.peers();
    let mut mine = vec![f64::from(u8::from(stop)), shared_norm];
    mine.extend(losses.peers.iter().flat_map(|p| [p.total, p.ce, p.pos, p.neg, p.kl]));
    let common = mine.len();
    mine.extend_from_slice(norms);
    let lengths = placement.hosted().map(|hosted| common + hosted);
    let mut received: Vec<Vec<f32>> = lengths.map(|length| vec![0.0; 2 * length]).collect();
    let mut parts: Vec<&mut [f32]> = received.iter_mut().map(Vec::as_mut_slice).collect();
    exchange.collective().all_gather(&split_numbers(&mine), &mut parts)?;

    let mut report =
        Report { shared_norm: 0.0, private_norms: vec![0.0; peers], losses: vec![[0.0; LOSSES]; peers], stop: false };
    for (rank, received) in received.iter().enumerate() {
        let numbers = join_numbers(received);
        report.stop |= numbers[0] > 0.0;
        if rank == 0 {
            report.shared_norm = numbers[1];
        }
        for (sum, part) in report.losses.iter_mut().zip(numbers[2..common].chunks_exact(LOSSES)) {
            sum.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
        }
        for (peer, norm) in placement.peers_of(rank).iter().zip(&numbers[common..]) {
            report.private_norms[*peer as usize] = *norm;
        }
    }
    Ok(report)
}

/// Each number as a float and what the float leaves of it: 48 bits of precision over a wire of floats.
pub fn split_numbers(numbers: &[f64]) -> Vec<f32> {
    numbers
        .iter()
        .flat_map(|number| {
            let high = *number as f32;
            let rest = if high.is_finite() { (number - f64::from(high)) as f32 } else { 0.0 };
            [high, rest]
        })
        .collect()
}

/// The inverse of [`split_numbers`].
pub fn join_numbers(floats: &[f32]) -> Vec<f64> {
    floats.chunks_exact(2).map(|pair| f64::from(pair[0]) + f64::from(pair[1])).collect()
}

fn means(sums: &[[f64; LOSSES]], rows: usize) -> Vec<Losses> {
    let mean = |sum: &[f64; LOSSES]| {
        let [total, cross_entropy, positive, negative, divergence] = sum.map(|sum| sum / rows as f64);
        Losses { total, cross_entropy, positive, negative, divergence }
    };
    sums.iter().map(mean).collect()
}

/// Time since the last call.
struct Lap(Instant);

impl Lap {
    fn new() -> Self {
        Self(Instant::now())
    }

    fn time(&mut self) -> Duration {
        let now = Instant::now();
        let elapsed = now - self.0;
        self.0 = now;
        elapsed
    }
}
