//! `summary.json`: the result of a run, made of its history and its configuration.

use super::history::{Finished, History};
use super::{peer_of, spelling, write_whole};
use medley_common::config::{self, RunConfig};
use medley_common::run_directory;
use medley_common::summary::{Evaluation, Summary};
use std::path::Path;

/// The result of a run. `failure` says in one line why a job failed that could not say so itself.
pub fn summarize(history: &History, config: &RunConfig, failure: Option<&str>) -> Summary {
    let Finished { outcome, message, step } = ending(history, failure);
    let (peers_evaluated, baselines): (Vec<_>, Vec<_>) =
        history.last_evaluations().into_iter().partition(|evaluation| peer_of(&evaluation.subject).is_some());
    let totals = history.totals();
    let last = history.steps.last();
    Summary {
        job: history.job.clone(),
        name: config.name.clone(),
        version: history.version.clone(),
        config_hash: config::identity(config),
        data_hash: history.data_hash.clone(),
        method: config.method.name.to_string(),
        network: spelling(&config.network.kind),
        peers: history.peers,
        workers: history.workers,
        threads: history.threads,
        exchange: spelling(&config.exchange.mode),
        seed: config.seed,
        outcome,
        message,
        steps: step,
        train_seconds: totals.seconds,
        evaluation_seconds: history.evaluation_seconds(),
        wall_seconds: history.wall_seconds(),
        rows_per_second: ratio(totals.rows, totals.seconds),
        bytes_exchanged_per_step: ratio(totals.bytes, totals.steps),
        peak_memory_bytes: history.peak_memory_bytes,
        shared_parameters: history.shared_parameters,
        private_parameters: history.private_parameters,
        generations: history.generations,
        recoveries: history.recoveries,
        participation: history.cohorts.participation(step),
        best_peer: best_peer(&peers_evaluated, config),
        best_by: best_by(config),
        peers_evaluated,
        baselines,
        last_losses: last.map(|step| step.losses.clone()).unwrap_or_default(),
    }
}

fn ending(history: &History, failure: Option<&str>) -> Finished {
    match (&history.finished, failure) {
        (Some(finished), _) => finished.clone(),
        (None, failure) => Finished {
            outcome: "failed".into(),
            step: history.last_step(),
            message: failure
                .unwrap_or("the run came to no end; it is still going on, or go on with it by --resume")
                .into(),
        },
    }
}

/// The peer with the best validation metric. Test results never choose, and where the validation items were trained
/// on there is nothing left to choose by. The lowest number wins a tie.
fn best_peer(peers: &[Evaluation], config: &RunConfig) -> Option<u32> {
    if config.data.train_on_validation {
        return None;
    }
    peers
        .iter()
        .filter(|evaluation| evaluation.split == "valid")
        .filter(|evaluation| evaluation.protocol == config.metric_protocol().as_str())
        .filter_map(|evaluation| {
            let mean = evaluation.metrics.get(&config.train.metric)?.mean;
            Some((mean, peer_of(&evaluation.subject)?)).filter(|_| mean.is_finite())
        })
        .max_by(|(one, first), (other, second)| one.total_cmp(other).then(second.cmp(first)))
        .map(|(_, peer)| peer)
}

fn best_by(config: &RunConfig) -> String {
    if config.data.train_on_validation {
        return "none: data.train_on_validation leaves no items to choose by".into();
    }
    let train = &config.train;
    format!("{} ({}, valid)", train.metric, config.metric_protocol())
}

fn ratio(sum: f64, by: f64) -> f64 {
    if by > 0.0 { sum / by } else { 0.0 }
}

/// Writes the summary into a run directory.
///
/// # Errors
/// Those of the file system; a summary that was there before then stays.
pub fn write(summary: &Summary, run_directory: &Path) -> std::io::Result<()> {
    let mut text = serde_json::to_vec_pretty(summary)?;
    text.push(b'\n');
    write_whole(&run_directory.join(run_directory::SUMMARY), &text)
}
