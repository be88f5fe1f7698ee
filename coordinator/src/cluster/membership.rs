//! Who belongs to the job: workers that join, come back, and are lost.

use super::losses::Loss;
use super::machine::{Cluster, Role, State, Worker};
use super::messages::{Action, Joined, Slot, worker_name};
use medley_common::events::Event as JobEvent;
use medley_common::exit;

impl Worker {
    /// Whether it is this process.
    fn is(&self, process_id: u32, host: &str) -> bool {
        self.process_id == process_id && self.host == host
    }

    /// Whether it is the one that trained on under another coordinator.
    fn is_awaited(&self, its_generation: u64, generation: u64) -> bool {
        self.process_id == 0 && its_generation == generation
    }
}

impl Cluster {
    pub(super) fn joined(&mut self, joined: Joined, actions: &mut Vec<Action>) {
        let Joined { slot, session, process_id, address, host, device, generation } = joined;
        if slot >= self.slots() || matches!(self.state, State::Settling { .. } | State::Ended) {
            return;
        }
        if let Some(worker) = self.workers.get_mut(&slot)
            && (worker.is(process_id, &host) || worker.is_awaited(generation, self.generation))
        {
            // It has lost its session, or its coordinator, and goes on.
            (worker.session, worker.has_session, worker.last_heard) = (session, true, self.awake);
            (worker.process_id, worker.host, worker.address) = (process_id, host, address);
            self.evidence.clear(slot);
            self.catch_up(slot, generation, actions);
            return;
        }
        if self.workers.contains_key(&slot) {
            let reason = "was replaced in its slot by another process".to_owned();
            let message = format!("worker {slot} {reason}");
            let loss = Loss { slot: Some(slot), reason, message, exit_code: exit::FAILURE, is_final: false };
            let before = actions.len();
            self.part_with(slot, &loss, actions);
            // Who holds the slot now is not the one that is lost.
            let is_of_slot = |action: &Action| matches!(action, Action::Dismiss { slot: other, .. } if *other == slot);
            let kept: Vec<Action> =
                actions.split_off(before).into_iter().filter(|action| !is_of_slot(action)).collect();
            actions.extend(kept);
            if matches!(self.state, State::Settling { .. }) {
                return;
            }
        }
        if generation != 0 {
            let reason = format!("it belongs to generation {generation}, which went on without it");
            actions.push(Action::Dismiss { slot, reason });
            return;
        }
        let (has_session, last_heard, role) = (true, self.awake, Role::Idle);
        let worker = Worker { session, process_id, address, host, has_session, last_heard, role };
        self.workers.insert(slot, worker);
        self.recoveries.filled(slot);
        self.evidence.clear(slot);
        actions.push(Action::Record(JobEvent::WorkerJoined { worker: worker_name(slot), slot, process_id, device }));
    }

    /// Tells a worker that was away what it may have missed.
    fn catch_up(&self, slot: Slot, its_generation: u64, actions: &mut Vec<Action>) {
        let generation = self.generation;
        if self.workers.get(&slot).is_none_or(|worker| worker.member().is_none() || worker.has_completed()) {
            return;
        }
        match &self.state {
            State::Running { .. } if its_generation < generation => {
                let missed = self.assignments.get(&slot).cloned();
                actions.extend(missed.map(|assignment| Action::Assign { slot, assignment }));
            }
            State::Running { pausing: true, .. } => self.send_pause(slot, actions),
            State::Reforming(_) => {
                let reason = "another worker was lost".to_owned();
                actions.push(Action::Abort { slot, generation, reason });
            }
            _ => {}
        }
        if let (Some(stop), State::Running { .. }) = (&self.stop, &self.state) {
            actions.push(Action::SendStop { slot, generation, reason: stop.reason.clone() });
        }
    }

    /// Deals with a loss: the job ends, or the generation does and a replacement is sought.
    pub(super) fn lose(&mut self, loss: Loss, actions: &mut Vec<Action>) {
        let ends_the_job = loss.is_final || loss.exit_code != exit::FAILURE;
        match loss.slot.filter(|_| !ends_the_job) {
            Some(slot) => self.part_with(slot, &loss, actions),
            None => self.settle_failed(loss, actions),
        }
    }

    fn part_with(&mut self, slot: Slot, loss: &Loss, actions: &mut Vec<Action>) {
        self.evidence.clear(slot);
        let worker = self.workers.remove(&slot);
        let was_at_work = worker.as_ref().is_some_and(|worker| worker.member().is_some());
        // Several losses of one generation are one failure.
        let is_counted = match &mut self.state {
            State::Reforming(reform) if was_at_work => std::mem::replace(&mut reform.failed, true),
            _ => false,
        };
        if !is_counted {
            self.recoveries.failed(&loss.message);
        }
        if let Some(message) = self.recoveries.verdict() {
            let verdict = Loss { message, is_final: true, ..loss.clone() };
            return self.settle_failed(verdict, actions);
        }
        let (worker, reason) = (worker_name(slot), loss.reason.clone());
        actions.push(Action::Record(JobEvent::WorkerLost { worker: worker.clone(), reason: reason.clone() }));
        actions.push(Action::Dismiss { slot, reason });
        self.recoveries.restart(slot, self.now);
        if was_at_work {
            let step = self.steps.committed();
            self.recoveries.begin(self.now, step);
            if let Some(open) = self.recoveries.open() {
                open.lost.push(worker);
            }
            if matches!(self.state, State::Running { .. }) {
                self.abort_generation(&loss.message, actions);
                if let State::Reforming(reform) = &mut self.state {
                    reform.failed = true;
                }
            }
        }
    }

    /// Starts processes in empty slots whose time has come.
    pub(super) fn start_replacements(&mut self, actions: &mut Vec<Action>) {
        for slot in self.recoveries.due(self.now) {
            if slot < self.slots() && !self.workers.contains_key(&slot) {
                actions.push(Action::Start { slot });
            }
        }
    }
}
