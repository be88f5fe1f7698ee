//! Entering a generation: from what the workers hold and checkpoints have to the states that the generation begins with.
//!
//! 1. A prepared step is committed or dropped, as the generation's step says.
//! 2. All tell what shared parameters they hold (by a checksum: a worker that comes from another course of the training
//!    may hold others of the same step) and where the training stands. Of those with the right parameters, whoever got
//!    furthest within the step, by a validation, is believed.
//! 3. What is drawn or read, each new host draws or reads itself. What a worker holds moves to the new host.
//! 4. Every hosted peer's state goes to the buddy.
//! 5. A barrier. Up to here each worker keeps what it held before beside what it got, so that a failure loses nothing;
//!    behind it only states of peers that take no part are kept, so that they can come back.

use super::TrainError;
use super::error::assignment;
use super::holdings::{Held, Snapshot, State};
use super::optimizer::Moments;
use super::step::{Copied, Learner};
use super::trainer::{Reporter, Trainer};
use super::transfer::{Parcel, deliver};
use crate::checkpoint::{self, Checkpoint};
use crate::exchange::{Exchange, Placement};
use crate::model::{Encoder, Network, Parameters, Shared};
use crate::random::{Purpose, stream};
use medley_common::manifest::TrainingState;
use medley_common::{proto, run_directory};
use rand_distr::{Distribution, StandardNormal};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tch::{Device, Kind, Tensor};

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

/// What one rank holds of the shared parameters when it enters.
struct Claim {
    /// Nothing where it holds none of the generation's step.
    checksum: Option<u32>,
    state: Option<TrainingState>,
}

/// Bytes that a training's state has as JSON, at most; it travels as a float a byte, filled up with spaces.
const STATE_BYTES: usize = 2048;

/// A state on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cargo {
    Shared,
    /// What the new host makes `peer` of: the state of peer `of`.
    Peer {
        peer: u32,
        of: u32,
    },
}

/// The beginning of a generation as this rank makes it.
struct Arrival {
    state: TrainingState,
    shared: State,
    /// In the order of the placement.
    hosted: Vec<(u32, State)>,
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
        let arrival = self.arrive(exchange, entry)?;
        let copies = self.exchange_copies(exchange, entry, &arrival)?;
        self.install(placement, entry, arrival, copies);
        self.saving.generation = exchange.collective().generation();
        exchange.collective().barrier()?;
        let Self { placement, extras, .. } = self;
        extras.retain(|held| placement.position(held.peer).is_none());
        exchange.take_traffic();
        Ok(())
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

    fn device(&self) -> Device {
        self.device
    }

