//! The training loop of one worker.

use super::error::TrainError;
use super::evaluation::Examiner;
use super::saving::{Saving, Snapshot};
use super::schedule::Plan;
use super::step::{Learner, StepOutcome, join_numbers, split_numbers};
use crate::collective::Traffic;
use crate::data::{Batch, Dataset, Prefetch, SampleSet, Split};
use crate::exchange::Exchange;
use crate::model::Network;
use medley_common::config::RunConfig;
use medley_common::manifest::TrainingState;
use medley_common::proto;
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
}

/// Longest wait for the others after an evaluation, which workers finish at different times. One that dies meanwhile ends
/// the wait at once: the coordinator hears of it and ends the session.
const EVALUATION_DEADLINE: Duration = Duration::from_secs(24 * 3600);

/// One worker's part of a training.
pub struct Trainer<'a> {
    pub(super) config: &'a RunConfig,
    pub(super) dataset: &'a Dataset,
    samples: Arc<SampleSet>,
    plan: Plan,
    pub(super) learner: Learner,
    pub(super) exchange: Exchange,
    examiner: Examiner<'a>,
    pub(super) run_directory: PathBuf,
    pub(super) state: TrainingState,
    /// Committed steps.
    pub(super) step: u64,
    pub(super) saving: Saving,
    evaluation_time: Duration,
    /// Parameters at the best validation, where training may stop early.
    pub(super) best: Option<Snapshot>,
}

impl<'a> Trainer<'a> {
    /// Draws the networks of the peers hosted here and prepares their samples.
    ///
    /// # Errors
    /// When the data yields no samples or candidates, or a batch fewer rows than there are peers.
    pub fn new(
        config: &'a RunConfig,
        dataset: &'a Dataset,
        exchange: Exchange,
        device: Device,
        run_directory: &Path,
    ) -> Result<Self, TrainError> {
        let samples = Arc::new(samples(config, dataset)?);
        let plan = Plan::new(config, samples.steps_per_epoch(config.train.batch_size) as u64);
        let network = Network::draw(config, dataset.items, exchange.placement().own(), device);
        let learner = Learner::new(network, &config.optimizer);
        let examiner = Examiner::new(config, dataset, run_directory)?;
        Ok(Self {
            config,
            dataset,
            samples,
            plan,
            learner,
            exchange,
            examiner,
            run_directory: run_directory.to_owned(),
            state: TrainingState { items: dataset.items as u64, ..TrainingState::default() },
            step: 0,
            saving: Saving::default(),
            evaluation_time: Duration::ZERO,
            best: None,
        })
    }

    /// Trains to the end, evaluates, and returns what to tell the coordinator.
    ///
    /// # Errors
    /// The first failure; what was committed stays.
    pub fn run(&mut self, reporter: &mut dyn Reporter) -> Result<proto::Completed, TrainError> {
        self.exchange.collective().barrier()?;
        self.exchange.take_traffic();
        reporter.ready(self.describe());
        let mut reason = self.train(reporter)?;
        self.save_last(reporter)?;
        if reason != "stopped" && !self.finish(reporter)? {
            reason = "stopped";
        }
        Ok(proto::Completed {
            step: self.step,
            reason: reason.into(),
            train_seconds: self.state.train_seconds,
            evaluation_seconds: self.evaluation_time.as_secs_f64(),
            peak_memory_bytes: peak_memory_bytes(),
        })
    }

