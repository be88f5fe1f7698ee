//! States on their way to the workers that need them.

use super::claims::Claim;
use super::{Entry, Origin, Trainer, assignment};
use crate::exchange::{Exchange, Placement};
use crate::train::TrainError;
use crate::train::holdings::{Held, State};
use crate::train::transfer::{Parcel, deliver};
use medley_common::manifest::TrainingState;

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
pub struct Arrival {
    pub state: TrainingState,
    pub shared: State,
    /// In the order of the placement.
    pub hosted: Vec<(u32, State)>,
}

impl Trainer<'_> {
    /// The states of the peers hosted here, and the shared one.
    pub(super) fn arrive(&self, exchange: &mut Exchange, entry: &Entry) -> Result<Arrival, TrainError> {
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

        let parcels = self.parcels(&placement, entry, source, &claims, with_best)?;
        let load = |cargo| match cargo {
            Cargo::Shared => Ok(self.own_shared()?.to_floats(with_best)),
            Cargo::Peer { of, .. } => Ok(find(&held, of, entry.step, &state)?.to_floats(with_best)),
        };
        let mut got: Vec<(Cargo, State)> = deliver(exchange.collective(), &parcels, load)?
            .into_iter()
            .map(|(cargo, floats)| (cargo, State::from_floats(&floats, with_best, self.device)))
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

    /// What moves to which rank: the shared state to those that have not got it, every peer to its new host.
    fn parcels(
        &self,
        placement: &Placement,
        entry: &Entry,
        source: Option<usize>,
        claims: &[Claim],
        with_best: bool,
    ) -> Result<Vec<Parcel<Cargo>>, TrainError> {
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
        Ok(parcels)
    }

    /// Peers' states that this worker holds in any role.
    pub(super) fn held(&self) -> Vec<Held> {
        let mut held = self.learner.as_ref().map_or_else(Vec::new, |l| l.held(self.step, self.best.as_ref()));
        let again = |held: &Held| Held { peer: held.peer, step: held.step, state: held.state.handle() };
        held.extend(self.extras.iter().map(again));
        held
    }

    pub(super) fn own_shared(&self) -> Result<State, TrainError> {
        let learner =
            self.learner.as_ref().ok_or_else(|| assignment("this worker holds no shared parameters".into()))?;
        Ok(learner.shared_state(self.best.as_ref()))
    }

    /// Every hosted peer's state to the buddy; returns those of this rank's wards.
    pub(super) fn exchange_copies(
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
        Ok(got.into_iter().map(|(peer, floats)| (peer, State::from_floats(&floats, with_best, self.device))).collect())
    }
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
