//! What must hold whatever happens.

use super::lineage::{Lineage, Snapshot, Undisturbed, copied, fresh};
use super::process::{Activity, Holdings, ProcessId};
use super::queue::SECOND;
use super::schedule::{Schedule, Weather};
use super::world::World;
use crate::cluster::{Assignment, Commit, Event, Joined, Origin, Outcome, Slot};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

/// Everything that was observed, as far as it says what may be observed next.
#[derive(Debug)]
pub struct Checks {
    /// The first violation.
    pub violation: Option<String>,
    /// Generations so far.
    pub generations: u64,
    /// Generations that began from a checkpoint, or from the beginning again.
    pub rollbacks: u64,
    /// All states as steps committed them.
    pub history: BTreeMap<u64, Rc<Snapshot>>,
    /// Peers that left, as they left.
    left: BTreeMap<u32, Lineage>,
    undisturbed: Option<Undisturbed>,
    generation: u64,
    ranks: BTreeMap<u32, Slot>,
    /// The generation that was kept last.
    pub kept: u64,
    /// What must not be gone back behind, but for want of what was lost.
    pub floor: u64,
    /// The newest commit: by whom.
    committed_by: BTreeMap<u64, u64>,
}

impl Checks {
    pub fn new(schedule: &Schedule) -> Self {
        let beginning = Snapshot::beginning(schedule.settings.cohort.peers_after(0));
        Self {
            violation: None,
            generations: 0,
            rollbacks: 0,
            history: BTreeMap::from([(0, Rc::new(beginning))]),
            left: BTreeMap::new(),
            undisturbed: schedule.is_undisturbed_known().then(|| Undisturbed::new(schedule.settings.cohort.clone())),
            generation: schedule.settings.generation - 1,
            ranks: BTreeMap::new(),
            kept: 0,
            floor: 0,
            committed_by: BTreeMap::new(),
        }
    }

    pub fn violate(&mut self, what: String) {
        self.violation.get_or_insert(what);
    }

    pub fn check(&mut self, holds: bool, otherwise: impl FnOnce() -> String) {
        if !holds {
            self.violate(otherwise());
        }
    }

    /// A rank is assigned at most once in a generation, every peer is on one member, and generations grow.
    pub fn assigning(&mut self, slot: Slot, assignment: &Assignment) {
        let Assignment { generation, rank, .. } = *assignment;
        let members = &assignment.members;
        let kept = self.kept;
        self.check(generation == kept, || format!("generation {generation} is assigned, and {kept} is kept"));
        if generation != self.generation {
            self.check(generation > self.generation, || format!("generation {generation} is not a new one"));
            self.generation = generation;
            self.generations += 1;
            self.ranks.clear();
            let peers: Vec<u32> = members.iter().flat_map(|member| member.peers.iter().copied()).collect();
            let once: BTreeSet<u32> = peers.iter().copied().collect();
            self.check(once.len() == peers.len(), || format!("a peer is hosted twice: {members:?}"));
            self.check(once.iter().eq(assignment.start.peers.keys()), || {
                format!("not every peer that starts is hosted: {members:?}")
            });
            let slots: BTreeSet<Slot> = members.iter().map(|member| member.slot).collect();
            self.check(slots.len() == members.len(), || format!("a worker has two ranks: {members:?}"));
            self.check(!once.is_empty(), || format!("generation {generation} has no peers"));
            self.check(members.iter().all(|member| !member.peers.is_empty()), || {
                format!("a member hosts no peer: {members:?}")
            });
            let buddies = members.iter().all(|member| {
                (member.buddy as usize) < members.len() && (member.buddy != member.rank || members.len() == 1)
            });
            self.check(buddies, || format!("a member has no buddy: {members:?}"));
        }
        // A worker that was away is told again; that its slot is the rank's own is checked below.
        let other = self.ranks.insert(rank, slot).filter(|other| *other != slot);
        self.check(other.is_none(), || format!("rank {rank} of generation {generation} is assigned twice"));
        let own = members.get(rank as usize).map(|member| (member.rank, member.slot));
        self.check(own == Some((rank, slot)), || format!("slot {slot} is assigned another's rank {rank}"));
    }

