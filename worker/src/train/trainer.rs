//! The training loop of one worker.
//!
//! A [`Trainer`] lives as long as its process and holds what is the same in every generation, and the states that it
//! trains. A generation is entered ([`Trainer::enter`]), trained to its end or to a pause ([`Trainer::run`]), and left: by
//! an end, or by an error of its group, after which [`Trainer::suspended`] tells what is still there. What is to be done
//! between two steps can be begun again at any point, as recovery needs it.

use super::agreement::Wishes;
use super::error::TrainError;
use super::evaluation::Examiner;
use super::holdings::{Held, Snapshot};
use super::material::Material;
use super::saving::Saving;
use super::schedule::Plan;
use super::step::{Learner, StepOutcome};
use crate::collective::{AbortHandle, Traffic};
use crate::data::{Batch, Dataset, Prefetch, SampleSet};
use crate::exchange::{Exchange, Placement};
use medley_common::config::RunConfig;
use medley_common::manifest::TrainingState;
use medley_common::proto;
use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tch::Device;

/// Who is told what a worker does: the session with the coordinator, or a test.
pub trait Reporter {
    /// Data and networks are there.
    fn ready(&mut self, ready: proto::Ready);
    /// A step was committed.
    fn step(&mut self, record: proto::StepRecord);
    /// A model was evaluated.
    fn evaluation(&mut self, evaluation: proto::Evaluation);
    /// This worker's files of a checkpoint are written and synced.
    fn shards(&mut self, shards: proto::ShardsWritten);
    /// This worker's files of a checkpoint could not be written.
    fn shards_failed(&mut self, failed: proto::ShardsFailed);
    /// Whether this worker was asked to stop.
    fn stop_requested(&self) -> bool;
    /// Whether this worker was asked to leave its generation after the next step.
    fn pause_requested(&self) -> Option<proto::Pause> {
        None
    }
}

/// How a generation ends without a failure.
#[derive(Debug, Clone, PartialEq)]
pub enum Ending {
    /// All work is done.
    Completed(proto::Completed),
    /// All workers left after the same step, for this reason.
    Paused(&'static str),
}

/// Why training goes no further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Halt {
    Steps,
    EarlyStopping,
    Stopped,
    Paused { reason: &'static str, with_checkpoint: bool },
}

/// One worker's part of a training.
pub struct Trainer<'a> {
    pub(super) config: &'a RunConfig,
    pub(super) dataset: &'a Dataset,
    samples: Arc<SampleSet>,
    pub(super) plan: Plan,
    pub(super) device: Device,
    pub(super) run_directory: PathBuf,
    examiner: OnceCell<Examiner<'a>>,
    /// Nothing before the first generation.
    pub(super) learner: Option<Learner>,
    /// States of peers that are neither hosted here nor copied for another worker at present.
    pub(super) extras: Vec<Held>,
    pub(super) placement: Placement,
    pub(super) abort: AbortHandle,
    pub(super) state: TrainingState,
    /// Committed steps.
    pub(super) step: u64,
    /// The step at which the generation began, where it went on from another generation.
    pub(super) entered: Option<u64>,
    pub(super) saving: Saving,
    pub(super) evaluation_time: Duration,
    /// Parameters at the best validation, where training may stop early.
    pub(super) best: Option<Snapshot>,
    /// Last evaluations that were reported, by subject, step and split.
    pub(super) evaluated: BTreeSet<(String, u64, &'static str)>,
}

impl<'a> Trainer<'a> {
    /// A trainer that has not entered a generation.
    pub fn new(material: &'a Material, device: Device, run_directory: &Path) -> Self {
        let Material { config, dataset, samples } = material;
        let plan = Plan::new(config, samples.steps_per_epoch(config.train.batch_size) as u64);
        let nobody = Placement::new(vec![vec![0]], 0).expect("one peer on one rank is a placement");
        Self {
            config,
            dataset,
            samples: Arc::clone(samples),
            plan,
            device,
            run_directory: run_directory.to_owned(),
            examiner: OnceCell::new(),
            learner: None,
            extras: Vec::new(),
            placement: nobody,
            abort: AbortHandle::new(),
            state: TrainingState { items: dataset.items as u64, ..TrainingState::default() },
            step: 0,
            entered: None,
            saving: Saving::default(),
            evaluation_time: Duration::ZERO,
            best: None,
            evaluated: BTreeSet::new(),
        }
    }

