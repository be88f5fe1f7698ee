//! One step of the cohort: batch → hidden rows → exchange and loss → gradients → one all-reduce → agreement → update.
//!
//! A step commits on all peers or on none, in three parts:
//!
//! 1. **Prepare.** All that the update needs is computed and exchanged: summed gradients, the norm that clips them, and at
//!    the buddy of each worker the gradients of its peers. The last exchange of this part is one all-to-all ([`agree`]).
//! 2. **Acknowledge.** A barrier. Who passes it knows that everybody has prepared.
//! 3. **Commit.** The update: shared parameters, hosted peers, and with the same function, clip factor and learning rate
//!    the copies that this worker keeps for others. A copy is so bit-equal to its original after every step, at a third
//!    of the bytes that parameters and moments have, and is never ahead of it.
//!
//! When a generation ends in between, a worker has committed step s + 1, or has prepared it, or neither. If any worker
//! committed, it had passed the barrier, so all had prepared, and every survivor can commit too: it holds its own
//! update ([`Learner::commit`] again) and, as a buddy, those of whoever is lost. If any survivor had not prepared, nobody
//! had passed the barrier, so nobody committed, and those that had prepared drop the update ([`Learner::withdraw`]). If all
//! survivors had prepared and none committed, the lost ones may have; going forward is then right either way. So the
//! reports of the survivors alone always decide between s and s + 1, and no worker needs to undo anything.

use super::TrainError;
use super::agreement::{Agreement, LOSSES, Share, Wishes, agree};
use super::optimizer::{Moments, clip_factor, squared_norm};
use super::schedule::Plan;
use crate::data::Batch;
use crate::exchange::{Exchange, Placement, Rows, floats};
use crate::faults;
use crate::model::{Encoder, Network, Parameters};
use medley_common::config::{OptimizerConfig, RunConfig};
use medley_common::events::Losses;
use medley_common::faults::Moment;
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
    /// Copies of the peers of this worker's wards, in the order of ranks and of the placement.
    pub copies: Vec<Copied>,
    /// Updates since the moments were cleared.
    pub updates: u64,
    pending: Option<Pending>,
}

/// A peer's private state, kept for the worker that hosts it.
pub struct Copied {
    /// Whose.
    pub peer: u32,
    /// Its encoder's parameters.
    pub parameters: Parameters,
    /// Their moments.
    pub moments: Moments,
}

/// A step that is prepared and not committed.
struct Pending {
    shared: Tensor,
    private: Vec<Tensor>,
    copies: Vec<Tensor>,
    /// What the gradients are multiplied by.
    factor: f64,
    clears_moments: bool,
    outcome: StepOutcome,
}

/// What a step did. All but `traffic` and the times is the same on every worker.
#[derive(Debug, Clone)]
pub struct StepOutcome {
    /// Losses of all T peers, by position: means over the batch's rows.
    pub losses: Vec<Losses>,
    /// Global norm of all gradients before clipping.
    pub gradient_norm: f64,
    /// Learning rate.
    pub learning_rate: f64,
    /// Masked rows of the batch.
    pub rows: usize,
    /// Rows taken for noise.
    pub truncated_rows: usize,
    /// What any worker was asked to do after the step.
    pub wishes: Wishes,
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

impl Split {
    /// All of it.
    pub fn total(&self) -> Duration {
        let Self { data, encoder, exchange, loss, backward, reduce, optimizer } = *self;
        data + encoder + exchange + loss + backward + reduce + optimizer
    }
}

impl Learner {
    /// A rank's learner at the beginning of a training.
    pub fn draw(config: &RunConfig, items: usize, placement: &Placement, device: Device) -> Self {
        let network = Network::draw(config, items, placement.own(), device);
        let moments = |parameters: &Parameters| Moments::new(parameters, &config.optimizer);
        let shared_moments = moments(&network.shared.parameters);
        let peer_moments = network.encoders.iter().map(|encoder| moments(&encoder.parameters)).collect();
        let copies = placement.wards(placement.rank()).flat_map(|ward| placement.peers_of(ward)).map(|peer| {
            let parameters = Encoder::draw(&config.network, config.seed, *peer, device).parameters;
            Copied { peer: *peer, moments: moments(&parameters), parameters }
        });
        let copies = copies.collect();
        Self::with_moments(network, shared_moments, peer_moments, copies, 0)
    }