    /// The states of the peers hosted here, and the shared one.
    fn arrive(&self, exchange: &mut Exchange, entry: &Entry) -> Result<Arrival, TrainError> {
        let placement = exchange.placement().clone();
        let (source, claims) = match &entry.shared {
            Origin::Rank(source) if *source < placement.world_size() => {
                (Some(*source), self.claims(exchange, entry.step)?)
            }
            Origin::Fresh | Origin::Checkpoint(_) => (None, Vec::new()),
            other => return Err(assignment(format!("the shared parameters cannot come from {other:?}"))),
        };
        let state = self.training_state(entry, source, &claims)?;
        let with_best = self.has_best(&state, entry.step);
        let held = self.held();

        let shared_length = self.shared_length();
        let mut parcels = Vec::new();
        for (to, claim) in claims.iter().enumerate() {
            if let Some(from) = source.filter(|from| claim.checksum != claims[*from].checksum) {
                parcels.push(Parcel { from, to, length: State::floats(shared_length, with_best), what: Cargo::Shared });
            }
        }
        let length = State::floats(self.private_length(), with_best);
        for peer in placement.ids() {
            let (from, of) = match entry.origin_of(*peer)? {
                Origin::Fresh | Origin::Checkpoint(_) => continue,
                Origin::Rank(rank) => (*rank, *peer),
                Origin::Copy { peer, rank, .. } => (*rank, *peer),
            };
            if from >= placement.world_size() {
                return Err(assignment(format!("peer {peer} cannot come from rank {from}, which does not exist")));
            }
            let to = placement.host(*peer).expect("every id of a placement has a host");
            if from != to {
                parcels.push(Parcel { from, to, length, what: Cargo::Peer { peer: *peer, of } });
            }
        }
        let load = |cargo| match cargo {
            Cargo::Shared => Ok(self.own_shared()?.to_floats(with_best)),
            Cargo::Peer { of, .. } => Ok(find(&held, of, entry.step, &state)?.to_floats(with_best)),
        };
        let mut got: Vec<(Cargo, State)> = deliver(exchange.collective(), &parcels, load)?
            .into_iter()
            .map(|(cargo, floats)| (cargo, State::from_floats(&floats, with_best, self.device())))
            .collect();
        let mut took = |cargo: Cargo| {
            let place = got.iter().position(|(other, _)| *other == cargo)?;
            Some(got.swap_remove(place).1)
        };

        let shared = match (&entry.shared, took(Cargo::Shared)) {
            (_, Some(state)) => state,
            (Origin::Fresh, _) => self.fresh_shared(),
            (Origin::Checkpoint(directory), _) => self.read_shared(directory, &state)?,
            _ => self.own_shared()?,
        };
        let mut hosted = Vec::new();
        for peer in placement.own() {
            let origin = entry.origin_of(*peer)?;
            let of = if let Origin::Copy { peer, .. } = origin { *peer } else { *peer };
            let made = match (origin, took(Cargo::Peer { peer: *peer, of })) {
                (Origin::Fresh, _) => self.fresh_peer(*peer),
                (Origin::Checkpoint(directory), _) => self.read_peer(*peer, directory, &state)?,
                (Origin::Copy { noise, .. }, Some(state)) => self.differing(&state, *noise, *peer, entry.step),
                (Origin::Copy { noise, .. }, None) => {
                    self.differing(&find(&held, of, entry.step, &state)?, *noise, *peer, entry.step)
                }
                (Origin::Rank(_), Some(state)) => state,
                (Origin::Rank(_), None) => find(&held, of, entry.step, &state)?,
            };
            hosted.push((*peer, made));
        }
        Ok(Arrival { state, shared, hosted })
    }

    /// What every rank holds of the shared parameters.
    fn claims(&self, exchange: &mut Exchange, step: u64) -> Result<Vec<Claim>, TrainError> {
        let mut mine = vec![0.0; 3 + STATE_BYTES];
        if let Some(learner) = self.learner.as_ref().filter(|_| self.step == step) {
            let checksum = learner.shared_state(None).checksum();
            // Sixteen bits are a float without loss.
            mine[..3].copy_from_slice(&[1.0, (checksum >> 16) as f32, (checksum & 0xffff) as f32]);
            let text = serde_json::to_string(&self.state).map_err(|error| assignment(error.to_string()))?;
            assert!(text.len() <= STATE_BYTES, "a training's state is a dozen numbers");
            mine[3..].fill(f32::from(b' '));
            mine[3..].iter_mut().zip(text.bytes()).for_each(|(float, byte)| *float = f32::from(byte));
        }
        let mut received = vec![vec![0.0; mine.len()]; exchange.placement().world_size()];
        let mut parts: Vec<&mut [f32]> = received.iter_mut().map(Vec::as_mut_slice).collect();
        exchange.collective().all_gather(&mine, &mut parts)?;
        let claim = |floats: &Vec<f32>| {
            if floats[0] == 0.0 {
                return Ok(Claim { checksum: None, state: None });
            }
            let text: Vec<u8> = floats[3..].iter().map(|float| *float as u8).collect();
            let state = serde_json::from_slice(&text).map_err(|error| assignment(error.to_string()))?;
            let checksum = (floats[1] as u32) << 16 | floats[2] as u32;
            Ok(Claim { checksum: Some(checksum), state: Some(state) })
        };
        received.iter().map(claim).collect()
    }

    /// Where the training stands, the same on all ranks.
    fn training_state(
        &self,
        entry: &Entry,
        source: Option<usize>,
        claims: &[Claim],
    ) -> Result<TrainingState, TrainError> {
        if let Some(source) = source {
            let right = claims[source].checksum;
            let holders = claims.iter().filter(|claim| right.is_some() && claim.checksum == right);
            let furthest = holders.filter_map(|claim| claim.state.as_ref()).max_by_key(|state| state.validated_step);
            let step = entry.step;
            return furthest.cloned().ok_or_else(|| {
                assignment(format!(
                    "rank {source} was to give the shared parameters of step {step}, but does not hold them"
                ))
            });
        }
        if let Origin::Checkpoint(directory) = &entry.shared {
            let checkpoint = self.open(directory)?;
            let manifest = checkpoint.manifest();
            if manifest.step != entry.step {
                return Err(assignment(format!(
                    "{}: the checkpoint is of step {}, training was to begin at {}",
                    directory.display(),
                    manifest.step,
                    entry.step
                )));
            }
            let validated_step = manifest.state.validated_step.or(Some(manifest.step));
            return Ok(TrainingState { validated_step, ..manifest.state.clone() });
        }
        Ok(TrainingState { items: self.dataset.items as u64, ..TrainingState::default() })
    }

