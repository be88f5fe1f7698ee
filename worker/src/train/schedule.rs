//! What a step does, as a pure function of its number: stage, learning rate, loss.

use crate::loss::{Exclusivity, LossSpec, RankBase, RankOver, RankRule, Teacher as LossTeacher, Truncation};
use medley_common::config::{BetaBase, MethodConfig, OptimizerConfig, RunConfig, Schedule, Teacher};
use medley_common::method::MethodName;

/// The course of a training: how many steps, in which stages.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    total_steps: u64,
    /// The step at which PeerRec's second stage begins; `total_steps` for all other methods.
    second_stage: u64,
    method: MethodConfig,
    optimizer: OptimizerConfig,
    dimension: f64,
    peers: usize,
    slots: usize,
}

/// A training stage. Its schedule of learning rates is its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stage {
    /// `train`, or PeerRec's `stage-1` and `stage-2`.
    pub name: &'static str,
    /// Its first step, 0-based.
    pub start: u64,
    /// One past its last step.
    pub end: u64,
}

impl Plan {
    /// The plan of a job whose epochs have so many steps.
    pub fn new(config: &RunConfig, steps_per_epoch: u64) -> Self {
        let train = &config.train;
        let total_steps = match (config.method.name.is_trained(), train.steps) {
            (false, _) => 0,
            (true, 0) => train.epochs * steps_per_epoch,
            (true, steps) => steps,
        };
        let second_stage = match config.method.name {
            MethodName::Peerrec => (total_steps as f64 * config.method.stage_1_share).round() as u64,
            _ => total_steps,
        };
        Self {
            total_steps,
            second_stage,
            method: config.method.clone(),
            optimizer: config.optimizer.clone(),
            dimension: config.network.dimension as f64,
            peers: config.cohort.peers,
            slots: train.batch_size * config.samples.max_masks,
        }
    }

    /// Steps to train.
    pub fn total_steps(&self) -> u64 {
        self.total_steps
    }

    /// The stage of a step, 0-based.
    pub fn stage(&self, step: u64) -> Stage {
        let (start, end) =
            if step < self.second_stage { (0, self.second_stage) } else { (self.second_stage, self.total_steps) };
        let name = match (self.method.name, step < self.second_stage) {
            (MethodName::Peerrec, true) => "stage-1",
            (MethodName::Peerrec, false) => "stage-2",
            _ => "train",
        };
        let (start, end) = if name == "train" { (0, self.total_steps) } else { (start, end) };
        Stage { name, start, end }
    }

    /// Whether the optimiser's moments are cleared before a step.
    pub fn resets_optimizer(&self, step: u64) -> bool {
        self.method.name == MethodName::Peerrec && self.method.reset_optimizer && step == self.second_stage && step > 0
    }

    /// The learning rate of a step, 0-based. Warm-up counts from 1, so that the first step moves; linear decay counts
    /// from the stage's first step, as in HAIL's released code.
    pub fn learning_rate(&self, step: u64) -> f64 {
        let stage = self.stage(step);
        let (local, length) = ((step - stage.start) as f64, (stage.end - stage.start).max(1) as f64);
        let (peak, warmup) = (self.optimizer.learning_rate, self.optimizer.warmup_steps as f64);
        match self.optimizer.schedule {
            Schedule::Noam => {
                let number = local + 1.0;
                let rise = if warmup > 0.0 { number * warmup.powf(-1.5) } else { f64::INFINITY };
                peak * self.dimension.powf(-0.5) * number.powf(-0.5).min(rise)
            }
            _ if local < warmup => peak * (local + 1.0) / warmup,
            Schedule::Linear => peak * (1.0 - local / length),
            Schedule::Constant => peak,
        }
    }

    /// The loss of a step, 0-based.
    pub fn loss(&self, step: u64) -> LossSpec {
        let method = &self.method;
        match method.name {
            _ if self.peers == 1 && method.name != MethodName::Rce => LossSpec::CrossEntropy,
            MethodName::Popularity | MethodName::OwnFrequency | MethodName::Single => LossSpec::CrossEntropy,
            MethodName::Rce => LossSpec::ReweightedCrossEntropy { exponent: method.rce_exponent },
            MethodName::Dml => LossSpec::Mutual { alpha: None },
            MethodName::Peerrec if step < self.second_stage => LossSpec::Mutual { alpha: None },
            MethodName::Hail => self.exclusivity(step, LossTeacher::Mean),
            MethodName::Peerrec => self.exclusivity(
                step,
                match method.teacher {
                    Teacher::MinimumGroup => LossTeacher::MinimumGroup,
                    Teacher::Mean => LossTeacher::Mean,
                },
            ),
        }
    }

    /// Which rows of a step count as noise, where the method has such rows.
    pub fn truncation(&self, step: u64) -> Option<Truncation> {
        let truncates = matches!(self.loss(step), LossSpec::Exclusivity(_));
        let base = if self.method.rank_base == 0 { RankBase::Zero } else { RankBase::One };
        let over = match self.method.beta_base {
            BetaBase::Masked => RankOver::Rows,
            BetaBase::Slots => RankOver::Slots,
        };
        let rule = RankRule::Descending { base, over };
        (truncates && self.method.beta > 0.0).then_some(Truncation { beta: self.method.beta, rule })
    }

    /// Slots of a batch, padding included, where HAIL's released code takes its share of noise.
    pub fn slots(&self) -> usize {
        self.slots
    }

    fn exclusivity(&self, step: u64, teacher: LossTeacher) -> LossSpec {
        LossSpec::Exclusivity(Exclusivity {
            alpha: self.alpha(step),
            gamma: self.method.gamma,
            teacher,
            positive_term: self.method.positive_term,
            negative_term: self.method.negative_term,
            truncate_ce: self.method.truncate_ce,
            // A truncated row stays out for gamma = 0 too: with 0^0 = 1 the filter would stop filtering.
            zero_pow_zero: false,
            denominator_epsilon: 0.0,
        })
    }

    /// alpha of a step: fixed, or falling by 0.98 every fiftieth of the steps (HAIL's released code for alpha < 0).
    fn alpha(&self, step: u64) -> f64 {
        if !self.method.anneal_alpha {
            return self.method.alpha;
        }
        let period = (0.02 * self.total_steps as f64) as u64 + 1;
        0.98f64.powf((step / period) as f64)
    }
}