    /// A generation begins with these states.
    pub fn begins(&mut self, generation: u64, begins: &Snapshot, last: Option<Rc<Snapshot>>) {
        self.history.split_off(&(begins.step + 1));
        // One that came, and left before a step was taken, is in no step's states.
        if let Some(before) = last.or_else(|| self.history.get(&begins.step).cloned()) {
            for (peer, state) in before.peers.iter().filter(|(peer, _)| !begins.peers.contains_key(peer)) {
                self.left.insert(*peer, *state);
            }
        }
        if let Some(undisturbed) = &mut self.undisturbed {
            let (committed, entered) = (undisturbed.committed(begins.step), undisturbed.entered(begins.step));
            let is_due = *begins == *entered || *begins == *committed;
            self.check(is_due, || {
                format!("generation {generation} begins as {begins:?}, and undisturbed the training has {entered:?}")
            });
        }
    }

    /// The first worker commits a step.
    pub fn committed(&mut self, generation: u64, next: Rc<Snapshot>) {
        let step = next.step;
        let by = self.committed_by.insert(step, generation);
        self.check(by.is_none_or(|by| by < generation), || format!("step {step} is committed twice in {generation}"));
        if let Some(undisturbed) = &mut self.undisturbed {
            let expected = undisturbed.committed(step);
            self.check(*next == *expected, || format!("step {step} made {next:?}, undisturbed it makes {expected:?}"));
        }
        self.history.insert(step, next);
    }

    /// What a process holds after a step.
    pub fn holds(&mut self, id: ProcessId, held: &Holdings, committed: &Snapshot) {
        let Snapshot { step, shared, peers } = committed;
        self.check(held.step == *step && held.shared == Some(*shared), || {
            format!("process {id} holds shared parameters of step {} after step {step}", held.step)
        });
        let is_equal = |peer: &u32, state: &Lineage| peers.get(peer) == Some(state);
        self.check(held.hosted.iter().all(|(peer, state)| is_equal(peer, state)), || {
            format!("process {id} hosts another peer than it ought to after step {step}")
        });
        let copies = held.replicas.iter().filter(|(peer, _)| peers.contains_key(peer));
        let equal = copies.clone().all(|(peer, (taken, state))| taken == step && is_equal(peer, state));
        self.check(equal, || format!("process {id} keeps a copy that is not its original after step {step}"));
    }

    /// A checkpoint holds one step of all peers.
    pub fn checkpoint(&mut self, snapshot: &Snapshot, commit: &Commit) {
        let step = snapshot.step;
        self.check(snapshot.peers.len() == commit.peers as usize && !commit.state.is_empty(), || {
            format!("the checkpoint of step {step} is not whole: {commit:?}")
        });
        if let Some(undisturbed) = &mut self.undisturbed {
            let (committed, entered) = (undisturbed.committed(step), undisturbed.entered(step));
            self.check(*snapshot == *committed || *snapshot == *entered, || {
                format!("the checkpoint of step {step} holds {snapshot:?}, not {committed:?}")
            });
        }
    }
}