    /// Trains to the end and evaluates, or to a pause, in the generation that was entered.
    ///
    /// # Errors
    /// The first failure; what was committed stays.
    pub fn run(&mut self, exchange: &mut Exchange, reporter: &mut dyn Reporter) -> Result<Ending, TrainError> {
        reporter.ready(self.describe());
        let halt = self.train(exchange, reporter)?;
        if halt != (Halt::Paused { reason: PAUSED, with_checkpoint: false }) {
            self.save_last(reporter)?;
        }
        let reason = match halt {
            Halt::Paused { reason, .. } => return Ok(Ending::Paused(reason)),
            Halt::Stopped => "stopped",
            _ if !self.finish(reporter)? => "stopped",
            Halt::Steps => "steps",
            Halt::EarlyStopping => "early-stopping",
        };
        Ok(Ending::Completed(proto::Completed {
            step: self.step,
            reason: reason.into(),
            train_seconds: self.state.train_seconds,
            evaluation_seconds: self.evaluation_time.as_secs_f64(),
            peak_memory_bytes: peak_memory_bytes(),
        }))
    }

    /// What this worker holds, for the coordinator to decide from.
    pub fn suspended(&self, reason: &str, because_of_rank: Option<usize>) -> proto::Suspended {
        let mut suspended = proto::Suspended {
            step: self.step,
            reason: reason.to_owned(),
            because_of_rank: because_of_rank.map_or(-1, |rank| rank as i32),
            ..proto::Suspended::default()
        };
        if let Some(learner) = &self.learner {
            suspended.is_prepared = learner.is_prepared();
            suspended.peers.clone_from(&learner.network.peers);
            suspended.state = serde_json::to_string(&self.state).unwrap_or_default();
            let copies = learner.copies.iter().map(|copy| proto::Replica { peer: copy.peer, step: self.step });
            let extras = self.extras.iter().map(|held| proto::Replica { peer: held.peer, step: held.step });
            suspended.replicas = copies.chain(extras).collect();
        }
        suspended
    }

    /// The configuration.
    pub fn config(&self) -> &'a RunConfig {
        self.config
    }

    /// Committed steps.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// What this worker trains; nothing before its first generation.
    pub fn learner(&self) -> Option<&Learner> {
        self.learner.as_ref()
    }

    /// What the training loop needs beside the tensors.
    pub fn state(&self) -> &TrainingState {
        &self.state
    }

    pub(super) fn entered_learner(&self) -> &Learner {
        self.learner.as_ref().expect(ENTERED)
    }

