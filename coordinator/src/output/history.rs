//! What a job's events say, folded as they come: the series of losses and metrics, the totals, the results.

use super::event_log::seconds_since_epoch;
use super::peer_of;
use crate::job::Observer;
use medley_common::events::{Event, StepEvent};
use medley_common::summary::Evaluation;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

/// What a job's events say.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// The job.
    pub job: String,
    /// Version of Medley that took it up last.
    pub version: String,
    /// Peers of the cohort.
    pub peers: u32,
    /// Worker processes of this invocation.
    pub workers: u32,
    /// Hash of the interaction data; empty until the workers have read it.
    pub data_hash: String,
    /// Steps to train; 0 until the workers have read the data.
    pub total_steps: u64,
    /// Parameters that all peers share.
    pub shared_parameters: u64,
    /// Parameters of one peer's encoder.
    pub private_parameters: u64,
    /// The generation in force.
    pub generations: u64,
    /// Generations that followed the loss of a worker.
    pub recoveries: u64,
    /// The logged steps, in order, without those that were trained again.
    pub steps: Vec<StepEvent>,
    /// The evaluations, in order, without those that were made again.
    pub evaluations: Vec<Evaluation>,
    /// Largest over workers.
    pub peak_memory_bytes: u64,
    /// How the job ended.
    pub finished: Option<Finished>,
    has_lost_a_worker: bool,
    evaluation_seconds_before: f64,
    evaluation_seconds: f64,
    started: f64,
    latest: f64,
    before: Totals,
    counted: Totals,
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Finished {
    /// `completed`, `early-stopping`, `stopped` or `failed`.
    pub outcome: String,
    /// Steps committed.
    pub step: u64,
    /// One line for a person.
    pub message: String,
}

/// Sums over committed steps.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Totals {
    /// Steps.
    pub steps: f64,
    /// Wall time of training.
    pub seconds: f64,
    /// Masked rows.
    pub rows: f64,
    /// Bytes sent by one worker, largest over workers.
    pub bytes: f64,
}

impl Totals {
    fn add(&mut self, step: &StepEvent) {
        self.steps += 1.0;
        self.seconds += step.seconds;
        self.rows += step.rows as f64;
        self.bytes += step.bytes_sent as f64;
    }

    fn plus(self, other: Self) -> Self {
        Self {
            steps: self.steps + other.steps,
            seconds: self.seconds + other.seconds,
            rows: self.rows + other.rows,
            bytes: self.bytes + other.bytes,
        }
    }

    /// The sums over all steps up to the last, as the logged ones among them suggest.
    fn estimate(logged: &[StepEvent], last: u64) -> Self {
        let mut sum = Self::default();
        logged.iter().for_each(|step| sum.add(step));
        let factor = if logged.is_empty() { 0.0 } else { last as f64 / sum.steps };
        Self {
            steps: sum.steps * factor,
            seconds: sum.seconds * factor,
            rows: sum.rows * factor,
            bytes: sum.bytes * factor,
        }
    }
}

impl History {
    /// Folds one more event in.
    pub fn event(&mut self, time: f64, event: &Event) {
        self.latest = time;
        match event {
            Event::JobStarted { job, version, peers, workers, resumed_from, .. } => {
                self.begin(time, resumed_from.unwrap_or(0));
                (self.job, self.version) = (job.clone(), version.clone());
                (self.peers, self.workers) = (*peers, *workers);
            }
            Event::Generation { generation, .. } => {
                self.generations = self.generations.max(*generation);
                self.recoveries += u64::from(std::mem::take(&mut self.has_lost_a_worker));
            }
            Event::Ready { data_hash, total_steps, shared_parameters, private_parameters, .. } => {
                self.data_hash.clone_from(data_hash);
                self.total_steps = *total_steps;
                self.shared_parameters = *shared_parameters;
                self.private_parameters = *private_parameters;
            }
            Event::Step(step) => {
                while self.steps.last().is_some_and(|last| last.step >= step.step) {
                    self.steps.pop();
                }
                self.steps.push(step.clone());
            }
            Event::Evaluation(evaluation) => {
                self.evaluations.retain(|earlier| !is_same(earlier, evaluation));
                self.evaluations.push(evaluation.clone());
            }
            Event::WorkerLost { .. } => self.has_lost_a_worker = true,
            Event::WorkerCompleted { evaluation_seconds, peak_memory_bytes, .. } => {
                self.evaluation_seconds = self.evaluation_seconds.max(*evaluation_seconds);
                self.peak_memory_bytes = self.peak_memory_bytes.max(*peak_memory_bytes);
            }
            Event::Finished { outcome, step, message } => {
                self.finished = Some(Finished { outcome: outcome.clone(), step: *step, message: message.clone() });
            }
            Event::WorkerJoined { .. } | Event::Checkpoint { .. } | Event::Warning { .. } => {}
        }
    }

