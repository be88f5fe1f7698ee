//! A simulated worker process: what it is doing, and what it holds.

use super::lineage::{Lineage, update};
use super::queue::Time;
use super::world::Happening;
use crate::cluster::{Assignment, Report, SessionNumber, Slot, Suspended};
use medley_common::manifest::TrainingState;
use std::collections::{BTreeMap, VecDeque};

/// Its place among all processes that there ever were.
pub type ProcessId = usize;

/// What a process is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activity {
    /// It reads its data, or waits for its first assignment.
    Waiting,
    /// It enters its generation, or trains.
    AtWork,
    /// It evaluates what it trained.
    Evaluating,
    /// It did all that was asked.
    Completed,
    /// It left its generation.
    Suspended,
    /// It is dead.
    Gone,
}

/// What it was asked to do at the next step that all agree on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Asked {
    /// To stop.
    pub stop: bool,
    /// To pause.
    pub pause: bool,
    /// With a checkpoint.
    pub checkpoint: bool,
}

impl Asked {
    /// What any of two asks for.
    pub fn or(self, other: Self) -> Self {
        Self {
            stop: self.stop || other.stop,
            pause: self.pause || other.pause,
            checkpoint: self.checkpoint || other.checkpoint,
        }
    }
}

/// Parameters that a process holds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Holdings {
    /// Steps that they have taken.
    pub step: u64,
    /// The shared ones.
    pub shared: Option<Lineage>,
    /// Of the peers that it hosts.
    pub hosted: BTreeMap<u32, Lineage>,
    /// Copies of others' peers, with the steps that each has taken.
    pub replicas: BTreeMap<u32, (u64, Lineage)>,
    /// Copies of peers that take no part at present, as they left.
    pub parked: BTreeMap<u32, (u64, Lineage)>,
    /// The update that it is prepared to commit.
    pub pending: Option<u64>,
}

impl Holdings {
    /// Commits the pending update, where there is one.
    pub fn commit(&mut self) {
        let Some(digest) = self.pending.take() else { return };
        self.shared = self.shared.map(|state| update(state, digest));
        self.hosted.values_mut().for_each(|state| *state = update(*state, digest));
        for (step, state) in self.replicas.values_mut() {
            (*step, *state) = (*step + 1, update(*state, digest));
        }
        self.step += 1;
    }

    /// A peer's state, from the host or from the copy of one.
    pub fn peer(&self, peer: u32) -> Option<Lineage> {
        let copy = self.replicas.get(&peer).or_else(|| self.parked.get(&peer));
        self.hosted.get(&peer).or_else(|| copy.map(|(_, state)| state)).copied()
    }
}

/// A report on its way, or not acknowledged.
#[derive(Debug, Clone)]
pub struct Numbered {
    /// 1, 2, ...
    pub sequence: u64,
    /// The generation that it is of.
    pub generation: u64,
    /// What it says.
    pub report: Report,
}

/// A worker process.
#[derive(Debug)]
pub struct Process {
    /// Its place with the launcher.
    pub slot: Slot,
    /// Its machine.
    pub host: u32,
    /// What it is doing.
    pub activity: Activity,
    /// Until when it is stopped by a signal.
    pub frozen_until: Time,
    /// What would have happened to it meanwhile.
    pub deferred: Vec<Happening>,
    /// How many times longer it computes than others.
    pub slowness: u64,
    /// Until when nothing passes between it and the coordinator.
    pub cut_until: Time,
    /// Its session, as it knows it.
    pub session: Option<SessionNumber>,
    /// Its session, as the coordinator knows it.
    pub known_session: Option<SessionNumber>,
    /// Whether the coordinator refuses it.
    pub is_dismissed: bool,
    /// Reports that it has sent.
    pub sent: u64,
    /// The last one that the coordinator has.
    pub received: u64,
    /// Those that it may have to send again.
    pub unacknowledged: VecDeque<Numbered>,
    /// When its last message in either direction arrives: they keep their order.
    pub last_up: Time,
    /// The same, from the coordinator.
    pub last_down: Time,
    /// Its place in its generation.
    pub assignment: Option<Assignment>,
    /// In the exchange: the round that it has sent its part of and does not have the others' of, and since when.
    pub round: Option<(u32, Time)>,
    /// What it holds.
    pub holdings: Holdings,
    /// What it has taken over for a generation that it has not entered yet.
    pub incoming: Option<Holdings>,
    /// What it was asked.
    pub asked: Asked,
    /// The last step of which it wrote its part of a checkpoint, or that there is one of.
    pub saved: u64,
    /// The generation whose `Suspended` the coordinator has read.
    pub suspension_read: u64,
}

impl Process {
    /// A new one.
    pub fn new(slot: Slot, host: u32) -> Self {
        Self {
            slot,
            host,
            activity: Activity::Waiting,
            frozen_until: 0,
            deferred: Vec::new(),
            slowness: 1,
            cut_until: 0,
            session: None,
            known_session: None,
            is_dismissed: false,
            sent: 0,
            received: 0,
            unacknowledged: VecDeque::new(),
            last_up: 0,
            last_down: 0,
            assignment: None,
            round: None,
            holdings: Holdings::default(),
            incoming: None,
            asked: Asked::default(),
            saved: 0,
            suspension_read: 0,
        }
    }

    /// Whether it lives.
    pub fn is_alive(&self) -> bool {
        self.activity != Activity::Gone
    }

    /// Its generation; 0 before the first.
    pub fn generation(&self) -> u64 {
        self.assignment.as_ref().map_or(0, |assignment| assignment.generation)
    }

    /// Its rank.
    pub fn rank(&self) -> u32 {
        self.assignment.as_ref().map_or(0, |assignment| assignment.rank)
    }

    /// Whether it takes part in a generation's exchange.
    pub fn takes_part(&self, generation: u64) -> bool {
        self.generation() == generation && self.activity == Activity::AtWork
    }

    /// What it reports when it leaves its generation.
    pub fn suspended(&self, because_of_rank: Option<u32>, reason: &str, is_pause: bool) -> Suspended {
        let mut held = self.holdings.clone();
        // Between taking over and entering it holds the old as well as the new.
        if let Some(incoming) = &self.incoming {
            if held.step == incoming.step && held.shared.is_some() {
                held.hosted.extend(&incoming.hosted);
                held.replicas.extend(&incoming.replicas);
            } else if held.shared.is_none() {
                held = incoming.clone();
            }
        }
        Suspended {
            step: held.step,
            is_prepared: held.pending.is_some(),
            peers: held.hosted.keys().copied().collect(),
            replicas: held.replicas.iter().chain(&held.parked).map(|(peer, (step, _))| (*peer, *step)).collect(),
            state: held.shared.map(|_| training_state(held.step)).unwrap_or_default(),
            is_pause,
            reason: reason.to_owned(),
            because_of_rank,
        }
    }
}

/// `TrainingState` as JSON; one can see of which step it is.
pub fn training_state(step: u64) -> String {
    let state = TrainingState { rows: step, validated_step: Some(step), ..TrainingState::default() };
    serde_json::to_string(&state).unwrap_or_default()
}
