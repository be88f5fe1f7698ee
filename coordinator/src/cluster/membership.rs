//! Who belongs to the job: workers that join, come back, and are lost.

use super::losses::Loss;
use super::machine::{Cluster, Role, State, Worker};
use super::messages::{Action, Joined, Slot, worker_name};
use medley_common::events::Event as JobEvent;
use medley_common::exit;

impl Cluster {
    pub(super) fn joined(&mut self, joined: Joined, actions: &mut Vec<Action>) {
        let Joined { slot, session, process_id, incarnation, address, host, device, generation } = joined;
        let is_ending = matches!(self.state, State::Settling { .. });
        if let Some(worker) = self.workers.get_mut(&slot).filter(|worker| worker.incarnation == incarnation) {
            // It has lost its session, or its coordinator, and goes on.
            (worker.session, worker.has_session, worker.last_heard) = (session, true, self.awake);
            (worker.process_id, worker.host, worker.address) = (process_id, host, address);
            self.evidence.clear(slot);
            if !is_ending {
                self.catch_up(slot, generation, actions);
            }
            return;
        }
        if is_ending {
            return;
        }
        if self.workers.contains_key(&slot) {
            if generation != 0 {
                let reason = format!("it belongs to generation {generation}, which went on without it");
                actions.push(Action::Dismiss { slot, reason });
                return;
            }
            self.replace(slot, actions);
            if matches!(self.state, State::Settling { .. }) {
                return;
            }
        }
        if generation != 0 {
            // It had no part in the last generation. In case it does not know, it is to leave its own.
            let reason = "the job went on without it".to_owned();
            actions.push(Action::Abort { slot, generation, reason });
        }
        let (has_session, last_heard, role) = (true, self.awake, Role::Idle);
        let worker = Worker { session, process_id, incarnation, address, host, has_session, last_heard, role };
        self.workers.insert(slot, worker);
        self.recoveries.filled(slot);
        self.evidence.clear(slot);
        actions.push(Action::Record(JobEvent::WorkerJoined { worker: worker_name(slot), slot, process_id, device }));
    }

    /// The worker in a slot counts as dead: a new process has come in its place.
    fn replace(&mut self, slot: Slot, actions: &mut Vec<Action>) {
        let reason = "was replaced in its slot by another process".to_owned();
        let message = format!("worker {slot} {reason}");
        let loss = Loss { slot: Some(slot), reason, message, exit_code: exit::FAILURE, is_final: false };
        let before = actions.len();
        self.part_with(slot, &loss, actions);
        // Who holds the slot now is not the one that is lost.
        let is_of_slot = |action: &Action| matches!(action, Action::Dismiss { slot: other, .. } if *other == slot);
        let kept: Vec<Action> = actions.split_off(before).into_iter().filter(|action| !is_of_slot(action)).collect();
        actions.extend(kept);
    }

    /// Tells a worker that was away what it may have missed.
    fn catch_up(&self, slot: Slot, its_generation: u64, actions: &mut Vec<Action>) {
        let generation = self.generation;
        if self.workers.get(&slot).is_none_or(|worker| worker.member().is_none() || worker.has_completed()) {
            return;
        }
        if its_generation < generation {
            self.assign(slot, actions);
        }
        match &self.state {
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
        if let Some(worker) = &worker {
            self.parted.insert(slot, worker.process_id);
        }
        let was_at_work = worker.is_some_and(|worker| !matches!(worker.role, Role::Idle));
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
        let worker = worker_name(slot);
        let reason = loss.reason.clone();
        actions.push(Action::Record(JobEvent::WorkerLost { worker: worker.clone(), reason: reason.clone() }));
        actions.push(Action::Dismiss { slot, reason });
        if let Some(tries) = self.recoveries.restart(slot, self.now) {
            let message = format!(
                "{worker} is not started again: it was lost {tries} times in a row (recovery.attempts) and had no part in a step between; the last time it {}",
                loss.reason
            );
            actions.push(Action::Record(JobEvent::Warning { message }));
        }
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
