//! What a worker process does: the protocol of `medley.proto`, faithfully.

use super::exchange::{AGAIN, ENTER, TAKE_OVER, prepares};
use super::process::{Activity, Asked, Holdings, Numbered, ProcessId, training_state};
use super::queue::{MILLISECOND, Time};
use super::schedule::Moment;
use super::world::{Happening, Order, World};
use crate::cluster::{Assignment, Event, Joined, Report};
use medley_common::manifest::ManifestFile;
use medley_common::proto;
use rand::Rng;
use std::collections::BTreeMap;
use std::rc::Rc;

/// How long a worker takes to look after its connection.
const BACKOFF: [Time; 2] = [100 * MILLISECOND, 1_000 * MILLISECOND];

impl World {
    /// A process joins, or comes back.
    pub(super) fn join(&mut self, id: ProcessId) {
        let (slot, cut_until) = (self.processes[id].slot, self.processes[id].cut_until);
        if self.now < cut_until {
            return self.queue.push(cut_until, Happening::Join { process: id });
        }
        if self.processes[id].session.is_some() {
            return;
        }
        if self.processes[id].is_dismissed {
            // It was declared dead, and is told so.
            return self.end(id, true);
        }
        if let Some(other) = self.places.get(&slot).filter(|other| **other != id)
            && self.processes[*other].known_session.is_some()
        {
            return self.queue.push(self.now + AGAIN, Happening::Join { process: id });
        }
        self.places.insert(slot, id);
        self.sessions += 1;
        let session = self.sessions;
        let now = self.now;
        let process = &mut self.processes[id];
        (process.session, process.known_session) = (Some(session), Some(session));
        (process.last_up, process.last_down) = (now, now);
        let received = process.received;
        let again: Vec<u64> = process
            .unacknowledged
            .iter()
            .map(|report| report.sequence)
            .filter(|sequence| *sequence > received)
            .collect();
        let joined = Joined {
            slot,
            session,
            process_id: id as u32 + 1,
            incarnation: format!("p{id}"),
            address: format!("p{id}"),
            host: format!("h{}", process.host),
            device: "cpu".into(),
            generation: process.generation(),
        };
        self.tell(Event::Joined(joined));
        for sequence in again {
            self.send_up(id, session, sequence);
        }
    }

    /// A worker's session breaks: it sees that, and so does the coordinator in its time.
    pub(super) fn break_session(&mut self, id: ProcessId, seen: Time) {
        let Some(session) = self.processes[id].session.take() else { return };
        self.queue.push(seen, Happening::SessionSeen { process: id, session });
        let at = seen.max(self.now) + self.random.random_range(BACKOFF[0]..BACKOFF[1]);
        self.queue.push(at, Happening::Join { process: id });
    }

    /// Sends the coordinator a report.
    pub(super) fn report(&mut self, id: ProcessId, report: Report) {
        let process = &mut self.processes[id];
        process.sent += 1;
        let (sequence, generation) = (process.sent, process.generation());
        process.unacknowledged.push_back(Numbered { sequence, generation, report });
        if let Some(session) = process.session {
            self.send_up(id, session, sequence);
        }
    }

    fn send_up(&mut self, id: ProcessId, session: u64, sequence: u64) {
        let arrives = self.soon();
        let process = &mut self.processes[id];
        let at = arrives.max(process.last_up).max(process.cut_until);
        process.last_up = at;
        self.queue.push(at, Happening::Up { process: id, session, sequence });
    }

    /// An order of the coordinator's has arrived.
    pub(super) fn ordered(&mut self, id: ProcessId, order: Order) {
        let process = &mut self.processes[id];
        let current = process.generation();
        let at_work = matches!(process.activity, Activity::AtWork | Activity::Evaluating | Activity::Completed);
        match order {
            Order::Assign(assignment) if assignment.generation > current => self.assigned(id, assignment),
            Order::Abort { generation } if generation == current && at_work => {
                self.leave(id, None, "the coordinator ended the generation", false);
            }
            Order::Pause { generation, checkpoint } if generation == current => {
                process.asked = process.asked.or(Asked { pause: true, checkpoint, ..Asked::default() });
            }
            Order::Stop { generation } if generation == current => process.asked.stop = true,
            Order::Assign(_) | Order::Abort { .. } | Order::Pause { .. } | Order::Stop { .. } => {}
        }
    }