    fn describe(&self) -> proto::Ready {
        let network = &self.learner.network;
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
        }
    }

    /// Steps until the plan, patience or a request ends them; says which.
    fn train(&mut self, reporter: &mut dyn Reporter) -> Result<&'static str, TrainError> {
        // A run that had stopped early and is resumed has nothing more to learn.
        if self.is_out_of_patience() {
            return Ok("early-stopping");
        }
        let mut batches = self.batches()?;
        while self.step < self.plan.total_steps() {
            let stop = self.one_step(&mut batches, reporter)?;
            self.report_written(reporter);
            let last = self.step == self.plan.total_steps();
            let improved = self.validates_now(last) && self.validate(reporter)?;
            if self.is_out_of_patience() {
                return Ok("early-stopping");
            }
            if stop && !last {
                return Ok("stopped");
            }
            let keeps_best = improved && self.config.train.patience > 0;
            if !last && (keeps_best || due(self.step, self.config.train.checkpoint_every)) {
                self.save(reporter)?;
            }
        }
        Ok("steps")
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
        now && !self.config.data.train_on_validation
    }

    /// Takes a step and reports it; returns whether somebody asked to stop.
    fn one_step(&mut self, batches: &mut Prefetch<Batch>, reporter: &mut dyn Reporter) -> Result<bool, TrainError> {
        let start = Instant::now();
        let batch = batches.take()?;
        let waited = start.elapsed();
        let mut outcome = self.learner.step(
            &mut self.exchange,
            &self.plan,
            &self.config.optimizer,
            &batch,
            self.step,
            reporter.stop_requested(),
        )?;
        outcome.split.data = waited;
        let seconds = start.elapsed().as_secs_f64();
        tracing::debug!(step = self.step + 1, seconds, split = ?outcome.split, "step");
        let traffic = self.exchange.take_traffic();
        self.step += 1;
        self.state.optimizer_steps = self.learner.updates;
        self.state.train_seconds += seconds;
        self.state.rows += outcome.rows as u64;
        self.state.bytes_sent += traffic.sent;
        reporter.step(self.record(&outcome, seconds, traffic));
        Ok(outcome.stop)
    }

    fn record(&self, outcome: &StepOutcome, seconds: f64, traffic: Traffic) -> proto::StepRecord {
        let losses = self.learner.network.peers.iter().map(|peer| {
            let loss = &outcome.losses[*peer as usize];
            proto::PeerLoss {
                peer: *peer,
                total: loss.total,
                cross_entropy: loss.cross_entropy,
                positive: loss.positive,
                negative: loss.negative,
                divergence: loss.divergence,
            }
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

    /// Validates the hosted peers and agrees with the others on the best; returns whether it is the best so far.
    fn validate(&mut self, reporter: &mut dyn Reporter) -> Result<bool, TrainError> {
        let start = Instant::now();
        let limit = self.config.evaluation.validation_users;
        // The others wait for this worker's metric: a request to stop is heard after the next step.
        let mine = self.examiner.peers(&self.learner.network, Split::Valid, limit, self.step, false, reporter)?;
        let best = self.agree_on_best(mine.unwrap_or(f64::NEG_INFINITY))?;
        self.evaluation_time += start.elapsed();
        (self.state.metric, self.state.metric_step) = (Some(best), self.step);
        if !self.plan.chooses_after(self.step) {
            return Ok(false);
        }
        let improved = self.state.best_metric.is_none_or(|before| best > before);
        if improved {
            self.state.best_metric = Some(best);
            self.state.best_step = self.step;
            self.state.evaluations_without_improvement = 0;
            if self.config.train.patience > 0 {
                self.best = Some(self.snapshot());
            }
        } else {
            self.state.evaluations_without_improvement += 1;
        }
        Ok(improved)
    }

    /// The best of all workers' metrics.
    fn agree_on_best(&mut self, mine: f64) -> Result<f64, TrainError> {
        let collective = self.exchange.collective();
        collective.set_deadline(EVALUATION_DEADLINE);
        let mut received = vec![vec![0.0; 2]; collective.world_size()];
        let mut parts: Vec<&mut [f32]> = received.iter_mut().map(Vec::as_mut_slice).collect();
        let gathered = collective.all_gather(&split_numbers(&[mine]), &mut parts);
        collective.set_deadline(Duration::from_secs_f64(self.config.exchange.deadline_seconds));
        gathered?;
        self.exchange.take_traffic();
        Ok(received.iter().flat_map(|floats| join_numbers(floats)).fold(f64::NEG_INFINITY, f64::max))
    }

    /// The end: the full evaluation, of the best parameters where training may stop early. Returns false where a request
    /// to stop cut it short.
    fn finish(&mut self, reporter: &mut dyn Reporter) -> Result<bool, TrainError> {
        let start = Instant::now();
        if self.config.method.name.is_trained() {
            let step = self.return_to_best();
            let network = &self.learner.network;
            let splits = [Split::Valid, Split::Test];
            for split in splits.into_iter().skip(usize::from(self.config.data.train_on_validation)) {
                if self.examiner.peers(network, split, 0, step, true, reporter)?.is_none() {
                    return Ok(false);
                }
            }
        }
        if self.exchange.placement().rank() == 0 {
            self.examiner.baselines(reporter)?;
            self.examiner.write_candidates()?;
        }
        self.evaluation_time += start.elapsed();
        Ok(true)
    }
}

/// The samples of a configuration, refused when a batch would have fewer rows than there are peers.
///
/// # Errors
/// When there are no samples, or too few rows.
pub fn samples(config: &RunConfig, dataset: &Dataset) -> Result<SampleSet, TrainError> {
    let samples = SampleSet::new(dataset, &config.data, &config.samples, config.network.kind, config.seed)?;
    let rows = samples.min_rows(config.train.batch_size);
    if config.method.name.is_trained() && rows < config.cohort.peers {
        return Err(TrainError::Input(format!(
            "cohort.peers: is {}, but a batch may have only {rows} rows, fewer than one a peer; raise train.batch_size or lower cohort.peers",
            config.cohort.peers
        )));
    }
    Ok(samples)
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
