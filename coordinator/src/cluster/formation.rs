//! The next generation: from where it goes on, and who sits where.

use super::machine::{Cluster, Committed, Membership, Role, State, Worker};
use super::messages::{Action, Assignment, Member, Slot, Suspended};
use super::origins::{Origin, Sources, Standing, Start};
use super::seats::{Seat, buddies, seats};
use medley_common::config::RecoveryMode;
use medley_common::events::Event as JobEvent;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The next generation, as far as it is decided.
struct Next {
    seats: Vec<Seat>,
    start: Start,
    /// Who reports the last committed step only once the generation has begun.
    late: BTreeSet<Slot>,
    /// Steps that are taken again.
    replayed: u64,
}

impl Cluster {
    /// Whether a checkpoint is about to be committed that the next generation begins from, or that holds peers which are not
    /// in it.
    pub(super) fn awaits_checkpoint(&self) -> bool {
        if self.committing.is_empty() {
            return false;
        }
        let standing = Standing::of(&self.survivors(), &self.active_list());
        let Some(next) = standing.and_then(|standing| self.going_on(&standing)) else {
            return true;
        };
        let staying: BTreeSet<u32> = next.seats.iter().flat_map(|seat| seat.peers.iter().copied()).collect();
        !self.active().is_subset(&staying)
    }

    /// Whether peers that are no longer wanted may leave at a step: they come back from a checkpoint, which all were asked
    /// for or write as the schedule changes T there.
    fn may_part_with_peers(&self, step: u64) -> bool {
        let is_pause = matches!(&self.state, State::Reforming(reform) if reform.is_pause);
        is_pause && (self.pause_saves || self.cohort.changes.iter().any(|change| change.step == step))
    }

    /// Workers that the next generation need not wait any longer for.
    pub(super) fn enough(&self) -> usize {
        let wanted = self.wanted_workers.min(self.cohort.peers_after(self.steps.committed())) as usize;
        let survivors = self.survivors();
        match (self.settings.recovery.mode, Standing::of(&survivors, &self.active_list())) {
            (RecoveryMode::Continue, Some(standing)) => {
                let left = self.active().iter().filter(|peer| standing.peers.contains_key(peer)).count();
                // Alone, a peer of a mutual method has nobody to learn from.
                if left >= self.fewest_peers() { 1 } else { wanted }
            }
            _ => wanted,
        }
    }

    /// With fewer peers a method cannot go on.
    fn fewest_peers(&self) -> usize {
        self.cohort.peers.min(2) as usize
    }

    fn active_list(&self) -> Vec<u32> {
        self.active().into_iter().collect()
    }

    fn survivors(&self) -> BTreeMap<Slot, Suspended> {
        let held = |(slot, worker): (&Slot, &Worker)| Some((*slot, worker.suspended()?.clone()));
        self.workers.iter().filter_map(held).collect()
    }

    /// Forms the next generation; `false` where it must wait.
    pub(super) fn form(&mut self, actions: &mut Vec<Action>) -> bool {
        let survivors = self.survivors();
        let standing = Standing::of(&survivors, &self.active_list());
        let next = match standing.and_then(|standing| self.going_on(&standing)) {
            Some(next) => next,
            None => self.going_back(),
        };
        self.enter(next, actions);
        true
    }

