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
            slots: train.batch_size * config.samples.slots(config.network.kind),
        }
    }

    /// Sets T where it differs from what the training begins with.
    pub fn set_peers(&mut self, peers: usize) {
        self.peers = peers;
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

    /// Whether a validation after so many steps may choose the best parameters and count towards patience: what PeerRec's
    /// first stage reaches is where the second one starts, not a result.
    pub fn chooses_after(&self, steps: u64) -> bool {
        self.method.name != MethodName::Peerrec || steps > self.second_stage
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

    /// alpha of a step: fixed, or falling by 0.98 every fiftieth of the stage's steps (HAIL's released code for alpha < 0).
    fn alpha(&self, step: u64) -> f64 {
        if !self.method.anneal_alpha {
            return self.method.alpha;
        }
        let stage = self.stage(step);
        let period = (0.02 * (stage.end - stage.start) as f64) as u64 + 1;
        0.98f64.powf(((step - stage.start) / period) as f64)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// The plan of a configuration with settings as on the command line, 10 steps an epoch.
    fn plan(settings: &[&str]) -> Plan {
        let overrides: Vec<_> = settings.iter().map(|text| text.parse().unwrap()).collect();
        let text =
            "[data]\npath = \"none\"\n[train]\nsteps = 100\n[optimizer]\nwarmup_steps = 10\nlearning_rate = 1.0\n";
        Plan::new(&medley_common::config::parse(text, "test", &overrides).unwrap(), 10)
    }

    fn rates(plan: &Plan, steps: [u64; 5]) -> [f64; 5] {
        steps.map(|step| (plan.learning_rate(step) * 1e6).round() / 1e6)
    }

    #[test]
    fn steps_are_given_or_come_from_epochs() {
        assert_eq!(plan(&[]).total_steps(), 100);
        assert_eq!(plan(&["train.steps=0", "train.epochs=3"]).total_steps(), 30);
        assert_eq!(plan(&["method.name=popularity", "cohort.peers=1"]).total_steps(), 0);
    }

    #[test]
    fn rates_rise_over_the_warm_up_and_then_follow_their_schedule() {
        let steps = [0, 4, 9, 10, 99];
        assert_eq!(rates(&plan(&[]), steps), [0.1, 0.5, 1.0, 0.9, 0.01]);
        assert_eq!(rates(&plan(&["optimizer.schedule=constant"]), steps), [0.1, 0.5, 1.0, 1.0, 1.0]);
        assert_eq!(rates(&plan(&["optimizer.warmup_steps=0"]), steps), [1.0, 0.96, 0.91, 0.9, 0.01]);
        // 64^-0.5 = 1/8, and at the end of the warm-up both branches meet: 10^-0.5 / 8.
        let noam = rates(&plan(&["optimizer.schedule=noam"]), steps);
        assert_eq!(noam, [0.003953, 0.019764, 0.039528, 0.037689, 0.0125]);
    }

    #[test]
    fn stages_have_schedules_of_their_own() {
        let settings = ["method.name=peerrec", "method.stage_1_share=0.4", "method.reset_optimizer=true"];
        let plan = plan(&settings);
        let names = [0, 39, 40, 99].map(|step| plan.stage(step).name);
        assert_eq!(names, ["stage-1", "stage-1", "stage-2", "stage-2"]);
        assert_eq!(rates(&plan, [0, 39, 40, 49, 99]), [0.1, 0.025, 0.1, 1.0, 0.016667]);
        let resets: Vec<u64> = (0..100).filter(|step| plan.resets_optimizer(*step)).collect();
        assert_eq!(resets, [40]);
        let choosing: Vec<u64> = (1..=100).filter(|steps| plan.chooses_after(*steps)).collect();
        assert_eq!((choosing[0], choosing.len()), (41, 60));
    }

    #[test]
    fn losses_are_those_of_the_method_and_stage() {
        let kind = |settings: &[&str], step| match plan(settings).loss(step) {
            LossSpec::CrossEntropy => "cross-entropy",
            LossSpec::ReweightedCrossEntropy { .. } => "reweighted",
            LossSpec::Mutual { .. } => "mutual",
            LossSpec::Exclusivity(spec) if spec.teacher == LossTeacher::Mean => "mean",
            LossSpec::Exclusivity(_) => "minimum group",
        };
        assert_eq!(kind(&[], 0), "mean");
        assert_eq!(kind(&["method.name=single", "cohort.peers=1"], 0), "cross-entropy");
        assert_eq!(kind(&["method.name=rce", "cohort.peers=1"], 0), "reweighted");
        assert_eq!(kind(&["method.name=dml"], 99), "mutual");
        assert_eq!(kind(&["method.name=peerrec"], 49), "mutual");
        assert_eq!(kind(&["method.name=peerrec"], 50), "minimum group");
        assert_eq!(kind(&["method.name=peerrec", "method.teacher=mean"], 50), "mean");
    }

    #[test]
    fn what_the_configuration_says_of_the_loss_reaches_it() {
        let hail = |setting: &str| match plan(&[setting]).loss(0) {
            LossSpec::Exclusivity(spec) => spec,
            other => panic!("{other:?}"),
        };
        let base = hail("method.alpha=0.5");
        assert_eq!(base, Exclusivity::hail(0.5, 1.0));
        assert_eq!(hail("method.gamma=2.0"), Exclusivity { gamma: 2.0, ..base });
        assert_eq!(hail("method.positive_term=false"), Exclusivity { positive_term: false, ..base });
        assert_eq!(hail("method.negative_term=false"), Exclusivity { negative_term: false, ..base });
        assert_eq!(hail("method.truncate_ce=true"), Exclusivity { truncate_ce: true, ..base });
        let rce = plan(&["method.name=rce", "cohort.peers=1", "method.rce_exponent=0.3"]).loss(0);
        assert_eq!(rce, LossSpec::ReweightedCrossEntropy { exponent: 0.3 });
        let rule = |settings: &[&str]| plan(settings).truncation(0).unwrap().rule;
        let descending = |base, over| RankRule::Descending { base, over };
        assert_eq!(rule(&["method.beta=0.1"]), descending(RankBase::One, RankOver::Rows));
        assert_eq!(rule(&["method.beta=0.1", "method.rank_base=0"]), descending(RankBase::Zero, RankOver::Rows));
        assert_eq!(rule(&["method.beta=0.1", "method.beta_base=slots"]), descending(RankBase::One, RankOver::Slots));
    }

    #[test]
    fn noise_is_sought_where_the_method_filters_it() {
        assert_eq!(plan(&[]).truncation(0), None, "beta is 0");
        assert_eq!(plan(&["method.name=dml", "method.beta=0.1"]).truncation(0), None);
        let peerrec = plan(&["method.name=peerrec", "method.beta=0.1"]);
        assert!(peerrec.truncation(49).is_none() && peerrec.truncation(50).is_some());
        let causal = ["method.beta=0.1", "network.kind=causal", "samples.max_length=50", "train.batch_size=4"];
        assert_eq!(plan(&causal).slots(), 200);
        assert_eq!(plan(&["samples.max_masks=3", "train.batch_size=4"]).slots(), 12);
    }

    #[test]
    fn alpha_is_fixed_or_falls_every_fiftieth_of_the_steps() {
        let alpha = |settings: &[&str], step| match plan(settings).loss(step) {
            LossSpec::Exclusivity(spec) => spec.alpha,
            other => panic!("{other:?}"),
        };
        assert_eq!(alpha(&["method.alpha=0.3"], 77), 0.3);
        let annealed = ["method.anneal_alpha=true"];
        // A hundred steps have periods of int(0.02 · 100) + 1 = 3.
        assert_eq!([0, 2, 3, 6].map(|step| alpha(&annealed, step)), [1.0, 1.0, 0.98, 0.98 * 0.98]);
        // The second stage of 50 steps has periods of 2.
        let second = ["method.anneal_alpha=true", "method.name=peerrec"];
        assert_eq!([50, 51, 52].map(|step| alpha(&second, step)), [1.0, 1.0, 0.98]);
    }
}
