//! How a job ends: the outcomes, and what is done on the way to them.

use super::losses::Loss;
use super::machine::{Cluster, State, Stop, Worker};
use super::messages::{Action, Outcome, Slot, worker_log, worker_name};
use medley_common::events::Event as JobEvent;
use medley_common::exit;
use std::time::Duration;

const FAILED: &str = "failed";
const STOPPED: &str = "stopped";

/// A terminal or `timeout` may signal the process and its group: within this, signals are one request to stop.
const ONE_REQUEST: Duration = Duration::from_secs(1);

impl Cluster {
    pub(super) fn stop_requested(&mut self, reason: String, actions: &mut Vec<Action>) {
        let now = self.now;
        let is_repeated = match &self.stop {
            Some(stop) if now - stop.asked < ONE_REQUEST => return,
            stop => stop.is_some(),
        };
        self.is_hurried |= is_repeated;
        match &mut self.state {
            State::Joining { .. } => self.settle_stopped(&reason, actions),
            State::Running { .. } | State::Reforming(_) if is_repeated => {
                self.settle_stopped(&format!("{reason}, a second time"), actions);
            }
            State::Running { .. } | State::Reforming(_) => {}
            // The end is certain, and a checkpoint may be on its way: only who asks again does not want it.
            State::Settling { until, .. } if is_repeated => *until = now,
            State::Settling { .. } | State::Ended => {}
        }
        if is_repeated && let State::Settling { until, .. } = &mut self.state {
            *until = now;
        }
        if self.stop.is_none() {
            let until = now + self.settings.stop;
            self.stop = Some(Stop { reason, asked: now, until });
            if matches!(self.state, State::Running { .. }) {
                self.send_stop(actions);
            }
        }
    }

    /// Passes a request to stop on to the members of a generation.
    pub(super) fn send_stop(&self, actions: &mut Vec<Action>) {
        let Some(stop) = &self.stop else { return };
        let at_work = self.workers.iter().filter(|(_, worker)| worker.member().is_some() && !worker.has_completed());
        actions.extend(at_work.map(|(slot, _)| Action::SendStop {
            slot: *slot,
            generation: self.generation,
            reason: stop.reason.clone(),
        }));
    }

    pub(super) fn fail_to_join(&mut self, actions: &mut Vec<Action>) {
        let missing: Vec<Slot> = (0..self.wanted_workers).filter(|slot| !self.workers.contains_key(slot)).collect();
        let message = format!(
            "{} did not join within {} ms (launch.join_ms); {} says what held it up",
            name_slots(&missing),
            self.settings.join.as_millis(),
            worker_log(missing.first().copied().unwrap_or(0)),
        );
        self.fail(message, exit::FAILURE, actions);
    }

    pub(super) fn fail_to_meet(&mut self, actions: &mut Vec<Action>) {
        let late = self.name_workers(|worker| worker.member().is_some_and(|member| member.ready.is_none()));
        let message = format!(
            "{late} did not read the data and meet the others within {} ms (launch.join_ms)",
            self.settings.join.as_millis()
        );
        self.fail(message, exit::FAILURE, actions);
    }

    pub(super) fn fail_to_stop(&mut self, actions: &mut Vec<Action>) {
        let late = self.name_workers(|worker| !worker.has_completed());
        let message = format!("{late} did not stop within {} ms", self.settings.stop.as_millis());
        self.fail(message, exit::FAILURE, actions);
    }

    fn name_workers(&self, which: impl Fn(&Worker) -> bool) -> String {
        let slots: Vec<Slot> = self.workers.iter().filter(|(_, worker)| which(worker)).map(|(slot, _)| *slot).collect();
        name_slots(&slots)
    }

    /// Ends the job with a failure whose cause is known.
    pub(super) fn fail(&mut self, message: String, exit_code: i32, actions: &mut Vec<Action>) {
        let loss = Loss { slot: None, reason: message.clone(), message, exit_code, is_final: true };
        self.settle_failed(loss, actions);
    }