    /// The next generation from what the workers hold; `None` where a peer is lost with all that held it.
    fn going_on(&self, standing: &Standing) -> Option<Next> {
        let peers = self.cohort.peers_after(standing.step);
        let before = self.active();
        let held: BTreeSet<u32> = standing.peers.keys().copied().collect();
        let mut active: BTreeSet<u32> = (0..peers).collect();
        if !self.may_part_with_peers(standing.step) {
            active.extend(before.intersection(&held));
        }
        if self.settings.recovery.mode == RecoveryMode::Continue && self.workers.len() < self.enough_for(peers) {
            let survivors = self.survivors();
            let hosted: BTreeSet<u32> = survivors.values().flat_map(|held| held.peers.iter().copied()).collect();
            // Who goes on without the lost ones hosts no more peers than before; who has come takes peers back.
            let mut left: BTreeSet<u32> =
                active.iter().copied().filter(|peer| held.contains(peer) && hosted.contains(peer)).collect();
            let share = active.len().div_ceil(self.enough_for(peers));
            let room = share * self.workers.len().saturating_sub(survivors.len());
            let can_come = |peer: &u32| !left.contains(peer) && (held.contains(peer) || !before.contains(peer));
            let back: Vec<u32> = active.iter().copied().filter(can_come).take(room).collect();
            left.extend(back);
            if left.len() >= self.fewest_peers() {
                active = left;
            }
        }
        let must_hold = || active.intersection(&before).copied();
        let anybody = |_| Some(0);
        let holders = self.sources(standing, &anybody).holders(active.iter().copied());
        let mut wanted = self.wanted_workers as usize;
        loop {
            let found = self.seats_for(&active, &holders, wanted);
            let ranks: BTreeMap<Slot, u32> = (0..).zip(&found).map(|(rank, seat)| (seat.slot, rank)).collect();
            let rank_of = |slot| ranks.get(&slot).copied();
            let sources = self.sources(standing, &rank_of);
            let holds_all = must_hold().all(|peer| sources.has(peer));
            match sources.start(active.iter().copied()).filter(|_| holds_all) {
                Some(start) => {
                    let late = standing.rolls_forward.iter().copied().filter(|slot| rank_of(*slot).is_some()).collect();
                    return Some(Next { seats: found, start, late, replayed: 0 });
                }
                // A worker that is to leave still holds what nobody else does: it stays for one generation more.
                None if wanted < self.workers.len() => wanted += 1,
                None => return None,
            }
        }
    }

