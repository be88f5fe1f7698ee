//! What a worker's reports change.

use super::machine::{Cluster, Role, State, Worker};
use super::messages::{Action, Report, SessionNumber, Slot, Suspended, worker_name};
use super::seats::Seat;
use medley_common::events::{Event as JobEvent, StepEvent};
use medley_common::summary::Evaluation;
use medley_common::{exit, proto};
use std::collections::BTreeSet;

/// Splits, protocols and numbers of users that a run evaluates by: far fewer than these.
const MOST_PROTOCOLS: usize = 1_024;

impl Cluster {
    /// Takes in a report; whether nothing can follow from it that the next tick does not notice as well.
    pub(super) fn reported(
        &mut self,
        slot: Slot,
        session: SessionNumber,
        generation: u64,
        report: Report,
        actions: &mut Vec<Action>,
    ) -> bool {
        // What comes over an older session is a zombie's.
        let Some(worker) = self.workers.get_mut(&slot).filter(|worker| worker.session == session) else {
            return true;
        };
        let current = worker.member().is_some() && generation == self.generation;
        // A worker that has not heard of its assignment yet speaks of the generation before: that it lives or fails
        // counts all the same.
        worker.last_heard = self.awake;
        if matches!(self.state, State::Settling { .. }) {
            return true;
        }
        match report {
            Report::Heartbeat => return true,
            Report::Failed { message, bad_input, is_final } => {
                self.evidence.failed(slot, message, bad_input, is_final);
            }
            _ if !current => {}
            Report::Ready(ready) => self.met(slot, ready, actions),
            Report::Steps(records) => return self.stepped(slot, &records, actions),
            Report::Evaluated(evaluation) => self.evaluated(slot, evaluation, actions),
            Report::Suspended(held) => self.suspended(slot, held),
            Report::ShardsWritten { step, staging, files, state } => {
                let gathered = self.shards.add(slot, step, staging, files, state);
                self.gathered(gathered, generation, actions);
            }
            Report::ShardsFailed { step, message } => self.shards_failed(slot, step, &message, generation, actions),
            Report::Completed(completed) => self.completed(slot, completed, actions),
        }
        false
    }

    fn suspended(&mut self, slot: Slot, held: Suspended) {
        let missed = held.because_of_rank.and_then(|rank| self.seats.get(rank as usize)).map(|seat| seat.slot);
        if let Some(missed) = missed.filter(|missed| *missed != slot && self.workers.contains_key(missed)) {
            self.evidence.missed(missed, slot, held.reason.clone());
        }
        if let Some(worker) = self.workers.get_mut(&slot) {
            worker.role = Role::Suspended(Box::new(held));
        }
    }

    fn met(&mut self, slot: Slot, ready: proto::Ready, actions: &mut Vec<Action>) {
        let Some(member) = self.workers.get_mut(&slot).and_then(Worker::member_mut) else {
            return;
        };
        member.ready.get_or_insert(ready);
        let ready_of = |seat: &Seat| Some((seat.slot, self.workers.get(&seat.slot)?.member()?.ready.as_ref()?));
        let Some(reports) = self.seats.iter().map(ready_of).collect::<Option<Vec<(Slot, &proto::Ready)>>>() else {
            return;
        };
        let (first, ready) = (reports[0].0, reports[0].1.clone());
        let differing = reports
            .iter()
            .find(|(_, other)| other.data_hash != ready.data_hash || other.total_steps != ready.total_steps);
        if let Some((other, _)) = differing {
            let message = format!(
                "worker {other} reads other data than worker {first}; all workers need the same data.path contents"
            );
            return self.fail(message, exit::FAILURE, actions);
        }
        let changed = |trained_on: &str| !trained_on.is_empty() && trained_on != ready.data_hash;
        if let Some(resume) = self.settings.resume.as_ref().filter(|resume| changed(&resume.data_hash)) {
            let message = format!(
                "data.path: the data is not what {} was trained on; put the old file back, or start a new run",
                resume.directory
            );
            return self.fail(message, exit::BAD_INPUT, actions);
        }
        if let State::Running { meet_until, .. } = &mut self.state {
            *meet_until = None;
        }
        if let Some(before) = &self.ready {
            if before.data_hash != ready.data_hash {
                let message = "data.path: the data changed while the job ran; put the old file back and resume".into();
                return self.fail(message, exit::BAD_INPUT, actions);
            }
            return;
        }
        actions.push(Action::Record(JobEvent::Ready {
            data_hash: ready.data_hash.clone(),
            users: ready.users,
            items: ready.items,
            interactions: ready.interactions,
            samples: ready.samples,
            total_steps: ready.total_steps,
            shared_parameters: ready.shared_parameters,
            private_parameters: ready.private_parameters,
        }));
        self.ready = Some(ready);
        actions.push(Action::Keep(self.kept()));
    }