    pub(super) fn examiner(&self) -> Result<&Examiner<'a>, TrainError> {
        if let Some(examiner) = self.examiner.get() {
            return Ok(examiner);
        }
        let examiner = Examiner::new(self.config, self.dataset, &self.run_directory)?;
        Ok(self.examiner.get_or_init(|| examiner))
    }

    fn describe(&self) -> proto::Ready {
        let network = &self.entered_learner().network;
        proto::Ready {
            data_hash: self.dataset.hash.clone(),
            users: self.dataset.users() as u64,
            items: self.dataset.items as u64,
            interactions: self.dataset.interactions() as u64,
            samples: self.samples.samples_per_epoch() as u64,
            steps_per_epoch: self.samples.steps_per_epoch(self.config.train.batch_size) as u64,
            total_steps: self.plan.total_steps(),
            shared_parameters: network.shared.parameters.len() as u64,
            private_parameters: network.encoders.first().map_or(0, |encoder| encoder.parameters.len() as u64),
            fewest_rows: self.samples.min_rows(self.config.train.batch_size) as u64,
        }
    }

    /// Steps until the plan, patience or a request ends them. What is due after a step stands before the next one, so that
    /// a generation that begins there does what the last one did not come to.
    fn train(&mut self, exchange: &mut Exchange, reporter: &mut dyn Reporter) -> Result<Halt, TrainError> {
        let mut batches = None;
        let mut wishes = Wishes::NONE;
        loop {
            let last = self.step >= self.plan.total_steps();
            if self.validates_now(last) {
                self.validate(exchange, reporter)?;
            }
            if self.is_out_of_patience() {
                return Ok(Halt::EarlyStopping);
            }
            if last {
                return Ok(Halt::Steps);
            }
            if wishes.contain(Wishes::STOP) {
                return Ok(Halt::Stopped);
            }
            if self.is_rescheduled() {
                return Ok(Halt::Paused { reason: "schedule", with_checkpoint: true });
            }
            if wishes.contain(Wishes::PAUSE) {
                let with_checkpoint = wishes.contain(Wishes::PAUSE_WITH_CHECKPOINT);
                return Ok(Halt::Paused { reason: PAUSED, with_checkpoint });
            }
            if self.saves_now() {
                self.save(reporter)?;
            }
            if batches.is_none() {
                batches = Some(self.batches()?);
            }
            if let Some(batches) = &mut batches {
                wishes = self.one_step(exchange, batches, reporter)?;
                self.report_written(reporter);
            }
        }
    }

    /// The batches of the steps to come.
    fn batches(&self) -> Result<Prefetch<Batch>, TrainError> {
        let (samples, batch_size) = (Arc::clone(&self.samples), self.config.train.batch_size);
        let steps = self.step..self.plan.total_steps();
        Ok(Prefetch::start(steps, move |step| samples.batch_at(step, batch_size))?)
    }

    fn is_out_of_patience(&self) -> bool {
        let patience = self.config.train.patience;
        patience > 0 && self.state.evaluations_without_improvement >= patience
    }

    /// The last step has its evaluation after the training; but where the best step counts, the last may be it.
    fn validates_now(&self, last: bool) -> bool {
        let train = &self.config.train;
        let now = if last { train.patience > 0 } else { due(self.step, train.evaluate_every) };
        now && self.step > 0 && self.state.validated_step != Some(self.step) && !self.config.data.train_on_validation
    }

    /// Whether the schedule changes T here. A generation that goes on from here has the T that the coordinator wants; one that
    /// comes back to a checkpoint of before the change has it yet to make.
    fn is_rescheduled(&self) -> bool {
        let cohort = &self.config.cohort;
        self.entered != Some(self.step)
            && cohort.schedule.iter().any(|change| change.step == self.step)
            && cohort.peers_after(self.step) != self.placement.peers()
    }

    fn saves_now(&self) -> bool {
        let train = &self.config.train;
        let is_best = train.patience > 0 && self.state.best_metric.is_some() && self.state.best_step == self.step;
        self.step > 0 && (is_best || due(self.step, train.checkpoint_every))
    }

    /// Takes a step and reports it; returns what anybody asked for.
    fn one_step(
        &mut self,
        exchange: &mut Exchange,
        batches: &mut Prefetch<Batch>,
        reporter: &mut dyn Reporter,
    ) -> Result<Wishes, TrainError> {
        let start = Instant::now();
        let batch = batches.take()?;
        let waited = start.elapsed();
        let mine = wishes(reporter);
        let (config, step) = (&self.config.optimizer, self.step);
        let learner = self.learner.as_mut().expect(ENTERED);
        let mut outcome = learner.step(exchange, &self.plan, config, &batch, step, mine)?;
        outcome.split.data = waited;
        let traffic = exchange.take_traffic();
        self.committed(&outcome, start.elapsed(), traffic, reporter);
        Ok(outcome.wishes)
    }

    /// Counts a committed step and reports it.
    pub(super) fn committed(
        &mut self,
        outcome: &StepOutcome,
        took: Duration,
        traffic: Traffic,
        reporter: &mut dyn Reporter,
    ) {
        let seconds = took.as_secs_f64();
        self.step += 1;
        tracing::debug!(step = self.step, seconds, split = ?outcome.split, "step");
        self.state.optimizer_steps = self.entered_learner().updates;
        self.state.train_seconds += seconds;
        self.state.rows += outcome.rows as u64;
        self.state.bytes_sent += traffic.sent;
        reporter.step(self.record(outcome, seconds, traffic));
    }

    fn record(&self, outcome: &StepOutcome, seconds: f64, traffic: Traffic) -> proto::StepRecord {
        let reported = self.placement.reported(self.placement.rank());
        let losses = reported.iter().filter_map(|peer| {
            let loss = &outcome.losses[self.placement.position(*peer)?];
            Some(proto::PeerLoss {
                peer: *peer,
                total: loss.total,
                cross_entropy: loss.cross_entropy,
                positive: loss.positive,
                negative: loss.negative,
                divergence: loss.divergence,
            })
        });
        proto::StepRecord {
            step: self.step,
            learning_rate: outcome.learning_rate,
            gradient_norm: outcome.gradient_norm,
            rows: outcome.rows as u64,
            truncated_rows: outcome.truncated_rows as u64,
            seconds,
            bytes_sent: traffic.sent,
            bytes_received: traffic.received,
            losses: losses.collect(),
            stage: self.plan.stage(self.step - 1).name.into(),
        }
    }
}

/// Why a worker that was asked to leaves its generation.
const PAUSED: &str = "paused";

/// Why there is a learner where one is needed.
const ENTERED: &str = "a generation was entered";

/// What this worker was asked for.
fn wishes(reporter: &dyn Reporter) -> Wishes {
    let pause = match reporter.pause_requested() {
        Some(proto::Pause { checkpoint: true }) => Wishes::PAUSE_WITH_CHECKPOINT,
        Some(_) => Wishes::PAUSE,
        None => Wishes::NONE,
    };
    pause | if reporter.stop_requested() { Wishes::STOP } else { Wishes::NONE }
}

/// Whether something that happens every so many steps (0: never) happens now.
fn due(step: u64, every: u64) -> bool {
    every > 0 && step.is_multiple_of(every)
}

/// The most memory that this process ever held; 0 where the system does not tell.
fn peak_memory_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes = peak.and_then(|text| text.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kibibytes.unwrap_or(0) * 1024
}