    /// A learner of states that are there already.
    pub fn with_moments(
        network: Network,
        shared_moments: Moments,
        peer_moments: Vec<Moments>,
        copies: Vec<Copied>,
        updates: u64,
    ) -> Self {
        Self { network, shared_moments, peer_moments, copies, updates, pending: None }
    }

    /// Forgets all moments.
    pub fn clear_moments(&mut self) {
        self.shared_moments.clear();
        self.peer_moments.iter_mut().for_each(Moments::clear);
        self.copies.iter_mut().for_each(|copy| copy.moments.clear());
        self.updates = 0;
    }

    /// Takes step number `step`, 0-based. `wishes` says what this worker was asked to do after it.
    ///
    /// # Errors
    /// When the exchange fails, the step has not happened on this worker; [`Learner::is_prepared`] says whether it still
    /// can. A loss that is not a number fails on every worker alike.
    pub fn step(
        &mut self,
        exchange: &mut Exchange,
        plan: &Plan,
        config: &OptimizerConfig,
        batch: &Batch,
        step: u64,
        wishes: Wishes,
    ) -> Result<StepOutcome, TrainError> {
        self.pending = None;
        faults::strike(step + 1, Moment::Beginning);
        self.pending = Some(self.prepare(exchange, plan, config, batch, step, wishes)?);
        faults::strike(step + 1, Moment::Prepared);
        let mut lap = Lap::new();
        exchange.collective().barrier()?;
        let acknowledged = lap.time();
        let mut outcome = self.commit(config).expect("the step was prepared above");
        outcome.split.reduce += acknowledged;
        outcome.split.optimizer = lap.time();
        faults::strike(step + 1, Moment::Committed);
        Ok(outcome)
    }

    /// Whether a step is prepared that was not committed.
    pub fn is_prepared(&self) -> bool {
        self.pending.is_some()
    }

    /// Commits the prepared step, if there is one.
    pub fn commit(&mut self, config: &OptimizerConfig) -> Option<StepOutcome> {
        let pending = self.pending.take()?;
        if pending.clears_moments {
            self.clear_moments();
        }
        self.update(&pending, config);
        Some(pending.outcome)
    }

    /// Drops the prepared step, which nobody committed.
    pub fn withdraw(&mut self) {
        self.pending = None;
    }

    fn prepare(
        &mut self,
        exchange: &mut Exchange,
        plan: &Plan,
        config: &OptimizerConfig,
        batch: &Batch,
        step: u64,
        wishes: Wishes,
    ) -> Result<Pending, TrainError> {
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
        let (shared_norm, losses) = (squared_norm(&shared), &gradients.losses);
        let share = Share { shared_norm, norms: &norms, losses, wishes, private: &private };
        let Agreement { shared_norm, private_norms, losses, wishes, copies } = agree(exchange, &share)?;
        let norm = (shared_norm + private_norms.iter().sum::<f64>()).sqrt();
        split.reduce = lap.time();
        let losses = means(&losses, targets.len());
        if !norm.is_finite() || losses.iter().any(|loss| !loss.total.is_finite()) {
            return Err(TrainError::NotFinite { step: step + 1 });
        }
        let outcome = StepOutcome {
            losses,
            gradient_norm: norm,
            learning_rate: plan.learning_rate(step),
            rows: targets.len(),
            truncated_rows: gradients.truncated_rows,
            wishes,
            split,
        };
        let factor = clip_factor(norm, config.clip_norm);
        Ok(Pending { shared, private, copies, factor, clears_moments: plan.resets_optimizer(step), outcome })
    }

    fn update(&mut self, pending: &Pending, config: &OptimizerConfig) {
        self.updates += 1;
        let (updates, learning_rate) = (self.updates, pending.outcome.learning_rate);
        let apply = |parameters: &Parameters, moments: &mut Moments, gradient: &Tensor| {
            moments.update(parameters, gradient, pending.factor, learning_rate, updates, config);
        };
        apply(&self.network.shared.parameters, &mut self.shared_moments, &pending.shared);
        let hosted = self.network.encoders.iter().zip(&mut self.peer_moments);
        for ((encoder, moments), gradient) in hosted.zip(&pending.private) {
            apply(&encoder.parameters, moments, gradient);
        }
        for (copy, gradient) in self.copies.iter_mut().zip(&pending.copies) {
            apply(&copy.parameters, &mut copy.moments, gradient);
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