    fn sources<'a>(&'a self, standing: &'a Standing, rank_of: &'a dyn Fn(Slot) -> Option<u32>) -> Sources<'a> {
        let is_still = self.began.as_ref().is_some_and(|began| began.step == standing.step);
        let came = is_still.then_some(&self.came);
        Sources { standing, rank_of, parked: &self.parked, new_peers: self.new_peers(), came }
    }

    fn enough_for(&self, peers: u32) -> usize {
        self.wanted_workers.min(peers) as usize
    }

    /// The next generation from the last committed checkpoint, or from the beginning.
    fn going_back(&self) -> Next {
        let (step, origin, peers) = match &self.checkpoint {
            Some(Committed { step, directory, peers }) => {
                (*step, Origin::Checkpoint(directory.clone()), peers.iter().copied().collect())
            }
            None => (0, Origin::Fresh, (0..self.cohort.peers_after(0)).collect::<BTreeSet<u32>>()),
        };
        let found = self.seats_for(&peers, &BTreeSet::new(), self.wanted_workers as usize);
        let origins = peers.iter().map(|peer| (*peer, origin.clone())).collect();
        let start = Start { step, shared: origin, peers: origins, state: String::new() };
        let replayed = self.steps.committed().saturating_sub(step);
        Next { seats: found, start, late: BTreeSet::new(), replayed }
    }

    fn seats_for(&self, peers: &BTreeSet<u32>, holders: &BTreeSet<Slot>, wanted: usize) -> Vec<Seat> {
        let seated: BTreeSet<Slot> = self.seats.iter().map(|seat| seat.slot).collect();
        let holds = |worker: &Worker| worker.suspended().is_some();
        let alive: BTreeSet<Slot> = self
            .workers
            .iter()
            .filter(|(slot, worker)| seated.contains(slot) && holds(worker))
            .map(|(slot, _)| *slot)
            .collect();
        let idle = self.workers.keys().copied().filter(|slot| !alive.contains(slot)).collect();
        seats(&self.seats, &alive, holders, &idle, peers, wanted)
    }

    fn enter(&mut self, next: Next, actions: &mut Vec<Action>) {
        let Next { seats, start, late, replayed } = next;
        self.generation += 1;
        let before = self.active();
        self.note_departures(&seats);
        self.seats = seats;
        let slots: BTreeSet<Slot> = self.seats.iter().map(|seat| seat.slot).collect();
        for step in self.steps.begin(slots.clone(), late, start.step) {
            self.progressed(step, actions);
        }
        let active = self.active();
        for step in self.shards.begin(slots.clone(), active.len() as u32) {
            let message = format!(
                "the checkpoint of step {step} was not finished when its generation ended; a later one takes its place"
            );
            actions.push(Action::Record(JobEvent::Warning { message }));
        }
        for (slot, worker) in &mut self.workers {
            worker.role = match slots.contains(slot) {
                true => Role::Member(Membership::default()),
                false => Role::Idle,
            };
        }
        for (rank, seat) in (0..).zip(&self.seats) {
            if let Some(member) = self.workers.get_mut(&seat.slot).and_then(Worker::member_mut) {
                member.rank = rank;
            }
        }
        self.evidence.clear_missed();
        if let Some(open) = self.recoveries.open() {
            open.replayed = replayed;
        }
        actions.push(Action::Record(JobEvent::Generation {
            generation: self.generation,
            placement: self.seats.iter().map(|seat| seat.peers.clone()).collect(),
            step: start.step,
        }));
        self.members = self.meet().into();
        let goes_on = matches!(start.shared, Origin::Rank(_));
        if !goes_on || self.began.as_ref().is_none_or(|began| began.step != start.step) {
            self.came.clear();
        }
        for (peer, origin) in start.peers.iter().filter(|(peer, _)| !goes_on || !before.contains(peer)) {
            self.came.entry(*peer).or_insert_with(|| origin.clone());
        }
        self.began = Some(Arc::new(start));
        self.began_checkpoint = self.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.step);
        actions.push(Action::Keep(self.kept()));
        for seat in &self.seats {
            self.assign(seat.slot, actions);
        }
        self.state = State::Running { meet_until: Some(self.now + self.settings.join), pausing: false };
        self.pause_saves = false;
        self.send_stop(actions);
    }

    /// Remembers which checkpoint holds the peers that leave. One that comes back may leave again before there is
    /// another.
    fn note_departures(&mut self, seats: &[Seat]) {
        let staying: BTreeSet<u32> = seats.iter().flat_map(|seat| seat.peers.iter().copied()).collect();
        let stays = |peer: &u32| staying.contains(peer);
        for peer in self.active() {
            let last = self.checkpoint.as_ref().filter(|checkpoint| checkpoint.peers.contains(&peer));
            if !stays(&peer)
                && let Some(checkpoint) = last
            {
                self.parked.insert(peer, checkpoint.directory.clone());
            }
        }
    }

    /// Tells a member of the present generation its part in it.
    pub(super) fn assign(&self, slot: Slot, actions: &mut Vec<Action>) {
        let member = self.members.iter().find(|member| member.slot == slot);
        let assignment = member.zip(self.began.as_ref()).map(|(member, start)| Assignment {
            generation: self.generation,
            rank: member.rank,
            members: Arc::clone(&self.members),
            start: Arc::clone(start),
            checkpoint_step: self.began_checkpoint,
        });
        actions.extend(assignment.map(|assignment| Action::Assign { slot, assignment }));
    }

    /// What the workers in their seats are told of one another.
    fn meet(&self) -> Vec<Member> {
        let worker = |seat: &Seat| self.workers.get(&seat.slot);
        let hosts: Vec<String> =
            self.seats.iter().map(|seat| worker(seat).map(|worker| worker.host.clone()).unwrap_or_default()).collect();
        let ranked = self.seats.iter().zip(buddies(&hosts));
        (0..)
            .zip(ranked)
            .map(|(rank, (seat, buddy))| Member {
                slot: seat.slot,
                rank,
                address: worker(seat).map(|worker| worker.address.clone()).unwrap_or_default(),
                incarnation: worker(seat).map(|worker| worker.incarnation.clone()).unwrap_or_default(),
                peers: seat.peers.clone(),
                buddy,
            })
            .collect()
    }
}
