//! Entering a generation: from what the workers hold and checkpoints have to the states that the generation begins with.
//!
//! 1. A prepared step is committed or dropped, as the generation's step says.
//! 2. All tell what shared parameters they hold (by a checksum: a worker that comes from another course of the training
//!    may hold others of the same step) and where the training stands. Of those with the right parameters, whoever got
//!    furthest within the step, by a validation, is believed.
//! 3. What is drawn or read, each new host draws or reads itself. What a worker holds moves to the new host.
//! 4. Every hosted peer's state goes to the buddy.
//! 5. The states take the place of those of the last generation, and a barrier follows. A failure up to there loses nothing:
//!    until the new states are whole, what was held stays as it was, and until the barrier is passed, what was held of peers
//!    that others host now stays beside them. Behind it only states of peers that take no part are kept, so that they can
//!    come back.

mod arrival;
mod claims;
mod sources;

use super::TrainError;
use super::error::assignment;
use super::holdings::{Snapshot, State};
use super::optimizer::Moments;
use super::step::{Copied, Learner};
use super::trainer::{Reporter, Trainer};
use crate::checkpoint::Checkpoint;
use crate::exchange::{Exchange, Placement};
use crate::model::{Encoder, Network, Parameters, Shared};
use arrival::Arrival;
use medley_common::config::RunConfig;
use medley_common::proto;
use medley_common::run_directory;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tch::Tensor;

/// Where a state comes from.
#[derive(Debug, Clone, PartialEq)]
pub enum Origin {
    /// Drawn from the seed.
    Fresh,
    /// A committed checkpoint's directory.
    Checkpoint(PathBuf),
    /// A worker of the generation holds it.
    Rank(usize),
    /// Another peer's parameters, held by a worker, with noise; moments begin at 0.
    Copy {
        /// The peer that is copied.
        peer: u32,
        /// Who holds it.
        rank: usize,
        /// Standard deviation of the noise, as a share of the root mean square of each tensor.
        noise: f64,
    },
}

/// Longest wait for another member while a generation forms and its states move. The coordinator gives up a generation that is
/// not ready after `launch.join_ms`, and the job with it: whoever misses a rank must have said which one before.
pub fn meeting_deadline(config: &RunConfig) -> Duration {
    let join = Duration::from_millis(config.launch.join_ms);
    join.saturating_sub(Duration::from_secs_f64(config.exchange.deadline_seconds)).max(join / 2)
}

/// How a generation begins.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Where the shared parameters and the training's state come from.
    pub shared: Origin,
    /// Where every peer of the generation comes from.
    pub peers: BTreeMap<u32, Origin>,
    /// Steps committed.
    pub step: u64,
    /// The last committed checkpoint's step, where there is one.
    pub checkpoint_step: Option<u64>,
}

impl Entry {
    /// The entry of an assignment.
    ///
    /// # Errors
    /// One line about what it leaves out.
    pub fn of(assigned: &proto::Assignment) -> Result<Self, TrainError> {
        let run = Path::new(&assigned.run_directory);
        let peers = assigned.peers.iter().map(|peer| Ok((peer.peer, origin(peer.origin.as_ref(), run)?)));
        Ok(Self {
            shared: origin(assigned.shared.as_ref(), run)?,
            peers: peers.collect::<Result<_, TrainError>>()?,
            step: assigned.step,
            checkpoint_step: Some(assigned.checkpoint_step).filter(|step| *step > 0),
        })
    }

    /// The beginning of a training.
    pub fn fresh(placement: &Placement) -> Self {
        Self::from_one(placement, &Origin::Fresh, 0)
    }

    /// The rest of a training of which a checkpoint was kept.
    ///
    /// # Errors
    /// When there is none.
    pub fn checkpoint(placement: &Placement, directory: &Path) -> Result<Self, TrainError> {
        let step = Checkpoint::open(directory)?.manifest().step;
        Ok(Self::from_one(placement, &Origin::Checkpoint(directory.to_owned()), step))
    }

    fn from_one(placement: &Placement, origin: &Origin, step: u64) -> Self {
        let peers = placement.ids().iter().map(|peer| (*peer, origin.clone())).collect();
        Self { shared: origin.clone(), peers, step, checkpoint_step: Some(step).filter(|step| *step > 0) }
    }

    fn origin_of(&self, peer: u32) -> Result<&Origin, TrainError> {
        self.peers.get(&peer).ok_or_else(|| assignment(format!("it does not say where peer {peer} comes from")))
    }
}

fn origin(origin: Option<&proto::Origin>, run: &Path) -> Result<Origin, TrainError> {
    use proto::origin::From;
    match origin.and_then(|origin| origin.from.as_ref()) {
        Some(From::Fresh(_)) => Ok(Origin::Fresh),
        Some(From::Checkpoint(directory)) => Ok(Origin::Checkpoint(run_directory::place(run, directory))),
        Some(From::Rank(rank)) => Ok(Origin::Rank(*rank as usize)),
        Some(From::Copy(copy)) => Ok(Origin::Copy { peer: copy.peer, rank: copy.rank as usize, noise: copy.noise }),
        None => Err(assignment("it leaves out where a state comes from".into())),
    }
}

