//! Between generations: the survivors of one leave it, replacements are waited for, and the next is formed.

use super::losses::Loss;
use super::machine::{Cluster, Role, State, Worker};
use super::messages::{Action, Slot};
use medley_common::config::RecoveryMode;
use medley_common::events::Event as JobEvent;
use medley_common::exit;
use std::time::Duration;

/// What is waited for between two generations.
#[derive(Debug, Clone, PartialEq)]
pub struct Reform {
    /// Until when the survivors must have left the old one.
    pub until: Duration,
    /// Until when replacements are waited for.
    pub replace_until: Duration,
    /// Until when there must be a worker at all.
    pub join_until: Duration,
    /// An attempt that follows failed ones waits.
    pub not_before: Duration,
    /// All survivors left after the same step, as they were asked to.
    pub is_pause: bool,
    /// That the old one failed is counted.
    pub failed: bool,
}

impl Cluster {
    /// The first generation: nobody holds anything yet.
    pub(super) fn begin_first(&mut self, actions: &mut Vec<Action>) {
        let now = self.now;
        let reform =
            Reform { until: now, replace_until: now, join_until: now, not_before: now, is_pause: true, failed: false };
        self.state = State::Reforming(reform);
        self.form(actions);
    }

    /// The exchange of a generation failed on a member, or all left it after the step that they had agreed on.
    pub(super) fn leave_generation(&mut self, actions: &mut Vec<Action>) {
        let left = self.workers.values().filter_map(Worker::suspended);
        let is_pause = left.clone().all(|held| held.is_pause);
        let reason = left.map(|held| held.reason.clone()).next().unwrap_or_default();
        if is_pause {
            // The others are about to leave by themselves.
            self.state = State::Reforming(self.reform(true));
        } else {
            self.abort_generation(&reason, actions);
        }
    }

    /// Ends the present generation at once.
    pub(super) fn abort_generation(&mut self, reason: &str, actions: &mut Vec<Action>) {
        for (slot, worker) in &mut self.workers {
            if let Some(member) = worker.member_mut() {
                member.completed = None;
                let (slot, generation, reason) = (*slot, self.generation, reason.to_owned());
                actions.push(Action::Abort { slot, generation, reason });
            }
        }
        self.recoveries.begin(self.now, self.steps.committed());
        self.state = State::Reforming(self.reform(false));
    }

    fn reform(&self, is_pause: bool) -> Reform {
        let recovery = &self.settings.recovery;
        let now = self.now;
        Reform {
            until: now + recovery.reform,
            replace_until: now + recovery.replace,
            join_until: now + recovery.reform.max(recovery.replace) + self.settings.join,
            not_before: now + self.recoveries.backoff(),
            is_pause,
            failed: false,
        }
    }

    /// Whether a generation with other peers or workers is wanted and can be had.
    pub(super) fn wants_another_generation(&self) -> bool {
        // What was asked for in the course of steps that are taken again comes after them as it did the first time.
        if self.stop.is_some() || self.steps.are_taken_again() || self.workers.values().any(Worker::has_completed) {
            return false;
        }
        let step = self.steps.committed();
        let is_last = self.ready.as_ref().is_some_and(|ready| step >= ready.total_steps);
        let idle = self.workers.values().filter(|worker| matches!(worker.role, Role::Idle)).count();
        let peers = self.cohort.peers_after(step) as usize;
        let wanted = (self.wanted_workers as usize).min(peers);
        let active = self.active().len();
        let could_host = active == peers || idle > 0 || !self.misses_peers();
        let could_seat = self.seats.len() > wanted || (self.seats.len() < wanted && idle > 0);
        !is_last && (could_seat || (active != peers && could_host))
    }

    /// Whether peers take no part for want of a worker.
    fn misses_peers(&self) -> bool {
        self.settings.recovery.mode == RecoveryMode::Continue && (self.seats.len() as u32) < self.wanted_workers
    }

    /// Asks the members to leave after a step that they agree on.
    pub(super) fn pause(&mut self, actions: &mut Vec<Action>) {
        let peers = self.cohort.peers_after(self.steps.committed());
        // A peer that leaves comes back from the checkpoint that it left in.
        self.pause_saves = self.active().iter().any(|peer| *peer >= peers);
        let members = self.workers.iter().filter(|(_, worker)| worker.member().is_some());
        members.for_each(|(slot, _)| self.send_pause(*slot, actions));
        if let State::Running { pausing, .. } = &mut self.state {
            *pausing = true;
        }
    }

    pub(super) fn send_pause(&self, slot: Slot, actions: &mut Vec<Action>) {
        let checkpoint = self.pause_saves;
        actions.push(Action::Pause { slot, generation: self.generation, checkpoint });
    }

    pub(super) fn advance_reform(&mut self, actions: &mut Vec<Action>) -> bool {
        let State::Reforming(reform) = &self.state else { return false };
        let now = self.now;
        let remaining: Vec<Slot> =
            self.workers.iter().filter(|(_, worker)| worker.member().is_some()).map(|(slot, _)| *slot).collect();
        if !remaining.is_empty() {
            if now >= reform.until {
                let reason = format!(
                    "did not leave the exchange within {} ms (recovery.reform_ms)",
                    self.settings.recovery.reform.as_millis()
                );
                let slot = remaining[0];
                let message = format!("worker {slot} {reason}");
                self.lose(
                    Loss { slot: Some(slot), reason, message, exit_code: exit::FAILURE, is_final: false },
                    actions,
                );
                return true;
            }
            // One that left because of a failure makes the others' waits pointless.
            let trouble = self.workers.values().filter_map(Worker::suspended).find(|held| !held.is_pause);
            if let Some(reason) = trouble.filter(|_| reform.is_pause).map(|held| held.reason.clone()) {
                self.abort_generation(&reason, actions);
                return true;
            }
            return false;
        }
        if self.note_failed_exchange(actions) {
            return true;
        }
        let State::Reforming(reform) = &self.state else { return false };
        if now < reform.not_before || (now < reform.until && self.awaits_checkpoint()) {
            return false;
        }
        let available = self.workers.len();
        if available == 0 && now >= reform.join_until {
            self.fail_to_join(actions);
            return true;
        }
        if available < self.enough() && now < reform.replace_until {
            return false;
        }
        available > 0 && self.form(actions)
    }

    /// All have left a generation that nobody is known to have died in: the links failed, and that is a failure too.
    fn note_failed_exchange(&mut self, actions: &mut Vec<Action>) -> bool {
        let State::Reforming(reform) = &mut self.state else { return false };
        if reform.is_pause || reform.failed {
            return false;
        }
        reform.failed = true;
        let missed = self.evidence.missed_first();
        let reason = || self.workers.values().filter_map(Worker::suspended).map(|held| held.reason.clone()).next();
        let message = missed.as_ref().map(|loss| loss.message.clone()).or_else(reason).unwrap_or_default();
        self.recoveries.failed(&message);
        if let Some(message) = self.recoveries.verdict() {
            self.fail(message, exit::FAILURE, actions);
            return true;
        }
        actions.push(Action::Record(JobEvent::Warning {
            message: format!("the exchange failed and is formed again: {message}"),
        }));
        let not_before = self.now + self.recoveries.backoff();
        if let State::Reforming(reform) = &mut self.state {
            reform.not_before = not_before;
        }
        true
    }
}