    pub(super) fn settle_failed(&mut self, verdict: Loss, actions: &mut Vec<Action>) {
        if let State::Settling { outcome, .. } = &self.state
            && outcome.outcome == FAILED
        {
            // The first error is the one that a person must see; the others are kept as warnings.
            let message = verdict.message;
            actions.push(Action::Record(JobEvent::Warning { message }));
            return;
        }
        if let Some(slot) = verdict.slot {
            actions.push(Action::Record(JobEvent::WorkerLost { worker: worker_name(slot), reason: verdict.reason }));
        }
        actions.push(Action::KillAll);
        self.settle(FAILED, verdict.message, verdict.exit_code, actions);
    }

    /// Stops without waiting for the workers: there is nothing to save, or nobody wants it.
    pub(super) fn settle_stopped(&mut self, reason: &str, actions: &mut Vec<Action>) {
        actions.push(Action::KillAll);
        let message = match &self.checkpoint {
            Some(checkpoint) => format!("stopped ({reason}); --resume goes on from step {}", checkpoint.step),
            None => format!("stopped ({reason}) before there was a checkpoint"),
        };
        self.settle(STOPPED, message, exit::INTERRUPTED, actions);
    }

    pub(super) fn settle_completed(&mut self, actions: &mut Vec<Action>) {
        for step in self.shards.incomplete() {
            let message = format!("not all workers wrote their part of the checkpoint of step {step}");
            actions.push(Action::Record(JobEvent::Warning { message }));
        }
        let reported = self.workers.values().filter_map(|worker| worker.member()?.completed.as_ref());
        let step = self.steps.committed();
        let has_reason = |reason| reported.clone().any(|completed| completed.reason == reason);
        let stop_reason = self.stop.as_ref().map_or("by a worker", |stop| stop.reason.as_str());
        let (outcome, message, exit_code) = if has_reason("stopped") {
            let message = format!("stopped ({stop_reason}) after step {step}; --resume goes on from there");
            (STOPPED, message, exit::INTERRUPTED)
        } else if has_reason("early-stopping") {
            let message = format!("stopped early after step {step}: validation no longer improved");
            ("early-stopping", message, exit::SUCCESS)
        } else {
            ("completed", format!("completed after step {step}"), exit::SUCCESS)
        };
        self.settle(outcome, message, exit_code, actions);
    }

    /// A run whose end was not kept has failed, however well it went: its last checkpoint is that of its end.
    pub(super) fn judge_last_checkpoint(&self, outcome: Outcome) -> Outcome {
        let step = outcome.step;
        if outcome.outcome == FAILED || self.is_hurried() {
            return outcome;
        }
        let cause = match &self.lost_checkpoint {
            Some((lost, cause)) if *lost == step && self.checkpoint.as_ref().is_none_or(|kept| kept.step < step) => {
                cause.clone()
            }
            _ if self.committing.contains_key(&step) => {
                format!("was not committed within {} s", self.settings.stop.as_secs())
            }
            _ => return outcome,
        };
        let before = match &self.checkpoint {
            Some(kept) => format!("--resume goes on from the one of step {}", kept.step),
            None => "there is none before it".into(),
        };
        Outcome {
            outcome: FAILED.into(),
            message: format!("trained to step {step}, but the last checkpoint, of step {step}, {cause}; {before}"),
            exit_code: exit::FAILURE,
            step,
        }
    }

    fn settle(&mut self, outcome: &str, message: String, exit_code: i32, actions: &mut Vec<Action>) {
        actions.extend(self.unlogged.take().map(|step| Action::Record(JobEvent::Step(step))));
        let outcome = Outcome { outcome: outcome.into(), message, exit_code, step: self.steps.committed() };
        let until = self.now + self.settings.stop;
        self.state = State::Settling { outcome, until };
    }
}

fn name_slots(slots: &[Slot]) -> String {
    let numbers: Vec<String> = slots.iter().map(Slot::to_string).collect();
    let noun = if slots.len() == 1 { "worker" } else { "workers" };
    format!("{noun} {}", numbers.join(", "))
}