impl Trainer<'_> {
    /// Enters a generation: makes the learner that its first step needs, and meets the others behind a barrier.
    ///
    /// # Errors
    /// When the exchange fails, nothing that this worker held is lost. When the assignment cannot be followed, or a
    /// checkpoint be read.
    pub fn enter(
        &mut self,
        exchange: &mut Exchange,
        entry: &Entry,
        reporter: &mut dyn Reporter,
    ) -> Result<(), TrainError> {
        self.abort = exchange.collective().abort_handle();
        self.settle(entry, reporter);
        let placement = exchange.placement().clone();
        if let Some(peer) = entry.peers.keys().find(|peer| placement.position(**peer).is_none()) {
            return Err(assignment(format!("it says where peer {peer} comes from, which no rank hosts")));
        }
        if entry.step == 0 {
            // What is wrong with the input shows before the first step.
            self.examiner()?;
        }
        // Who reads from a checkpoint keeps the others waiting for longer than any step does.
        exchange.collective().set_deadline(meeting_deadline(self.config));
        let entered = self.move_in(exchange, entry, placement);
        exchange.collective().set_deadline(Duration::from_secs_f64(self.config.exchange.deadline_seconds));
        entered?;
        let Self { placement, extras, .. } = self;
        extras.retain(|held| placement.position(held.peer).is_none());
        exchange.take_traffic();
        Ok(())
    }

    /// Gets the states, passes them on, and meets the others.
    fn move_in(&mut self, exchange: &mut Exchange, entry: &Entry, placement: Placement) -> Result<(), TrainError> {
        let arrival = self.arrive(exchange, entry)?;
        let copies = self.exchange_copies(exchange, entry, &arrival)?;
        self.install(placement, entry, arrival, copies);
        self.saving.generation = exchange.collective().generation();
        Ok(exchange.collective().barrier()?)
    }

    /// Commits a prepared step where the generation begins behind it, and drops it where nobody committed it.
    fn settle(&mut self, entry: &Entry, reporter: &mut dyn Reporter) {
        let goes_on = matches!(entry.shared, Origin::Rank(_)) && entry.step == self.step + 1;
        let Some(learner) = self.learner.as_mut().filter(|learner| learner.is_prepared()) else {
            return;
        };
        if !goes_on {
            return learner.withdraw();
        }
        let Some(outcome) = learner.commit(&self.config.optimizer) else {
            return;
        };
        let took = outcome.split.total();
        let traffic = crate::collective::Traffic::default();
        self.committed(&outcome, took, traffic, reporter);
    }

    /// Puts the generation's states in the place of the last one's. What this worker held of other peers stays at hand.
    fn install(&mut self, placement: Placement, entry: &Entry, arrival: Arrival, copies: Vec<(u32, State)>) {
        let Arrival { state, shared, hosted } = arrival;
        let active = |peer: u32| hosted.iter().chain(&copies).any(|(other, _)| *other == peer);
        let mut extras = self.held();
        // A peer that comes from elsewhere at another step is not to be taken from here any more, nor one that is of steps
        // that were undone.
        extras.retain(|held| {
            let is_away = placement.position(held.peer).is_none();
            !active(held.peer) && (held.step == entry.step || (is_away && held.step < entry.step))
        });
        extras.sort_by_key(|held| (held.peer, held.step));
        extras.reverse();
        extras.dedup_by_key(|held| held.peer);
        self.extras = extras;

        let patient = self.config.train.patience > 0 && state.best_metric.is_some();
        let is_best = state.best_step == entry.step;
        let best = patient.then(|| Snapshot {
            shared: best_of(&shared, is_best),
            encoders: hosted.iter().map(|(_, state)| best_of(state, is_best)).collect(),
            copies: copies.iter().map(|(_, state)| best_of(state, is_best)).collect(),
        });
        let (config, items) = (self.config, self.dataset.items);
        let moments = |parameters: &Parameters, state: State| {
            Moments::over(parameters, &config.optimizer, state.first, state.second)
        };
        let common = Shared::over(&config.network, items, config.samples.max_length, shared.values.shallow_clone());
        let shared_moments = moments(&common.parameters, shared);
        let peers = hosted.iter().map(|(peer, _)| *peer).collect();
        let (encoders, peer_moments) = hosted
            .into_iter()
            .map(|(_, state)| {
                let encoder = Encoder::over(&config.network, state.values.shallow_clone());
                let moments = moments(&encoder.parameters, state);
                (encoder, moments)
            })
            .unzip();
        let copies = copies
            .into_iter()
            .map(|(peer, state)| {
                let specifications = Encoder::specifications(&config.network);
                let parameters = Parameters::over(specifications, state.values.shallow_clone());
                let moments = moments(&parameters, state);
                Copied { peer, parameters, moments }
            })
            .collect();
        let network = Network::of(config, common, peers, encoders);
        let updates = state.optimizer_steps;
        self.learner = Some(Learner::with_moments(network, shared_moments, peer_moments, copies, updates));
        let goes_on = matches!(entry.shared, Origin::Rank(_));
        if !goes_on {
            // Another course of the training: what it is worth is not known yet.
            self.evaluated.clear();
        }
        self.plan.set_peers(placement.peers());
        self.placement = placement;
        self.state = state;
        self.step = entry.step;
        self.entered = goes_on.then_some(entry.step);
        self.saving.saved = entry.checkpoint_step;
        self.best = best;
    }
}

/// Parameters at the best validation; those of now where that is what they are, or the peer was not there then.
fn best_of(state: &State, is_best: bool) -> Tensor {
    let before = state.best.as_ref().filter(|_| !is_best);
    before.map_or_else(|| state.values.copy(), Tensor::shallow_clone)
}
