//! All workers' parts of a measurement put together.

use super::products::median;
use super::step::{PARTS, StepPart};
use super::{BenchError, StepSettings};
use medley_common::config::{ExchangeMode, Precision};
use medley_common::method::MethodName;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What `bench step` reports. The first keys say what was measured, the others what was found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepResult {
    /// The shape.
    pub shape: String,
    /// The file of real sequences, if one was used.
    pub data: Option<PathBuf>,
    /// T.
    pub peers: usize,
    /// W.
    pub workers: usize,
    /// Threads of a worker.
    pub threads: usize,
    /// What crosses the wire.
    pub exchange: ExchangeMode,
    /// How peers learn.
    pub method: MethodName,
    /// Sequences of a batch.
    pub batch: usize,
    /// V.
    pub items: usize,
    /// Items of the longest sequence.
    pub length: usize,
    /// Most masks of a sequence.
    pub masks: usize,
    /// Dropout.
    pub dropout: f64,
    /// Of matrix products.
    pub precision: Precision,
    /// Measured steps.
    pub steps: usize,
    /// Steps before them.
    pub warmup: usize,
    /// R, median over steps.
    pub rows: usize,
    /// Tokens of a batch without padding.
    pub tokens: usize,
    /// Median over steps of the slowest worker's milliseconds, building the batch included.
    pub step_ms: f64,
    /// The fastest step.
    pub step_ms_min: f64,
    /// The slowest step.
    pub step_ms_max: f64,
    /// Where a step's milliseconds go: means over workers, medians over steps.
    pub split_ms: SplitMs,
    /// Rows of the batch a second; every peer learns from each.
    pub rows_per_s: f64,
    /// Bytes that a worker sends in a step, frame headers included: the mean over steps, of the worker that sends most.
    pub bytes_per_step_per_worker: f64,
    /// The same as a mean over workers.
    pub bytes_per_step_per_worker_mean: f64,
    /// Most memory of a worker process, in 2²⁰ bytes, of the largest one.
    pub peak_rss_mb: f64,
    /// 10⁹ operations of the step's matrix products, of all peers.
    pub gflop_per_step: f64,
    /// 10⁹ of those operations a second, of all workers together.
    pub gflops: f64,
    /// What the same processes reach together with these products and nothing else ([`products`](super::products)).
    pub gemm_gflops: f64,
    /// What they reach with square products in cache.
    pub gemm_peak_gflops: f64,
    /// Milliseconds of the step's products at `gemm_gflops`.
    pub floor_ms: f64,
    /// `step_ms / floor_ms`.
    pub times_floor: f64,
}

/// Milliseconds of the parts of a step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct SplitMs {
    /// Building the batch.
    pub data: f64,
    /// Hosted encoders, forward.
    pub encoder: f64,
    /// Waiting for and moving rows.
    pub exchange: f64,
    /// Logits and losses.
    pub loss: f64,
    /// Hosted encoders, backward.
    pub backward: f64,
    /// Summing gradients over workers.
    pub reduce: f64,
    /// Updates.
    pub optimizer: f64,
}

