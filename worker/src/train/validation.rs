//! Validations during training, and the evaluation at its end.

use super::agreement::{join_numbers, split_numbers};
use super::error::TrainError;
use super::evaluation::message;
use super::trainer::{Reporter, Trainer};
use crate::data::Split;
use crate::exchange::Exchange;
use std::time::{Duration, Instant};

/// Longest wait for the others after an evaluation, which workers finish at different times. One that dies meanwhile ends
/// the wait at once: its connections break, or the coordinator aborts the generation.
const EVALUATION_DEADLINE: Duration = Duration::from_secs(24 * 3600);

impl Trainer<'_> {
    /// Validates the hosted peers, agrees with the others on the best, and notes whether it is the best so far.
    pub(super) fn validate(&mut self, exchange: &mut Exchange, reporter: &mut dyn Reporter) -> Result<(), TrainError> {
        let start = Instant::now();
        // The others wait for this worker's metric: a request to stop is heard after the next step.
        let limit = self.config.evaluation.validation_users;
        let mut mine = f64::NEG_INFINITY;
        for place in 0..self.entered_learner().network.peers.len() {
            let network = &self.entered_learner().network;
            let stop = || self.abort.check().map(|()| false).map_err(TrainError::from);
            let evaluated = self.examiner()?.peer(network, place, Split::Valid, limit, self.step, &stop)?;
            for evaluation in evaluated.into_iter().flatten() {
                if evaluation.protocol == self.config.metric_protocol().as_str() {
                    mine = mine.max(evaluation.metrics[&self.config.train.metric].mean);
                }
                reporter.evaluation(message(evaluation));
            }
        }
        let best = self.agree_on_best(exchange, mine)?;
        self.evaluation_time += start.elapsed();
        self.state.validated_step = Some(self.step);
        (self.state.metric, self.state.metric_step) = (Some(best), self.step);
        if !self.plan.chooses_after(self.step) {
            return Ok(());
        }
        if self.state.best_metric.is_none_or(|before| best > before) {
            self.state.best_metric = Some(best);
            self.state.best_step = self.step;
            self.state.evaluations_without_improvement = 0;
            if self.config.train.patience > 0 {
                self.best = Some(self.entered_learner().snapshot());
            }
        } else {
            self.state.evaluations_without_improvement += 1;
        }
        Ok(())
    }

    /// The best of all workers' metrics.
    fn agree_on_best(&self, exchange: &mut Exchange, mine: f64) -> Result<f64, TrainError> {
        let collective = exchange.collective();
        collective.set_deadline(EVALUATION_DEADLINE);
        let mut received = vec![vec![0.0; 2]; collective.world_size()];
        let mut parts: Vec<&mut [f32]> = received.iter_mut().map(Vec::as_mut_slice).collect();
        let gathered = collective.all_gather(&split_numbers(&[mine]), &mut parts);
        collective.set_deadline(Duration::from_secs_f64(self.config.exchange.deadline_seconds));
        gathered?;
        exchange.take_traffic();
        Ok(received.iter().flat_map(|floats| join_numbers(floats)).fold(f64::NEG_INFINITY, f64::max))
    }

    /// The end: the full evaluation, of the best parameters where training may stop early. Returns false where a request
    /// to stop cut it short. What this process evaluated before, in a generation that did not end, is not done again.
    pub(super) fn finish(&mut self, reporter: &mut dyn Reporter) -> Result<bool, TrainError> {
        let start = Instant::now();
        if self.config.method.name.is_trained() {
            // Should another worker be lost meanwhile, the last parameters are what its peers are restored beside.
            let last = self.best.is_some().then(|| self.entered_learner().snapshot());
            if let Some(best) = &self.best {
                self.entered_learner().take(best);
            }
            let outcome = self.finish_peers(reporter);
            if let Some(last) = &last {
                self.entered_learner().take(last);
            }
            if !outcome? {
                return Ok(false);
            }
        }
        let baselines = (String::new(), 0, "");
        if self.placement.rank() == 0 && !self.evaluated.contains(&baselines) {
            let stop = |reporter: &dyn Reporter| {
                self.abort.check()?;
                Ok(reporter.stop_requested())
            };
            if !self.examiner()?.baselines(&stop, reporter)? {
                return Ok(false);
            }
            self.examiner()?.write_candidates();
            self.evaluated.insert(baselines);
        }
        self.evaluation_time += start.elapsed();
        Ok(true)
    }

    fn finish_peers(&mut self, reporter: &mut dyn Reporter) -> Result<bool, TrainError> {
        let step = if self.best.is_some() { self.state.best_step } else { self.step };
        let splits = [(Split::Valid, "valid"), (Split::Test, "test")];
        for (split, name) in splits.into_iter().skip(usize::from(self.config.data.train_on_validation)) {
            for place in 0..self.entered_learner().network.peers.len() {
                let network = &self.entered_learner().network;
                let key = (format!("peer-{}", network.peers[place]), step, name);
                if self.evaluated.contains(&key) {
                    continue;
                }
                let stop = || {
                    self.abort.check()?;
                    Ok(reporter.stop_requested())
                };
                let Some(evaluations) = self.examiner()?.peer(network, place, split, 0, step, &stop)? else {
                    return Ok(false);
                };
                evaluations.into_iter().for_each(|evaluation| reporter.evaluation(message(evaluation)));
                self.evaluated.insert(key);
            }
        }
        Ok(true)
    }
}