impl World {
    /// The states that a generation is to begin with, from its assignment.
    pub(super) fn beginning(&mut self, assignment: &Assignment, members: &[ProcessId]) -> Option<Snapshot> {
        let start = &assignment.start;
        let step = start.step;
        let Origin::Rank(_) = start.shared else {
            return self.beginning_again(assignment);
        };
        let floor = self.checks.floor;
        self.checks.check(step >= floor, || {
            format!("generation {} goes on after step {step}, and {floor} were committed", assignment.generation)
        });
        let Some(before) = self.checks.history.get(&step).cloned() else {
            self.checks.violate(format!("step {step} was never committed, and training goes on after it"));
            return None;
        };
        let state_of = format!("\"rows\":{step},");
        self.checks.check(start.state.contains(&state_of), || {
            format!("the state is not that of step {step}: {}", start.state)
        });
        // A peer may have come or left at this step with the last generation, which took no step.
        let last = self.groups.values().next_back().and_then(|group| group.after(step));
        let present = Rc::clone(last.unwrap_or(&before));
        let mut peers = BTreeMap::new();
        for (peer, origin) in &start.peers {
            let known = present.peers.get(peer).copied();
            let is_known = |state: &Lineage| known.is_none_or(|known| known == *state);
            let state = match origin {
                Origin::Rank(rank) => known.or_else(|| {
                    let holder = members.get(*rank as usize)?;
                    let state = self.processes[*holder].holdings.peer(*peer)?;
                    let as_left = self.checks.left.get(peer).copied();
                    self.checks.check(as_left == Some(state), || format!("peer {peer} comes back as it never was"));
                    Some(state)
                }),
                Origin::Checkpoint(directory) => {
                    let checkpoint = self.checkpoints.get(directory);
                    checkpoint.and_then(|checkpoint| checkpoint.peers.get(peer).copied()).filter(is_known)
                }
                Origin::CopyOf { peer: source, .. } => {
                    let source = present.peers.get(source).or_else(|| before.peers.get(source));
                    source.map(|state| copied(*state, *peer, step)).filter(is_known)
                }
                Origin::Fresh => Some(fresh(*peer)).filter(is_known),
            };
            match state {
                Some(state) => drop(peers.insert(*peer, state)),
                None => self.checks.violate(format!("peer {peer} cannot come from {origin:?} after step {step}")),
            }
        }
        Some(Snapshot { step, shared: before.shared, peers })
    }

    fn beginning_again(&mut self, assignment: &Assignment) -> Option<Snapshot> {
        let start = &assignment.start;
        let step = start.step;
        self.checks.floor = step;
        if self.checks.generations > 1 {
            self.checks.rollbacks += 1;
            self.check_need();
        }
        let same = start.peers.values().all(|origin| *origin == start.shared);
        self.checks.check(same, || format!("some go back and others do not: {start:?}"));
        let newest = self.checkpoints.values().map(|checkpoint| checkpoint.step).max();
        let Origin::Checkpoint(directory) = &start.shared else {
            self.checks
                .check(newest.is_none() && step == 0, || "the training begins again, and there is a checkpoint".into());
            return Some(Snapshot::beginning(start.peers.len() as u32));
        };
        let Some(checkpoint) = self.checkpoints.get(directory).cloned() else {
            self.checks.violate(format!("{directory} was never committed, and training goes back to it"));
            return None;
        };
        self.checks.check(checkpoint.step == step && newest == Some(step), || {
            format!("training goes back to {directory} after step {step}, and {newest:?} is the newest checkpoint")
        });
        let whole = start.peers.keys().eq(checkpoint.peers.keys());
        self.checks.check(whole, || format!("{directory} does not hold the peers {:?}", start.peers.keys()));
        Some((*checkpoint).clone())
    }

    /// Nobody may go back to a checkpoint while the survivors hold everything.
    fn check_need(&mut self) {
        let before = self.checks.generation - 1;
        let survivors: Vec<&Holdings> = self
            .processes
            .iter()
            .filter(|process| {
                let has_left = matches!(process.activity, Activity::Suspended | Activity::AtWork);
                has_left && process.suspension_read == before && process.generation() == before
            })
            .map(|process| &process.holdings)
            .collect();
        let Some(step) = survivors.iter().filter(|held| held.shared.is_some()).map(|held| held.step).max() else {
            return;
        };
        let follows = |held: &&&Holdings| held.step == step || (held.step + 1 == step && held.pending.is_some());
        let mut held = BTreeSet::new();
        for holdings in survivors.iter().filter(follows) {
            held.extend(holdings.hosted.keys().copied());
            let copies = holdings.replicas.iter().filter(|(_, (taken, _))| *taken == holdings.step);
            held.extend(copies.map(|(peer, _)| *peer));
        }
        let Some(last) = self.checks.history.get(&step).cloned() else { return };
        let wanted = self.groups.get(&before).map(|group| group.current.peers.clone()).unwrap_or_default();
        let lost = last.peers.keys().filter(|peer| wanted.contains_key(peer)).any(|peer| !held.contains(peer));
        self.checks.check(lost, || format!("the training goes back though all peers are held at step {step}"));
    }

