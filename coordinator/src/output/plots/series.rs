//! The numbers that are plotted.

use super::super::peer_of;
use crate::output::history::History;
use medley_common::events::Losses;
use std::collections::BTreeMap;

/// Points of all series of a panel together: more would make the file large and the lines no clearer.
const MOST_POINTS: usize = 24_000;

/// One peer's values over steps. Values that are not finite are gaps.
pub struct Series {
    pub peer: u32,
    pub points: Vec<(f64, f64)>,
}

/// A baseline's value, the same at every step.
pub struct Level {
    pub name: String,
    pub value: f64,
}

/// A loss of every peer.
pub fn losses(history: &History, of: fn(&Losses) -> f64) -> Vec<Series> {
    let mut by_peer: BTreeMap<u32, Vec<(f64, f64)>> = BTreeMap::new();
    for step in &history.steps {
        for (peer, losses) in &step.losses {
            by_peer.entry(*peer).or_default().push((step.step as f64, of(losses)));
        }
    }
    let most = (MOST_POINTS / by_peer.len().max(1)).clamp(100, 1000);
    by_peer.into_iter().map(|(peer, points)| Series { peer, points: thin(&points, most) }).collect()
}

/// A validation metric of every peer under a protocol.
pub fn validations(history: &History, protocol: &str, metric: &str) -> Vec<Series> {
    let mut by_peer: BTreeMap<u32, BTreeMap<u64, f64>> = BTreeMap::new();
    let of_protocol = |evaluation: &&medley_common::summary::Evaluation| {
        evaluation.split == "valid" && evaluation.protocol == protocol
    };
    for evaluation in history.evaluations.iter().filter(of_protocol) {
        if let (Some(peer), Some(estimate)) = (peer_of(&evaluation.subject), evaluation.metrics.get(metric)) {
            by_peer.entry(peer).or_default().insert(evaluation.step, estimate.mean);
        }
    }
    by_peer
        .into_iter()
        .map(|(peer, points)| Series {
            peer,
            points: points.into_iter().map(|(step, value)| (step as f64, value)).collect(),
        })
        .collect()
}

/// The same of the baselines.
pub fn baselines(history: &History, protocol: &str, metric: &str) -> Vec<Level> {
    history
        .last_evaluations()
        .into_iter()
        .filter(|evaluation| evaluation.split == "valid" && evaluation.protocol == protocol)
        .filter(|evaluation| peer_of(&evaluation.subject).is_none())
        .filter_map(|evaluation| {
            let value = evaluation.metrics.get(metric)?.mean;
            Some(Level { name: evaluation.subject, value }).filter(|_| value.is_finite())
        })
        .collect()
}

/// Steps at which another training stage begins.
pub fn stage_boundaries(history: &History) -> Vec<f64> {
    let pairs = history.steps.iter().zip(history.steps.iter().skip(1));
    pairs
        .filter(|(earlier, later)| earlier.stage != later.stage)
        .map(|(earlier, later)| 0.5 * (earlier.step + later.step) as f64)
        .collect()
}

/// Means of neighbouring points, at most so many.
fn thin(points: &[(f64, f64)], most: usize) -> Vec<(f64, f64)> {
    let width = points.len().div_ceil(most).max(1);
    points
        .chunks(width)
        .map(|chunk| {
            let count = chunk.len() as f64;
            let sum = chunk.iter().fold((0.0, 0.0), |sum, point| (sum.0 + point.0, sum.1 + point.1));
            (sum.0 / count, sum.1 / count)
        })
        .collect()
}

/// At every point the line fitted to the twentieth of the points around it: inside, that is their mean; at the ends,
/// where there are points on one side only, the slope keeps the curve straight. What is not finite stays a gap.
pub fn smooth(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let reach = points.len() / 40;
    (0..points.len())
        .map(|at| {
            let (step, value) = points[at];
            let near = &points[at.saturating_sub(reach)..(at + reach + 1).min(points.len())];
            (step, if value.is_finite() { fitted(near, step) } else { f64::NAN })
        })
        .collect()
}

/// The value at a step of the least-squares line through the finite ones of some points.
fn fitted(points: &[(f64, f64)], step: f64) -> f64 {
    let finite = || points.iter().filter(|point| point.1.is_finite());
    let count = finite().count() as f64;
    let mean_x = finite().map(|point| point.0).sum::<f64>() / count;
    let mean_y = finite().map(|point| point.1).sum::<f64>() / count;
    let spread: f64 = finite().map(|point| (point.0 - mean_x).powi(2)).sum();
    let covariance: f64 = finite().map(|point| (point.0 - mean_x) * (point.1 - mean_y)).sum();
    if spread > 0.0 { mean_y + covariance / spread * (step - mean_x) } else { mean_y }
}

/// The unbroken stretches of a series.
pub fn stretches(points: &[(f64, f64)]) -> impl Iterator<Item = &[(f64, f64)]> {
    points.split(|point| !point.1.is_finite()).filter(|stretch| !stretch.is_empty())
}