    /// Whether states have parameters of a best validation beside those that they train.
    fn has_best(&self, state: &TrainingState, step: u64) -> bool {
        self.config.train.patience > 0 && state.best_metric.is_some() && state.best_step != step
    }

    /// Peers' states that this worker holds in any role.
    fn held(&self) -> Vec<Held> {
        let mut held = self.learner.as_ref().map_or_else(Vec::new, |l| l.held(self.step, self.best.as_ref()));
        let again = |held: &Held| Held { peer: held.peer, step: held.step, state: held.state.handle() };
        held.extend(self.extras.iter().map(again));
        held
    }

    fn own_shared(&self) -> Result<State, TrainError> {
        let learner =
            self.learner.as_ref().ok_or_else(|| assignment("this worker holds no shared parameters".into()))?;
        Ok(learner.shared_state(self.best.as_ref()))
    }

    fn shared_length(&self) -> usize {
        let config = self.config;
        let all = Shared::specifications(&config.network, self.dataset.items, config.samples.max_length);
        all.iter().map(|specification| specification.len() as usize).sum()
    }

    fn private_length(&self) -> usize {
        Encoder::specifications(&self.config.network).iter().map(|specification| specification.len() as usize).sum()
    }

    fn fresh_shared(&self) -> State {
        let config = self.config;
        let shared =
            Shared::draw(&config.network, self.dataset.items, config.samples.max_length, config.seed, self.device());
        State::of(&shared.parameters, &Moments::new(&shared.parameters, &config.optimizer), None)
    }

    fn fresh_peer(&self, peer: u32) -> State {
        let encoder = Encoder::draw(&self.config.network, self.config.seed, peer, self.device());
        State::of(&encoder.parameters, &Moments::new(&encoder.parameters, &self.config.optimizer), None)
    }

    fn open(&self, directory: &Path) -> Result<Checkpoint, TrainError> {
        let checkpoint = Checkpoint::open(directory)?;
        if checkpoint.manifest().data_hash != self.dataset.hash {
            return Err(TrainError::Input(format!(
                "{}: the checkpoint was trained on other data than {}; resume with the data that it was trained on",
                directory.display(),
                self.config.data.path.display()
            )));
        }
        Ok(checkpoint)
    }

    fn read_shared(&self, directory: &Path, state: &TrainingState) -> Result<State, TrainError> {
        let config = self.config;
        let values = Tensor::zeros([self.shared_length() as i64], (Kind::Float, self.device()));
        let shared = Shared::over(&config.network, self.dataset.items, config.samples.max_length, values);
        self.read(directory, checkpoint::SHARED, checkpoint::SHARED_OPTIMIZER, &shared.parameters, state)
    }

    fn read_peer(&self, peer: u32, directory: &Path, state: &TrainingState) -> Result<State, TrainError> {
        let values = Tensor::zeros([self.private_length() as i64], (Kind::Float, self.device()));
        let encoder = Encoder::over(&self.config.network, values);
        let names = [checkpoint::peer_file(peer), checkpoint::peer_optimizer_file(peer)];
        self.read(directory, &names[0], &names[1], &encoder.parameters, state)
    }

    fn read(
        &self,
        directory: &Path,
        name: &str,
        optimizer: &str,
        parameters: &Parameters,
        state: &TrainingState,
    ) -> Result<State, TrainError> {
        let checkpoint = self.open(directory)?;
        let mut moments = Moments::new(parameters, &self.config.optimizer);
        checkpoint.read_moments(optimizer, parameters, &mut moments)?;
        let mut best = None;
        if self.has_best(state, checkpoint.manifest().step) {
            // Parameters of the best validation have a checkpoint of their own, unless the peer was not there then.
            let kept = checkpoint.sibling(state.best_step)?;
            if kept.manifest().files.iter().any(|file| file.name == name) {
                kept.read_parameters(name, parameters)?;
                best = Some(parameters.values().copy());
            }
        }
        checkpoint.read_parameters(name, parameters)?;
        Ok(State::of(parameters, &moments, best.as_ref()))
    }