    /// Takes in a worker's steps; whether others must report them too before anything follows.
    fn stepped(&mut self, slot: Slot, records: &[proto::StepRecord], actions: &mut Vec<Action>) -> bool {
        let mut is_routine = true;
        for record in records {
            let merged = match self.steps.add(slot, record) {
                Ok(merged) if merged.is_empty() => continue,
                Ok(merged) => merged,
                Err(gap) => {
                    self.fail(gap.to_string(), exit::FAILURE, actions);
                    return false;
                }
            };
            is_routine = false;
            merged.into_iter().for_each(|step| self.progressed(step, actions));
            // A step of the generation that has just ended, reported late, is no recovery from its end.
            if matches!(self.state, State::Running { .. }) {
                self.recovered(actions);
            }
        }
        is_routine
    }

    /// A step counts.
    pub(super) fn progressed(&mut self, step: StepEvent, actions: &mut Vec<Action>) {
        actions.push(Action::Progress(step.clone()));
        let is_last = self.ready.as_ref().is_some_and(|ready| ready.total_steps == step.step);
        if step.step.is_multiple_of(self.settings.log_every) || is_last {
            self.unlogged = None;
            actions.push(Action::Record(JobEvent::Step(step)));
        } else {
            self.unlogged = Some(step);
        }
    }

    /// The job goes on: whatever was to be recovered from is over.
    fn recovered(&mut self, actions: &mut Vec<Action>) {
        let members: BTreeSet<Slot> = self.seats.iter().map(|seat| seat.slot).collect();
        if let Some(open) = self.recoveries.progressed(&members) {
            actions.push(Action::Record(JobEvent::Recovered {
                generation: self.generation,
                lost: open.lost,
                step: open.step,
                replayed: open.replayed,
                seconds: (self.now - open.noticed).as_secs_f64(),
            }));
        }
    }

    fn evaluated(&mut self, slot: Slot, evaluation: Evaluation, actions: &mut Vec<Action>) {
        if let Some(hash) = &evaluation.candidates_hash {
            let key = (evaluation.split.clone(), evaluation.protocol.clone(), evaluation.users);
            if self.candidates.len() >= MOST_PROTOCOLS && !self.candidates.contains_key(&key) {
                return self.fail(format!("worker {slot} evaluates by too many protocols"), exit::FAILURE, actions);
            }
            let (first, expected) = self.candidates.entry(key).or_insert_with(|| (slot, hash.clone()));
            if expected != hash {
                let message = format!(
                    "worker {slot} ranked other candidates than worker {first} for {} ({}), so their metrics cannot be compared: {hash} against {expected}",
                    evaluation.protocol, evaluation.split
                );
                return self.fail(message, exit::FAILURE, actions);
            }
        }
        actions.push(Action::Record(JobEvent::Evaluation(evaluation)));
    }

    fn completed(&mut self, slot: Slot, completed: proto::Completed, actions: &mut Vec<Action>) {
        let Some(member) = self.workers.get_mut(&slot).and_then(Worker::member_mut) else {
            return;
        };
        if member.completed.is_some() {
            return;
        }
        actions.push(Action::Record(JobEvent::WorkerCompleted {
            worker: worker_name(slot),
            rank: member.rank,
            train_seconds: completed.train_seconds,
            evaluation_seconds: completed.evaluation_seconds,
            peak_memory_bytes: completed.peak_memory_bytes,
            reason: completed.reason.clone(),
        }));
        let step = completed.step;
        member.completed = Some(completed);
        self.evidence.clear(slot);
        // One that had evaluated before its generation ended says nothing of those that have yet to.
        if self.all_completed() {
            self.steps.reach(step);
            self.recovered(actions);
        }
    }
}
