//! What a worker's reports change.

use super::machine::{Cluster, State, Stopping};
use super::messages::{Action, Report, Slot, worker_name};
use medley_common::events::Event as JobEvent;
use medley_common::summary::Evaluation;
use medley_common::{exit, proto};

impl Cluster {
    pub(super) fn reported(&mut self, slot: Slot, generation: u64, report: Report, actions: &mut Vec<Action>) {
        let Some(worker) = self.workers.get_mut(&slot) else {
            return;
        };
        let current = worker.rank.is_some() && generation == self.settings.generation;
        // A worker that has not heard of its assignment yet speaks of generation 0: that it lives or fails counts
        // all the same. Anything else that is not of this generation is a zombie's.
        if !current && generation != 0 {
            return;
        }
        worker.last_heard = self.awake;
        if matches!(self.state, State::Stopping(Stopping::Settling { .. })) {
            return;
        }
        match report {
            Report::Heartbeat => {}
            Report::Failed { message, bad_input, because_of_rank } => {
                let because_of = because_of_rank.and_then(|rank| self.slot_of(rank));
                self.evidence.failed(slot, message, bad_input, because_of);
            }
            _ if !current => {}
            Report::Ready(ready) => self.met(slot, ready, actions),
            Report::Steps(records) => self.stepped(slot, &records, actions),
            Report::Evaluated(evaluation) => self.evaluated(slot, evaluation, actions),
            Report::ShardsWritten { step, staging, files, state } => {
                let gathered = self.shards.add(slot, step, staging, files, state);
                self.gathered(gathered, generation, actions);
            }
            Report::ShardsFailed { step, message } => self.shards_failed(slot, step, &message, generation, actions),
            Report::Completed(completed) => self.completed(slot, completed, actions),
        }
    }

    fn slot_of(&self, rank: u32) -> Option<Slot> {
        self.workers.iter().find(|(_, worker)| worker.rank == Some(rank)).map(|(slot, _)| *slot)
    }

    fn met(&mut self, slot: Slot, ready: proto::Ready, actions: &mut Vec<Action>) {
        let Some(worker) = self.workers.get_mut(&slot) else {
            return;
        };
        worker.ready.get_or_insert(ready);
        if self.ready.is_some() {
            return;
        }
        let reports: Vec<(Slot, &proto::Ready)> =
            self.workers.iter().filter_map(|(slot, worker)| Some((*slot, worker.ready.as_ref()?))).collect();
        if reports.len() < self.settings.workers as usize {
            return;
        }
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
        if let State::Running { meet_until } = &mut self.state {
            *meet_until = None;
        }
    }

    fn stepped(&mut self, slot: Slot, records: &[proto::StepRecord], actions: &mut Vec<Action>) {
        for record in records {
            let step = match self.steps.add(slot, record) {
                Ok(Some(step)) => step,
                Ok(None) => continue,
                Err(gap) => return self.fail(gap.to_string(), exit::FAILURE, actions),
            };
            actions.push(Action::Progress(step.clone()));
            let is_last = self.ready.as_ref().is_some_and(|ready| ready.total_steps == step.step);
            if step.step.is_multiple_of(self.settings.log_every) || is_last {
                self.unlogged = None;
                actions.push(Action::Record(JobEvent::Step(step)));
            } else {
                self.unlogged = Some(step);
            }
        }
    }

    fn evaluated(&mut self, slot: Slot, evaluation: Evaluation, actions: &mut Vec<Action>) {
        if let Some(hash) = &evaluation.candidates_hash {
            let key = (evaluation.split.clone(), evaluation.protocol.clone(), evaluation.users);
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
        let Some(worker) = self.workers.get_mut(&slot) else {
            return;
        };
        if worker.completed.is_some() {
            return;
        }
        actions.push(Action::Record(JobEvent::WorkerCompleted {
            worker: worker_name(slot),
            rank: worker.rank.unwrap_or(0),
            train_seconds: completed.train_seconds,
            evaluation_seconds: completed.evaluation_seconds,
            peak_memory_bytes: completed.peak_memory_bytes,
            reason: completed.reason.clone(),
        }));
        worker.completed = Some(completed);
    }
}
