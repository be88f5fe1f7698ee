//! The exchange between the workers of a generation: rounds in which everybody waits for what all others send.
//!
//! Round 0 is meeting, 1 takes over states, 2 is the barrier behind which the generation is entered; from then on each
//! step has two: prepare (3, 5, ...) and acknowledge (4, 6, ...).

use super::lineage::Snapshot;
use super::process::{Activity, Asked, ProcessId};
use super::queue::{MILLISECOND, Time};
use super::schedule::{Fault, Moment};
use super::world::{Happening, World};
use crate::cluster::{Assignment, Origin, Slot};
use rand::Rng;
use std::collections::BTreeMap;
use std::rc::Rc;

/// Taking over what others hold.
pub const TAKE_OVER: u32 = 1;
/// The barrier behind which a generation is entered.
pub const ENTER: u32 = 2;

/// Whether a round is one in which a step is prepared.
pub fn prepares(round: u32) -> bool {
    round > ENTER && round % 2 == 1
}

/// The exchange of a generation.
#[derive(Debug)]
pub struct Group {
    /// Who takes part, by rank.
    pub members: Vec<ProcessId>,
    /// The first member's assignment: the part that is the same for all.
    pub assignment: Assignment,
    /// The states as the generation finds them.
    begins: Rc<Snapshot>,
    /// The same, and then as its last step leaves them.
    pub current: Rc<Snapshot>,
    /// The states after the step that is being prepared, and what its update is computed from.
    pub next: Option<(u64, Rc<Snapshot>)>,
    /// The round that not all have sent their parts of.
    round: u32,
    sent: Vec<bool>,
    count: usize,
    asked: Asked,
    /// What all agreed on in the last prepared step.
    pub agreed: Asked,
    /// A member that has left, and whom the others will miss.
    broken_by: Option<u32>,
}

impl Group {
    /// Whose ranks these are.
    pub fn new(members: Vec<ProcessId>, assignment: Assignment, begins: Rc<Snapshot>) -> Self {
        let sent = vec![false; members.len()];
        Self {
            members,
            assignment,
            current: Rc::clone(&begins),
            begins,
            next: None,
            round: 0,
            sent,
            count: 0,
            asked: Asked::default(),
            agreed: Asked::default(),
            broken_by: None,
        }
    }

    /// The states after a step, where it is its last, or the one before its first: a step that only the dead committed is
    /// undone.
    pub fn after(&self, step: u64) -> Option<&Rc<Snapshot>> {
        [&self.current, &self.begins].into_iter().find(|states| states.step == step)
    }
}

impl World {
    /// A process sends its part of the next round to all others.
    pub(super) fn send_round(&mut self, id: ProcessId) {
        let (generation, rank) = (self.processes[id].generation(), self.processes[id].rank());
        let now = self.now;
        let Some(group) = self.groups.get_mut(&generation) else { return };
        let round = group.round;
        if prepares(round) && self.springs(id, Moment::Preparing) {
            return;
        }
        let asked = self.processes[id].asked;
        self.processes[id].round = Some((round, now));
        let Some(group) = self.groups.get_mut(&generation) else { return };
        group.asked = group.asked.or(asked);
        if !std::mem::replace(&mut group.sent[rank as usize], true) {
            group.count += 1;
        }
        if let Some(missed) = group.broken_by {
            let at = self.soon();
            return self.queue.push(at, broke(id, generation, missed));
        }
        if group.count == group.members.len() {
            self.all_sent(generation);
        }
    }

    /// Everybody has sent: each will hold everything after a while of its own.
    fn all_sent(&mut self, generation: u64) {
        let Some(group) = self.groups.get_mut(&generation) else { return };
        let round = group.round;
        (group.round, group.count) = (round + 1, 0);
        group.sent.fill(false);
        let asked = std::mem::take(&mut group.asked);
        let members = group.members.clone();
        if round == TAKE_OVER {
            self.check_sources(generation);
        } else if prepares(round) {
            self.prepare(generation, asked);
        }
        for id in members {
            let at = self.soon().max(self.healed(id, generation));
            self.queue.push(at, Happening::Round { process: id, generation, round });
        }
    }

    /// Until when what others sent cannot reach a process.
    fn healed(&self, id: ProcessId, generation: u64) -> Time {
        let slot = self.processes[id].slot;
        let Some(group) = self.groups.get(&generation).filter(|_| !self.cuts.is_empty()) else { return 0 };
        let others: Vec<Slot> = group.members.iter().map(|id| self.processes[*id].slot).collect();
        let cut = |pair: &[Slot; 2]| {
            (pair[0] == slot && others.contains(&pair[1])) || (pair[1] == slot && others.contains(&pair[0]))
        };
        self.cuts.iter().filter(|(pair, _)| cut(pair)).map(|(_, until)| *until).max().unwrap_or(0)
    }