    /// Before a generation takes over its states: their holders must have them.
    pub(super) fn check_sources(&mut self, generation: u64) {
        let Some(group) = self.groups.get(&generation) else { return };
        let (start, begins) = (&group.assignment.start, &group.current);
        let holder = |rank: u32| group.members.get(rank as usize).map(|id| (*id, &self.processes[*id].holdings));
        if let Origin::Rank(rank) = start.shared {
            let found = holder(rank).map(|(_, held)| (held.step, held.shared));
            self.checks.check(found == Some((begins.step, Some(begins.shared))), || {
                format!("rank {rank} is to give the shared parameters of step {}, and holds {found:?}", begins.step)
            });
        }
        for (peer, origin) in &start.peers {
            let (rank, source, expected) = match origin {
                Origin::Rank(rank) => (*rank, *peer, begins.peers.get(peer)),
                Origin::CopyOf { peer: source, rank, .. } => (*rank, *source, begins.peers.get(source)),
                Origin::Fresh | Origin::Checkpoint(_) => continue,
            };
            let found = holder(rank).and_then(|(_, held)| held.peer(source));
            // What is copied may itself take no part any more.
            let is_expected = found.is_some() && expected.is_none_or(|expected| found == Some(*expected));
            self.checks.check(is_expected, || {
                format!("rank {rank} is to give peer {source} as {expected:?}, and holds {found:?}")
            });
        }
    }

    /// What must hold once nothing more happens.
    pub(super) fn check_end(&mut self) {
        let Some(outcome) = self.outcome.clone() else {
            return self.checks.violate("nothing is left to happen, and the job has not ended".into());
        };
        let plain = !outcome.message.is_empty() && !outcome.message.contains('\n');
        self.checks.check(plain, || format!("the message is not one line: {:?}", outcome.message));
        if outcome.outcome == "completed" || outcome.outcome == "early-stopping" {
            self.check_completed(&outcome);
        } else if self.schedule.weather != Weather::Wild {
            self.checks.violate(format!("a job that can go on ended as {}: {}", outcome.outcome, outcome.message));
        }
        if self.schedule.weather == Weather::Calm {
            let generations = self.checks.generations;
            let scheduled = self.schedule.settings.cohort.changes.len() + self.schedule.settings.spares as usize;
            self.checks.check(generations <= 1 + scheduled as u64, || {
                format!("nothing befell the job, and it took {generations} generations")
            });
        }
        let joined = Event::Joined(Joined {
            slot: 0,
            session: self.sessions + 1,
            process_id: 1,
            incarnation: "p0".into(),
            address: "p0".into(),
            host: "h0".into(),
            device: "cpu".into(),
            generation: 0,
        });
        for event in [Event::Tick, joined, Event::StopRequested { reason: "late".into() }] {
            let actions = self.cluster.apply(Duration::from_micros(self.now - self.term_began + SECOND), event);
            self.checks.check(actions.is_empty(), || format!("asked for after the end: {actions:?}"));
        }
    }

    fn check_completed(&mut self, outcome: &Outcome) {
        let end = self.last_step();
        self.checks.check(outcome.step == end, || format!("completed after step {} of {end}", outcome.step));
        let last = self.cluster.generation();
        let Some(group) = self.groups.get(&last) else {
            return self.checks.violate("the job completed without a generation".into());
        };
        let mut found = BTreeMap::new();
        for process in &self.processes {
            if process.generation() == last && process.activity != Activity::Suspended {
                found.extend(process.holdings.hosted.iter().map(|(peer, state)| (*peer, *state)));
            }
        }
        let expected = group.current.peers.clone();
        self.checks.check(found == expected, || format!("the peers ended as {found:?}, not as {expected:?}"));
    }
}