    /// A copy of a state that is not the same any more.
    fn differing(&self, state: &State, noise: f64, peer: u32, step: u64) -> State {
        let mut random = stream(Purpose::CopyNoise, self.config.seed, u64::from(peer), step);
        let mut offset = 0;
        let parts: Vec<Tensor> = Encoder::specifications(&self.config.network)
            .iter()
            .map(|specification| {
                let part = state.values.narrow(0, offset, specification.len());
                offset += specification.len();
                let deviation = part.square().mean(Kind::Double).sqrt().double_value(&[]) * noise;
                let draws: Vec<f32> = (0..specification.len())
                    .map(|_| (Distribution::<f64>::sample(&StandardNormal, &mut random) * deviation) as f32)
                    .collect();
                part + Tensor::from_slice(&draws).to_device(self.device())
            })
            .collect();
        let values = Tensor::cat(&parts, 0);
        State { first: values.zeros_like(), second: values.zeros_like(), values, best: None }
    }

    /// Every hosted peer's state to the buddy; returns those of this rank's wards.
    fn exchange_copies(
        &self,
        exchange: &mut Exchange,
        entry: &Entry,
        arrival: &Arrival,
    ) -> Result<Vec<(u32, State)>, TrainError> {
        let placement = exchange.placement().clone();
        let with_best = self.has_best(&arrival.state, entry.step);
        let length = State::floats(self.private_length(), with_best);
        let parcels: Vec<Parcel<u32>> = (0..placement.world_size())
            .filter_map(|from| Some((from, placement.buddy(from)?)))
            .flat_map(|(from, to)| placement.peers_of(from).iter().map(move |peer| (from, to, *peer)))
            .map(|(from, to, peer)| Parcel { from, to, length, what: peer })
            .collect();
        let load = |peer| {
            let (_, state) =
                arrival.hosted.iter().find(|(other, _)| *other == peer).expect("a rank loads its own peers");
            Ok(state.to_floats(with_best))
        };
        let got = deliver(exchange.collective(), &parcels, load)?;
        Ok(got
            .into_iter()
            .map(|(peer, floats)| (peer, State::from_floats(&floats, with_best, self.device())))
            .collect())
    }

    /// Puts the generation's states in the place of the last one's. What this worker held of other peers stays at hand.
    fn install(&mut self, placement: Placement, entry: &Entry, arrival: Arrival, copies: Vec<(u32, State)>) {
        let Arrival { state, shared, hosted } = arrival;
        let active = |peer: u32| hosted.iter().chain(&copies).any(|(other, _)| *other == peer);
        let mut extras = self.held();
        // A peer that comes from elsewhere at another step is not to be taken from here any more.
        extras
            .retain(|held| !active(held.peer) && (held.step == entry.step || placement.position(held.peer).is_none()));
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
        if !matches!(entry.shared, Origin::Rank(_)) {
            // Another course of the training: what it is worth is not known yet.
            self.evaluated.clear();
        }
        self.plan.set_peers(placement.peers());
        self.placement = placement;
        self.state = state;
        self.step = entry.step;
        self.entered = Some(entry.step);
        self.saving.saved = entry.checkpoint_step;
        self.best = best;
    }
}

/// Parameters at the best validation; those of now where that is what they are, or the peer was not there then.
fn best_of(state: &State, is_best: bool) -> Tensor {
    let before = state.best.as_ref().filter(|_| !is_best);
    before.map_or_else(|| state.values.copy(), Tensor::shallow_clone)
}

/// A peer's state: of the generation's step, or of the last step that it took part in.
fn find(held: &[Held], peer: u32, step: u64, state: &TrainingState) -> Result<State, TrainError> {
    let candidates = held.iter().filter(|held| held.peer == peer);
    let found = candidates
        .max_by_key(|held| (held.step == step, held.step))
        .ok_or_else(|| assignment(format!("this worker was to give peer {peer}'s state, but does not hold it")))?;
    let mut found_state = found.state.handle();
    if state.best_step >= found.step {
        // It has not changed since, so what it has was there at the best validation too.
        found_state.best = None;
    }
    Ok(found_state)
}