    /// All states meet in a step's update: they must be those of one step, and the same for all.
    fn prepare(&mut self, generation: u64, asked: Asked) {
        let Some(group) = self.groups.get_mut(&generation) else { return };
        group.agreed = asked;
        let current = Rc::clone(&group.current);
        let mut hosted = BTreeMap::new();
        for id in &group.members {
            let held = &self.processes[*id].holdings;
            self.checks.check(held.step == current.step && held.shared == Some(current.shared), || {
                format!("process {id} brings shared parameters of step {} into step {}", held.step, current.step + 1)
            });
            hosted.extend(held.hosted.iter().map(|(peer, state)| (*peer, *state)));
        }
        self.checks.check(hosted == current.peers, || format!("step {} mixes peers of other states", current.step + 1));
        group.next = Some((current.digest(), Rc::new(current.next())));
    }

    /// A member has left: those who wait for it fail, those who already hold its part may go on to the next round.
    pub(super) fn break_group(&mut self, id: ProcessId) {
        let (generation, rank) = (self.processes[id].generation(), self.processes[id].rank());
        let Some(group) = self.groups.get_mut(&generation).filter(|group| group.broken_by.is_none()) else { return };
        group.broken_by = Some(rank);
        let (members, open) = (group.members.clone(), group.round);
        for other in members {
            let process = &self.processes[other];
            if other == id || !process.takes_part(generation) {
                continue;
            }
            let Some((round, _)) = process.round else { continue };
            // Its part of a round that all have sent is on its way, and may arrive or be lost with the connection.
            if round == open || self.random.random_bool(0.5) {
                let at = self.soon();
                self.queue.push(at, broke(other, generation, rank));
            }
        }
    }

    /// Lets members that have waited too long for another give up; whether anybody is left to look after.
    pub(super) fn watch(&mut self, generation: u64) -> bool {
        let Some(group) = self.groups.get(&generation) else { return false };
        let (open, members) = (group.round, group.members.clone());
        let silent = group.sent.iter().position(|sent| !sent);
        let mut is_alive = false;
        for id in members {
            let process = &self.processes[id];
            if !process.takes_part(generation) {
                continue;
            }
            is_alive = true;
            let Some((round, since)) = process.round else { continue };
            if self.now < process.frozen_until || self.now - since < self.schedule.deadline {
                continue;
            }
            let missed = if round == open { silent.map(|rank| rank as u32) } else { None };
            self.leave(id, missed, "the exchange's deadline has passed", false);
        }
        is_alive
    }

    /// Whether a trap is set for a process at this moment of its step; it is killed by that.
    pub(super) fn springs(&mut self, id: ProcessId, moment: Moment) -> bool {
        if self.traps.is_empty() {
            return false;
        }
        let (slot, step) = (self.processes[id].slot, self.processes[id].holdings.step);
        let is_set = |trap: &Fault| match trap {
            Fault::KillAt { slot: set, step: at, moment: when } => *set == slot && *when == moment && step >= *at,
            _ => false,
        };
        let Some(place) = self.traps.iter().position(is_set) else { return false };
        self.traps.swap_remove(place);
        self.trace.note(self.now, || format!("a trap for slot {slot} springs: {moment:?}"));
        self.end(id, true);
        true
    }

    /// A process computes its next step, or ends the training.
    pub(super) fn begin_step(&mut self, id: ProcessId) {
        let (generation, step) = (self.processes[id].generation(), self.processes[id].holdings.step);
        let [least, most] = self.schedule.step;
        let time = self.random.random_range(least..=most) * self.processes[id].slowness;
        if step >= self.last_step() {
            self.save(id, true);
            self.processes[id].activity = Activity::Evaluating;
            return self.queue.push(self.now + 2 * time, Happening::Evaluated { process: id, generation });
        }
        let scheduled = &self.schedule.settings.cohort;
        let changes = scheduled.changes.iter().any(|change| change.step == step);
        let Some(group) = self.groups.get(&generation) else { return };
        // One that goes on at such a step has the peers that the coordinator wants or can have; one that goes back to the
        // checkpoint of that step has those of before.
        let start = &group.assignment.start;
        let is_chosen = start.step == step && matches!(start.shared, Origin::Rank(_));
        if changes && !is_chosen && scheduled.peers_after(step) as usize != group.current.peers.len() {
            self.save(id, true);
            return self.leave(id, None, "schedule", true);
        }
        if step > 0 && step.is_multiple_of(self.schedule.checkpoint_every) {
            self.save(id, false);
        }
        if !self.springs(id, Moment::Computing) {
            self.queue.push(self.now + time, Happening::Computed { process: id, generation });
        }
    }
}

fn broke(process: ProcessId, generation: u64, because_of: u32) -> Happening {
    Happening::Broke { process, generation, because_of_rank: Some(because_of), reason: "a connection was lost" }
}

/// How long it takes until a failed worker is tried again.
pub const AGAIN: Time = 500 * MILLISECOND;