    fn assigned(&mut self, id: ProcessId, assignment: Assignment) {
        let generation = assignment.generation;
        let process = &mut self.processes[id];
        let was_at_work = matches!(process.activity, Activity::AtWork | Activity::Evaluating | Activity::Completed);
        let before = process.generation();
        self.checks.check(!was_at_work, || {
            format!("process {id} is assigned to generation {generation} and has not left {before}")
        });
        // What it holds of a generation that others have gone on from without it is worth nothing.
        if before != 0 && generation != before + 1 {
            process.holdings = Holdings::default();
        }
        process.asked = Asked::default();
        process.saved = assignment.checkpoint_step;
        process.incoming = None;
        process.activity = Activity::AtWork;
        process.assignment = Some(assignment);
        if !self.springs(id, Moment::Entering) {
            self.send_round(id);
        }
    }

    /// A process holds what all have sent in a round.
    pub(super) fn round_done(&mut self, id: ProcessId, round: u32) {
        self.processes[id].round = None;
        match round {
            0 => {
                self.settle_pending(id);
                self.send_round(id);
            }
            TAKE_OVER => {
                self.take_over(id);
                self.send_round(id);
            }
            ENTER => self.enter(id),
            _ if prepares(round) => {
                let generation = self.processes[id].generation();
                let digest = self.groups.get(&generation).and_then(|group| Some(group.next.as_ref()?.0));
                self.processes[id].holdings.pending = digest;
                if !self.springs(id, Moment::Prepared) {
                    self.send_round(id);
                }
            }
            _ => self.commit(id),
        }
    }

    /// At the beginning of a generation: the step that was prepared is committed if anybody has, and dropped if not.
    fn settle_pending(&mut self, id: ProcessId) {
        let process = &mut self.processes[id];
        let begins = process.assignment.as_ref().map_or(0, |assignment| assignment.start.step);
        if process.holdings.pending.is_none() {
            return;
        }
        if begins == process.holdings.step + 1 {
            process.holdings.commit();
            let (step, shared) = (process.holdings.step, process.holdings.shared);
            let truth = self.checks.history.get(&step).map(|snapshot| snapshot.shared);
            self.checks.check(shared == truth, || format!("process {id} rolled forward to another step {step}"));
            self.report(id, step_report(step));
        } else {
            process.holdings.pending = None;
        }
    }

    /// Takes its parameters from where its assignment says; keeps the old until all have.
    fn take_over(&mut self, id: ProcessId) {
        let process = &self.processes[id];
        let Some(group) = self.groups.get(&process.generation()) else { return };
        let (rank, entered) = (process.rank(), &group.current);
        let members = &group.assignment.members;
        let state = |peer: &u32| entered.peers.get(peer).map(|state| (*peer, *state));
        let kept = members.iter().filter(|member| member.buddy == rank && member.rank != rank);
        let replicas = kept.flat_map(|member| member.peers.iter().filter_map(state));
        let incoming = Holdings {
            step: entered.step,
            shared: Some(entered.shared),
            hosted: members[rank as usize].peers.iter().filter_map(state).collect(),
            replicas: replicas.map(|(peer, state)| (peer, (entered.step, state))).collect(),
            parked: BTreeMap::new(),
            pending: None,
        };
        self.processes[id].incoming = Some(incoming);
    }

