//! What a job's events say, folded as they come: the series of losses and metrics, the totals, the results.

use super::cohorts::Cohorts;
use super::event_log::seconds_since_epoch;
use super::peer_of;
use crate::job::Observer;
use medley_common::events::{Event, StepEvent, Trained};
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
    /// Threads of each of them; 0 in a run of a version that did not tell.
    pub threads: u32,
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
    /// Losses that the job went on from.
    pub recoveries: u64,
    /// The peers of the generations.
    pub cohorts: Cohorts,
    /// The logged steps, in order, without those that were trained again.
    pub steps: Vec<StepEvent>,
    /// The evaluations, in order, without those that were made again.
    pub evaluations: Vec<Evaluation>,
    /// Largest over workers.
    pub peak_memory_bytes: u64,
    /// How the job ended.
    pub finished: Option<Finished>,
    evaluation_seconds_before: f64,
    evaluation_seconds: f64,
    wall_seconds_before: f64,
    started: f64,
    latest: f64,
    /// The step that this invocation went on from.
    resumed_from: u64,
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

    /// The sums over so many steps, as the logged ones among them suggest.
    fn estimate<'a>(logged: impl Iterator<Item = &'a StepEvent>, steps: u64) -> Self {
        let mut sum = Self::default();
        logged.for_each(|step| sum.add(step));
        let factor = if sum.steps > 0.0 { steps as f64 / sum.steps } else { 0.0 };
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
        match event {
            Event::JobStarted { job, version, peers, workers, threads, resumed_from, trained_before, .. } => {
                self.begin(time, resumed_from.unwrap_or(0), *trained_before);
                (self.job, self.version) = (job.clone(), version.clone());
                (self.peers, self.workers, self.threads) = (*peers, *workers, *threads);
            }
            Event::Generation { generation, placement, step } => {
                self.generations = self.generations.max(*generation);
                self.cohorts.begin(*step, placement.iter().flatten().copied());
            }
            Event::Recovered { .. } => self.recoveries += 1,
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
            Event::WorkerCompleted { evaluation_seconds, peak_memory_bytes, .. } => {
                self.evaluation_seconds = self.evaluation_seconds.max(*evaluation_seconds);
                self.peak_memory_bytes = self.peak_memory_bytes.max(*peak_memory_bytes);
            }
            Event::Finished { outcome, step, message } => {
                self.finished = Some(Finished { outcome: outcome.clone(), step: *step, message: message.clone() });
            }
            Event::WorkerJoined { .. }
            | Event::WorkerLost { .. }
            | Event::Checkpoint { .. }
            | Event::Led { .. }
            | Event::Warning { .. } => {}
        }
        self.latest = time;
    }

    /// Counts a committed step, logged or not.
    pub fn progress(&mut self, step: &StepEvent) {
        self.counted.add(step);
    }

    /// The job is taken up at a step: what came after it was not committed to a checkpoint and is made again.
    fn begin(&mut self, time: f64, from: u64, trained: Trained) {
        self.steps.retain(|step| step.step <= from);
        self.evaluations.retain(|evaluation| evaluation.step <= from);
        self.resumed_from = from;
        self.before = Totals {
            steps: from as f64,
            seconds: trained.seconds,
            rows: trained.rows as f64,
            bytes: trained.bytes_sent as f64,
        };
        self.counted = Totals::default();
        self.evaluation_seconds_before += std::mem::take(&mut self.evaluation_seconds);
        self.finished = None;
        self.wall_seconds_before = self.wall_seconds();
        self.started = time;
    }

    /// Sums over all committed steps. Those up to the checkpoint that was resumed from are as its manifest has them;
    /// the steps since then are counted one by one, or in a history that was read back reckoned from the logged ones.
    pub fn totals(&self) -> Totals {
        if self.counted.steps > 0.0 {
            return self.before.plus(self.counted);
        }
        let since = self.steps.iter().filter(|step| step.step > self.resumed_from);
        let steps = self.last_step().saturating_sub(self.resumed_from);
        self.before.plus(Totals::estimate(since, steps))
    }

    /// Steps committed, as far as the events say.
    pub fn last_step(&self) -> u64 {
        match &self.finished {
            Some(finished) => finished.step,
            None => self.steps.last().map_or(0, |step| step.step).max(self.resumed_from),
        }
    }

    /// Wall time of the evaluations: the slowest worker's, over all invocations.
    pub fn evaluation_seconds(&self) -> f64 {
        self.evaluation_seconds_before + self.evaluation_seconds
    }

    /// Wall time from the first to the last event of an invocation, over all of them.
    pub fn wall_seconds(&self) -> f64 {
        self.wall_seconds_before + (self.latest - self.started).max(0.0)
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::output::read::Run;
    use medley_common::config::{self, RunConfig};
    use medley_common::events::EventLine;

    fn started(resumed_from: Option<u64>, trained_before: Trained) -> Event {
        Event::JobStarted {
            job: "j".into(),
            version: "0".into(),
            method: "hail".into(),
            peers: 2,
            workers: 2,
            threads: 1,
            cores: 2,
            gpus: 0,
            resumed_from,
            trained_before,
        }
    }

    fn step(step: u64, seconds: f64) -> StepEvent {
        StepEvent {
            step,
            stage: "train".into(),
            learning_rate: 0.0,
            gradient_norm: 0.0,
            rows: 10,
            truncated_rows: 0,
            seconds,
            bytes_sent: 100,
            losses: BTreeMap::new(),
        }
    }

    /// Ten steps of which only the slow fifth is logged, lost but for the first six; then three more.
    fn invocations() -> Vec<(f64, Event, Vec<StepEvent>)> {
        let trained = Trained { seconds: 4.0, rows: 55, bytes_sent: 660 };
        let first = (1..=10).map(|number| step(number, if number == 5 { 9.0 } else { 0.5 })).collect();
        let second = (7..=9).map(|number| step(number, 0.25)).collect();
        vec![
            (100.0, started(None, Trained::default()), Vec::new()),
            (150.0, Event::Step(step(5, 9.0)), first),
            (170.0, Event::Step(step(10, 0.5)), Vec::new()),
            (1_000.0, started(Some(6), trained), Vec::new()),
            (1_010.0, Event::Step(step(9, 0.25)), second),
        ]
    }

    #[test]
    fn a_resumed_run_counts_what_its_checkpoint_holds_and_what_came_since() {
        let mut history = History::default();
        for (time, event, progress) in invocations() {
            progress.iter().for_each(|step| history.progress(step));
            history.event(time, &event);
        }
        let expected = Totals { steps: 9.0, seconds: 4.75, rows: 85.0, bytes: 960.0 };
        assert_eq!(history.totals(), expected);
        assert_eq!(history.wall_seconds(), 80.0);
    }

    #[test]
    fn a_run_read_back_has_the_time_of_what_was_lost_and_nothing_else_of_it() {
        let run = tempfile::tempdir().unwrap();
        let mut config = RunConfig::default();
        config.data.path = "data.txt".into();
        std::fs::write(run.path().join("run.toml"), config::to_toml(&config)).unwrap();
        let line = |(time, event, _)| serde_json::to_string(&EventLine { time, event }).unwrap() + "\n";
        let log: String = invocations().into_iter().map(line).collect();
        std::fs::write(run.path().join("events.jsonl"), log).unwrap();

        let history = Run::read(run.path()).unwrap().history();
        assert_eq!(history.wall_seconds(), 80.0);
        assert_eq!(history.steps.iter().map(|step| step.step).collect::<Vec<_>>(), [5, 9]);
        let totals = history.totals();
        assert_eq!((totals.steps, totals.seconds, totals.rows), (9.0, 4.75, 85.0));
    }
}