impl StepResult {
    /// Puts the workers' parts together.
    ///
    /// # Errors
    /// What the configuration of the settings refuses.
    pub fn of(settings: &StepSettings, parts: &[StepPart]) -> Result<Self, BenchError> {
        let steps = settings.steps;
        let over_steps = |value: &dyn Fn(usize) -> f64| median(&mut (0..steps).map(value).collect::<Vec<_>>());
        let slowest = |step: usize| parts.iter().map(|part| part.laps[step].step_ms).fold(0.0, f64::max);
        let step_ms = over_steps(&slowest);
        let workers = parts.len() as f64;
        let split = (0..PARTS.len()).map(|place| {
            over_steps(&|step| parts.iter().map(|part| part.laps[step].parts_ms[place]).sum::<f64>() / workers)
        });
        let split: Vec<f64> = split.map(|ms| round(ms, 3)).collect();
        let bytes: Vec<f64> = parts
            .iter()
            .map(|part| part.laps.iter().map(|lap| lap.bytes_sent as f64).sum::<f64>() / steps as f64)
            .collect();
        let first = &parts[0];
        let rows = over_steps(&|step| first.laps[step].rows as f64);
        let flops = settings.peers as f64 * over_steps(&|step| first.laps[step].flops);
        let gemm_gflops: f64 = parts.iter().map(|part| part.rate.gflops).sum();
        let floor_ms = flops / gemm_gflops / 1e6;
        Ok(Self {
            shape: settings.shape.as_str().into(),
            data: settings.data.clone(),
            peers: settings.peers,
            workers: settings.workers,
            threads: settings.threads,
            exchange: settings.exchange,
            method: settings.config()?.method.name,
            batch: settings.batch,
            items: first.items,
            length: settings.length,
            masks: settings.masks,
            dropout: settings.dropout,
            precision: settings.precision,
            steps,
            warmup: settings.warmup,
            rows: rows as usize,
            tokens: first.tokens,
            step_ms: round(step_ms, 3),
            step_ms_min: round((0..steps).map(slowest).fold(f64::INFINITY, f64::min), 3),
            step_ms_max: round((0..steps).map(slowest).fold(0.0, f64::max), 3),
            split_ms: SplitMs {
                data: split[0],
                encoder: split[1],
                exchange: split[2],
                loss: split[3],
                backward: split[4],
                reduce: split[5],
                optimizer: split[6],
            },
            rows_per_s: round(1e3 * rows / step_ms, 1),
            bytes_per_step_per_worker: bytes.iter().copied().fold(0.0, f64::max),
            bytes_per_step_per_worker_mean: bytes.iter().sum::<f64>() / workers,
            peak_rss_mb: round(parts.iter().map(|part| part.peak_rss_mb).fold(0.0, f64::max), 1),
            gflop_per_step: round(flops / 1e9, 6),
            gflops: round(flops / step_ms / 1e6, 3),
            gemm_gflops: round(gemm_gflops, 3),
            gemm_peak_gflops: round(parts.iter().map(|part| part.rate.peak_gflops).sum(), 3),
            floor_ms: round(floor_ms, 3),
            times_floor: round(step_ms / floor_ms, 3),
        })
    }

    /// What a person reads.
    pub fn table(&self) -> String {
        use std::fmt::Write;
        let source = self.data.as_ref().map_or("synthetic".into(), |path| path.display().to_string());
        let mode = serde_json::to_value(self.exchange).unwrap_or_default();
        let mut text = format!(
            "{}: {} items, {} rows of {} tokens a step ({source}); {} peer(s) by {} on {} worker(s) of {} thread(s), {} exchange\n\n",
            self.shape,
            self.items,
            self.rows,
            self.tokens,
            self.peers,
            self.method,
            self.workers,
            self.threads,
            mode.as_str().unwrap_or_default(),
        );
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "step       {:>10.1} ms   median of {} ({:.1} to {:.1})",
            self.step_ms, self.steps, self.step_ms_min, self.step_ms_max
        );
        let s = &self.split_ms;
        let split = [s.data, s.encoder, s.exchange, s.loss, s.backward, s.reduce, s.optimizer];
        for (name, ms) in PARTS.iter().zip(split) {
            let share = ms / self.step_ms;
            let bar = "▇".repeat((40.0 * share).round() as usize);
            let line = format!("  {name:<9}{ms:>10.1} ms {:>5.1}%  {bar}", 100.0 * share);
            let _ = writeln!(text, "{}", line.trim_end());
        }
        let _ = write!(
            text,
            "rows       {:>10.0} /s\nsent       {:>10.3} MB a step, the worker that sends most\n\
             memory     {:>10.0} MB at most, the largest worker\n\
             products   {:>10.1} GFLOP/s; alone {:.1}, square in cache {:.1}\n\
             floor      {:>10.1} ms   the step takes {:.2} times as long as its matrix products alone\n",
            self.rows_per_s,
            self.bytes_per_step_per_worker / 1e6,
            self.peak_rss_mb,
            self.gflops,
            self.gemm_gflops,
            self.gemm_peak_gflops,
            self.floor_ms,
            self.times_floor,
        );
        text
    }
}

/// So many decimals and no more: the rest is noise.
pub fn round(value: f64, decimals: i32) -> f64 {
    let scale = 10f64.powi(decimals);
    (value * scale).round() / scale
}