    fn enter(&mut self, id: ProcessId) {
        let process = &mut self.processes[id];
        let Some(group) = self.groups.get(&process.generation()) else { return };
        if let Some(incoming) = process.incoming.take() {
            let before = std::mem::replace(&mut process.holdings, incoming);
            let kept = before.parked.into_iter().chain(before.replicas);
            // A copy that is newer than the step is of steps that were undone.
            let begins = group.assignment.start.step;
            let is_away = |peer: u32, taken: u64| taken <= begins && !group.current.peers.contains_key(&peer);
            process.holdings.parked = kept.filter(|(peer, (taken, _))| is_away(*peer, *taken)).collect();
        }
        let total_steps = self.schedule.total_steps;
        self.report(id, Report::Ready(proto::Ready { data_hash: "d".into(), total_steps, ..proto::Ready::default() }));
        self.begin_step(id);
    }

    fn commit(&mut self, id: ProcessId) {
        let generation = self.processes[id].generation();
        let Some(group) = self.groups.get_mut(&generation) else { return };
        if let Some((_, next)) = group.next.take() {
            group.current = Rc::clone(&next);
            self.checks.committed(generation, next);
        }
        let (committed, agreed) = (Rc::clone(&group.current), group.agreed);
        let held = &mut self.processes[id].holdings;
        held.commit();
        self.checks.holds(id, held, &committed);
        if self.springs(id, Moment::Committed) {
            return;
        }
        self.report(id, step_report(committed.step));
        if agreed.stop {
            self.save(id, true);
            self.complete(id, "stopped");
        } else if agreed.pause && committed.step < self.last_step() {
            if agreed.checkpoint {
                self.save(id, true);
            }
            self.leave(id, None, "paused", true);
        } else {
            self.begin_step(id);
        }
    }

    /// Leaves the generation and waits for the next.
    pub(super) fn leave(&mut self, id: ProcessId, because_of_rank: Option<u32>, reason: &str, is_pause: bool) {
        let process = &mut self.processes[id];
        let was_at_work = process.activity == Activity::AtWork;
        let held = process.suspended(because_of_rank, reason, is_pause);
        if let Some(incoming) = process.incoming.take() {
            process.holdings.take_in(incoming);
        }
        process.activity = Activity::Suspended;
        process.round = None;
        self.report(id, Report::Suspended(held));
        if was_at_work && !is_pause {
            self.break_group(id);
        }
    }

    pub(super) fn evaluated(&mut self, id: ProcessId, generation: u64) {
        let process = &self.processes[id];
        if process.generation() == generation && process.activity == Activity::Evaluating {
            let reason = if self.schedule.ends_early_at.is_some() { "early-stopping" } else { "steps" };
            self.complete(id, reason);
        }
    }

    fn complete(&mut self, id: ProcessId, reason: &str) {
        self.processes[id].activity = Activity::Completed;
        let step = self.processes[id].holdings.step;
        self.report(
            id,
            Report::Completed(proto::Completed { step, reason: reason.into(), ..proto::Completed::default() }),
        );
    }

    /// Writes its part of a checkpoint: beside the training, or before anything else happens.
    pub(super) fn save(&mut self, id: ProcessId, waits: bool) {
        let process = &mut self.processes[id];
        let step = process.holdings.step;
        if process.saved >= step {
            return;
        }
        process.saved = step;
        let file = |name: String, state: u64| ManifestFile { name, bytes: 8, sha256: format!("{state:016x}") };
        let held = &process.holdings;
        let mut files: Vec<ManifestFile> =
            held.hosted.iter().map(|(peer, state)| file(format!("peer-{peer}"), *state)).collect();
        let mut state = String::new();
        if process.rank() == 0 {
            files.push(file("shared".into(), held.shared.unwrap_or_default()));
            state = training_state(step);
        }
        let report = Report::ShardsWritten { step, staging: format!("checkpoints/.step-{step}.staging"), files, state };
        let generation = process.generation();
        if waits {
            return self.report(id, report);
        }
        let at = self.now + self.random.random_range(1..100) * MILLISECOND;
        self.queue.push(at, Happening::Written { process: id, generation, report });
    }
}

fn step_report(step: u64) -> Report {
    Report::Steps(vec![proto::StepRecord { step, ..proto::StepRecord::default() }])
}
