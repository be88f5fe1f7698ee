//! Evaluates the peers hosted here, and the baselines that need no training.

use super::error::TrainError;
use super::trainer::Reporter;
use crate::data::{Dataset, EvaluationBatch, Split, evaluation_batch};
use crate::eval::{self, Evaluator};
use crate::exchange::floats;
use crate::model::Network;
use medley_common::config::RunConfig;
use medley_common::proto;
use medley_common::summary::Evaluation;
use std::path::{Path, PathBuf};

/// Owns the candidate lists, which all models share.
pub struct Examiner<'a> {
    config: &'a RunConfig,
    dataset: &'a Dataset,
    evaluator: Evaluator<'a>,
    run_directory: PathBuf,
}

impl<'a> Examiner<'a> {
    /// An examiner over a dataset.
    ///
    /// # Errors
    /// When there are no candidates for a user.
    pub fn new(config: &'a RunConfig, dataset: &'a Dataset, run_directory: &Path) -> Result<Self, TrainError> {
        let evaluator = evaluator(config, dataset)?;
        Ok(Self { config, dataset, evaluator, run_directory: run_directory.to_owned() })
    }

    /// Evaluates one hosted peer on the first `limit` users (0: all) under every protocol, unless `stop` says before the
    /// end that it is not wanted any more.
    ///
    /// # Errors
    /// When a score is not a number, and those of `stop`.
    pub fn peer(
        &self,
        network: &Network,
        place: usize,
        split: Split,
        limit: usize,
        step: u64,
        stop: &dyn Fn() -> Result<bool, TrainError>,
    ) -> Result<Option<Vec<Evaluation>>, TrainError> {
        let mut tally = self.evaluator.tally(eval_split(split));
        let users = match limit {
            0 => self.dataset.users(),
            limit => limit.min(self.dataset.users()),
        };
        for start in (0..users).step_by(self.config.evaluation.batch_size) {
            if stop()? {
                return Ok(None);
            }
            let end = (start + self.config.evaluation.batch_size).min(users);
            let (kind, longest) = (self.config.network.kind, self.config.samples.max_length);
            let EvaluationBatch { batch, users } = evaluation_batch(self.dataset, start..end, split, kind, longest);
            let hidden = network.evaluate_rows(&network.encoders[place], &batch);
            let mut logits = tch::no_grad(|| network.shared.logits(&hidden)).to_device(tch::Device::Cpu).contiguous();
            tally.add_batch(&users, floats::slice_mut(&mut logits))?;
        }
        Ok(Some(tally.finish(&format!("peer-{}", network.peers[place]), step)))
    }

    /// Evaluates the configured baselines, and the method itself where it is one. Returns false where `stop` said before the
    /// end that they are not wanted any more.
    ///
    /// # Errors
    /// As [`Examiner::peer`].
    pub fn baselines(
        &self,
        stop: &dyn Fn(&dyn Reporter) -> Result<bool, TrainError>,
        reporter: &mut dyn Reporter,
    ) -> Result<bool, TrainError> {
        let mut names = self.config.evaluation.baselines.clone();
        let method = self.config.method.name;
        if !method.is_trained() && !names.contains(&method) {
            names.insert(0, method);
        }
        for split in [Split::Valid, Split::Test] {
            for name in &names {
                let stop = || stop(reporter);
                let Some(evaluations) = self.evaluator.baseline(*name, eval_split(split), &stop)? else {
                    return Ok(false);
                };
                evaluations.into_iter().for_each(|evaluation| reporter.evaluation(message(evaluation)));
            }
        }
        Ok(true)
    }

    /// Keeps the candidate lists in the run directory. Nothing hangs on them, since they can be drawn from the seed again.
    pub fn write_candidates(&self) {
        let directory = self.run_directory.join(medley_common::run_directory::CANDIDATES);
        if let Err(error) = self.evaluator.write(&directory) {
            tracing::warn!(%error, "the candidate lists are not kept; evaluation.seed draws the same ones again");
        }
    }
}

/// The evaluator of a configuration.
///
/// # Errors
/// When there are no candidates for a user.
pub fn evaluator<'a>(config: &RunConfig, dataset: &'a Dataset) -> Result<Evaluator<'a>, TrainError> {
    let protocols = config.evaluation.protocols.clone();
    Ok(Evaluator::new(protocols, &dataset.sequences, dataset.items, config.evaluation.seed)?)
}

fn eval_split(split: Split) -> eval::Split {
    match split {
        Split::Valid => eval::Split::Valid,
        Split::Test => eval::Split::Test,
    }
}

/// An evaluation for the coordinator.
pub(super) fn message(evaluation: Evaluation) -> proto::Evaluation {
    let metrics = evaluation.metrics.into_iter().map(|(name, estimate)| proto::Metric {
        name,
        mean: estimate.mean,
        half_width: estimate.half_width,
    });
    proto::Evaluation {
        subject: evaluation.subject,
        step: evaluation.step,
        split: evaluation.split,
        protocol: evaluation.protocol,
        candidates_hash: evaluation.candidates_hash.unwrap_or_default(),
        users: evaluation.users,
        metrics: metrics.collect(),
    }
}
