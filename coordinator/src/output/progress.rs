//! Where a job stands, for a person who watches it: steps, losses, speed, time left.

use super::peer_of;
use medley_common::config::RunConfig;
use medley_common::events::{Event, StepEvent};
use std::collections::BTreeMap;
use std::time::Duration;

/// How much of the running means is renewed by a step.
const RENEWAL: f64 = 0.05;

/// Where a job stands.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    /// Peers of the cohort.
    pub peers: u32,
    /// Steps to train; 0 until it is known.
    pub total_steps: u64,
    /// Steps committed.
    pub step: u64,
    /// Training stage.
    pub stage: String,
    metric: String,
    protocol: String,
    losses: BTreeMap<u32, f64>,
    metrics: BTreeMap<u32, f64>,
    seconds: Option<f64>,
    rows: Option<f64>,
}

impl Progress {
    /// A job that has not begun. The metric shown is the one that chooses the best peer.
    pub fn new(config: &RunConfig) -> Self {
        Self {
            peers: config.cohort.peers as u32,
            metric: config.train.metric.clone(),
            protocol: config.metric_protocol().to_string(),
            ..Self::default()
        }
    }

    /// Takes in a committed step.
    pub fn step(&mut self, step: &StepEvent) {
        self.step = step.step;
        self.stage.clone_from(&step.stage);
        for (peer, losses) in &step.losses {
            let loss = self.losses.entry(*peer).or_insert(losses.total);
            // A loss that diverged would stay in a running mean for ever.
            *loss = renewed(Some(*loss).filter(|loss| loss.is_finite()), losses.total);
        }
        self.seconds = Some(renewed(self.seconds, step.seconds));
        self.rows = Some(renewed(self.rows, step.rows as f64));
    }

    /// Takes in an event.
    pub fn event(&mut self, event: &Event) {
        match event {
            Event::JobStarted { resumed_from, peers, .. } => {
                self.peers = *peers;
                self.step = resumed_from.unwrap_or(0);
            }
            Event::Ready { total_steps, .. } => self.total_steps = *total_steps,
            Event::Evaluation(evaluation) if evaluation.split == "valid" && evaluation.protocol == self.protocol => {
                let estimate = evaluation.metrics.get(&self.metric);
                if let (Some(peer), Some(estimate)) = (peer_of(&evaluation.subject), estimate) {
                    self.metrics.insert(peer, estimate.mean);
                }
            }
            _ => {}
        }
    }

    /// Masked rows a second.
    pub fn rows_per_second(&self) -> Option<f64> {
        match (self.rows, self.seconds) {
            (Some(rows), Some(seconds)) if seconds > 0.0 => Some(rows / seconds),
            _ => None,
        }
    }

    /// Time that the steps to come will take at the speed of the last ones.
    pub fn time_left(&self) -> Option<Duration> {
        let left = self.total_steps.checked_sub(self.step)?;
        let seconds = self.seconds.filter(|_| self.total_steps > 0)? * left as f64;
        Duration::try_from_secs_f64(seconds).ok()
    }

    /// A peer's loss and last validation metric: `loss 6.0312  NDCG@10 0.2210`.
    pub fn of_peer(&self, peer: u32) -> String {
        let mut text = match self.losses.get(&peer) {
            Some(loss) => format!("loss {loss:.4}"),
            None => "loss -".into(),
        };
        if let Some(value) = self.metrics.get(&peer) {
            text += &format!("  {} {value:.4}", self.metric);
        }
        text
    }

    /// The cohort's losses: `loss 6.0312`, or the range of several.
    pub fn of_cohort(&self) -> String {
        let range = |values: &BTreeMap<u32, f64>| {
            let (low, high) = values
                .values()
                .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(*value), high.max(*value)));
            match (values.len(), low <= high) {
                (_, false) => "-".into(),
                (1, _) => format!("{low:.4}"),
                _ => format!("{low:.4} to {high:.4}"),
            }
        };
        let mut text = format!("loss {}", range(&self.losses));
        if !self.metrics.is_empty() {
            text += &format!("  {} {}", self.metric, range(&self.metrics));
        }
        text
    }

    /// Speed and time left: `5120 rows/s  2 min 10 s left`.
    pub fn pace(&self) -> String {
        let mut parts = Vec::new();
        if let Some(rows) = self.rows_per_second() {
            parts.push(format!("{rows:.0} rows/s"));
        }
        if let Some(left) = self.time_left() {
            parts.push(format!("{} left", duration(left)));
        }
        parts.join("  ")
    }
}

fn renewed(mean: Option<f64>, value: f64) -> f64 {
    mean.map_or(value, |mean| mean + RENEWAL * (value - mean))
}

/// `45 s`, `2 min 10 s`, `3 h 5 min`, `2 d 4 h`.
pub fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs_f64().round() as u64;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3600 % 24),
    }
}