    /// Counts a committed step, logged or not.
    pub fn progress(&mut self, step: &StepEvent) {
        self.counted.add(step);
    }

    /// The job is taken up at a step: what came after it was not committed to a checkpoint and is made again.
    fn begin(&mut self, time: f64, from: u64) {
        // A person who resumes a failed run is no recovery of the job's own.
        self.has_lost_a_worker = false;
        self.steps.retain(|step| step.step <= from);
        self.evaluations.retain(|evaluation| evaluation.step <= from);
        self.before = Totals::estimate(&self.steps, from);
        self.counted = Totals::default();
        self.evaluation_seconds_before += std::mem::take(&mut self.evaluation_seconds);
        self.finished = None;
        self.started = time;
    }

    /// Sums over all committed steps. Steps of this invocation are counted one by one; those of earlier ones, and all
    /// of them in a history that was read back, are reckoned from the logged ones.
    pub fn totals(&self) -> Totals {
        if self.counted.steps > 0.0 {
            return self.before.plus(self.counted);
        }
        Totals::estimate(&self.steps, self.last_step())
    }

    /// Steps committed, as far as the events say.
    pub fn last_step(&self) -> u64 {
        match &self.finished {
            Some(finished) => finished.step,
            None => self.steps.last().map_or(0, |step| step.step),
        }
    }

    /// Wall time of the evaluations: the slowest worker's, over all invocations.
    pub fn evaluation_seconds(&self) -> f64 {
        self.evaluation_seconds_before + self.evaluation_seconds
    }

    /// Wall time from the first to the last event of this invocation.
    pub fn wall_seconds(&self) -> f64 {
        (self.latest - self.started).max(0.0)
    }

    /// The last evaluation of every subject on each split under each protocol: peers by number, then baselines.
    pub fn last_evaluations(&self) -> Vec<Evaluation> {
        let mut last = BTreeMap::new();
        for evaluation in &self.evaluations {
            let peer = peer_of(&evaluation.subject);
            let key = (peer.unwrap_or(u32::MAX), &evaluation.subject, &evaluation.split, &evaluation.protocol);
            last.insert(key, evaluation);
        }
        last.into_values().cloned().collect()
    }
}

fn is_same(one: &Evaluation, other: &Evaluation) -> bool {
    (one.step, &one.subject, &one.split, &one.protocol) == (other.step, &other.subject, &other.split, &other.protocol)
}

/// Keeps a history that others can look at, during a job and after it.
#[derive(Debug, Clone, Default)]
pub struct Recorder(Arc<Mutex<History>>);

impl Recorder {
    /// Goes on from what is known already.
    pub fn new(history: History) -> Self {
        Self(Arc::new(Mutex::new(history)))
    }

    /// The history as it stands.
    pub fn history(&self) -> History {
        self.with(|history| history.clone())
    }

    fn with<T>(&self, look: impl FnOnce(&mut History) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Observer for Recorder {
    fn event(&mut self, time: SystemTime, event: &Event) {
        self.with(|history| history.event(seconds_since_epoch(time), event));
    }

    fn progress(&mut self, step: &StepEvent) {
        self.with(|history| history.progress(step));
    }
}
