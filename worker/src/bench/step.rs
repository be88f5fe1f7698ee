//! One worker's part of a measured cohort.

use super::batches::Source;
use super::member::Announce;
use super::products::Rate;
use super::work::Work;
use super::{BenchError, StepSettings};
use crate::collective::{Collective, shard};
use crate::exchange::{Exchange, Placement};
use crate::train::agreement::Wishes;
use crate::train::schedule::Plan;
use crate::train::step::{Learner, Split};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};
use tch::Device;

/// Names of the parts of a step, in the order of [`Lap::parts_ms`].
pub const PARTS: [&str; 7] = ["data", "encoder", "exchange", "loss", "backward", "reduce", "optimizer"];

/// A measured step as one worker saw it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Lap {
    /// Milliseconds from before its batch was built to after the update.
    pub step_ms: f64,
    /// Milliseconds of its [`PARTS`].
    pub parts_ms: [f64; PARTS.len()],
    /// Bytes sent to other workers.
    pub bytes_sent: u64,
    /// Rows of its batch.
    pub rows: usize,
    /// Operations of the matrix products of one peer.
    pub flops: f64,
}

/// What a worker measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepPart {
    /// The measured steps.
    pub laps: Vec<Lap>,
    /// The most memory that the process held before its products were measured.
    pub peak_rss_mb: f64,
    /// What the same process computes of products alone, while all workers do.
    pub rate: Rate,
    /// V, which a file may have set.
    pub items: usize,
    /// Tokens of the last batch, without padding.
    pub tokens: usize,
}

/// Takes the steps that the settings ask for, then measures the products they are made of.
///
/// # Errors
/// Those of the data, the steps and the other workers.
pub fn measure(
    settings: &StepSettings,
    mut collective: Box<dyn Collective>,
    announce: &mut Announce<'_>,
) -> Result<StepPart, BenchError> {
    let config = settings.config()?;
    let source = Source::open(settings)?;
    let ranks = (0..settings.workers).map(|rank| hosted(settings, rank)).collect();
    let placement = Placement::new(ranks, collective.rank()).map_err(BenchError::Input)?;
    let mut learner = Learner::draw(&config, source.items(), &placement, Device::Cpu);
    collective.barrier()?;
    let mut exchange = Exchange::new(collective, placement, &config);
    let plan = Plan::new(&config, 1);
    let mut laps = Vec::with_capacity(settings.steps);
    let mut work = None;
    for step in 0..settings.warmup + settings.steps {
        exchange.take_traffic();
        let start = Instant::now();
        let batch = source.batch(settings.batch, step as u64);
        let data = start.elapsed();
        let outcome = learner.step(&mut exchange, &plan, &config.optimizer, &batch, step as u64, Wishes::NONE)?;
        let step_ms = milliseconds(start.elapsed());
        let of_batch = Work::of(&batch, &config.network, source.items());
        announce.step(step + 1);
        if step >= settings.warmup {
            laps.push(Lap {
                step_ms,
                parts_ms: parts(data, &outcome.split),
                bytes_sent: exchange.take_traffic().sent,
                rows: outcome.rows,
                flops: of_batch.flops(),
            });
        }
        work = Some(of_batch);
    }
    let peak_rss_mb = peak_rss_mb();
    drop(learner);
    exchange.collective().barrier()?;
    let work = work.ok_or_else(|| BenchError::Input("--steps: is 0; use 1 or more".into()))?;
    let rate = Rate::of(&work, settings.precision);
    exchange.collective().barrier()?;
    Ok(StepPart { laps, peak_rss_mb, rate, items: source.items(), tokens: work.tokens })
}

/// The peers of a rank: as even as they can be dealt.
fn hosted(settings: &StepSettings, rank: usize) -> Vec<u32> {
    shard(settings.peers, settings.workers, rank).map(|peer| peer as u32).collect()
}

fn parts(data: Duration, split: &Split) -> [f64; PARTS.len()] {
    [data, split.encoder, split.exchange, split.loss, split.backward, split.reduce, split.optimizer].map(milliseconds)
}

fn milliseconds(time: Duration) -> f64 {
    1e3 * time.as_secs_f64()
}

/// The most memory that this process ever held, in 2²⁰ bytes; 0 where the system does not tell.
pub fn peak_rss_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes = peak.and_then(|text| text.trim().trim_end_matches("kB").trim().parse::<f64>().ok());
    kibibytes.unwrap_or(0.0) / 1024.0
}
