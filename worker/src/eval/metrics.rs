//! From ranks to figures.

use medley_common::method::METRICS;
use medley_common::summary::Estimate;
use std::collections::BTreeMap;

/// A metric's value for one user whose target has this rank, from 0 (a mid-rank may be half). HR@k: 1 where `rank < k`;
/// NDCG@k: `1 / log2(rank + 2)` there; MRR: `1 / (rank + 1)`.
///
/// # Panics
/// If there is no such metric.
pub fn value(metric: &str, rank: f64) -> f64 {
    let cut = |k: &str| rank < k.parse::<f64>().expect("a metric's cut is a number");
    match metric.split_once('@') {
        Some(("HR", k)) => f64::from(u8::from(cut(k))),
        Some(("NDCG", k)) if cut(k) => 1.0 / (rank + 2.0).log2(),
        Some(("NDCG", _)) => 0.0,
        None if metric == "MRR" => 1.0 / (rank + 1.0),
        _ => panic!("there is no metric {metric}"),
    }
}

/// All metrics over users, with half of their 95 % intervals (normal approximation, sample deviation).
pub fn metrics(ranks: &[f64]) -> BTreeMap<String, Estimate> {
    let estimate = |metric: &&str| {
        let count = ranks.len().max(1) as f64;
        let values = || ranks.iter().map(|rank| value(metric, *rank));
        let mean = values().sum::<f64>() / count;
        let squares: f64 = values().map(|value| (value - mean).powi(2)).sum();
        let deviation = if ranks.len() > 1 { (squares / (count - 1.0)).sqrt() } else { 0.0 };
        ((*metric).to_owned(), Estimate { mean, half_width: 1.96 * deviation / count.sqrt() })
    };
    METRICS.iter().map(estimate).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand() {
        let metrics = metrics(&[0.0, 4.0, 9.5, 30.0]);
        assert_eq!(metrics["HR@1"].mean, 0.25);
        assert_eq!(metrics["HR@5"].mean, 0.5);
        assert_eq!(metrics["HR@10"].mean, 0.75);
        assert!((metrics["NDCG@5"].mean - (1.0 + 1.0 / 6f64.log2()) / 4.0).abs() < 1e-12);
        assert!((metrics["MRR"].mean - (1.0 + 0.2 + 1.0 / 10.5 + 1.0 / 31.0) / 4.0).abs() < 1e-12);
        // Values 1, 0, 0, 0: sample deviation 1/2.
        assert!((metrics["HR@1"].half_width - 1.96 * 0.5 / 2.0).abs() < 1e-12);
        assert_eq!(super::metrics(&[3.0])["MRR"].half_width, 0.0);
    }
}
