//! Growth as Markdown: predictions beside measurements, and what they become on clusters.

use super::Point;
use super::clusters::CLUSTERS;
use super::fit::FITTED_PEERS;
use super::model::Constants;
use crate::bench::Shape;
use crate::bench::exchange::ExchangeResult;
use medley_common::config::ExchangeMode;
use std::fmt::Write;

const INTRODUCTION: &str = "# How the cost of a step grows with the cohort

Written by `medley-worker bench growth` (`make bench-growth`), not by hand. One peer a worker, `hidden` exchange, batches of
256 full-length sequences; all workers share this machine's cores, so a step of T peers cannot take less than T times the
work of one. Constants of the model (`worker/src/bench/growth/model.rs`) are fitted to T = 1 and 2; everything above is
predicted.

![step time, bytes and memory by cohort size](growth.svg)
";

/// Networks are compared up to so many GPUs.
const GPUS: [usize; 4] = [1, 4, 16, 64];

const MODES: [(&str, ExchangeMode); 3] = [
    ("hidden", ExchangeMode::Hidden),
    ("logits", ExchangeMode::Logits),
    ("distributions", ExchangeMode::Distributions),
];

/// A value and how far a prediction of it was off.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Error {
    /// Largest relative error, sign included.
    pub worst: f64,
    /// Mean of the relative errors' sizes.
    pub mean: f64,
}

/// The whole page.
pub fn markdown(
    points: &[Point],
    constants: &Constants,
    exchange: &ExchangeResult,
    cores: usize,
    about: &str,
) -> String {
    let mut text = format!("{INTRODUCTION}\n{about}\n\n## Measured and predicted\n\n");
    text += "| shape | T | step, ms | predicted | error | MB sent a worker | predicted | MB of a worker | predicted | error |\n";
    text += "|---|---|---|---|---|---|---|---|---|---|\n";
    for point in points {
        text += &line(point, constants, cores);
    }
    text += "\n";
    // Writing to a String cannot fail.
    let errors = errors(points, constants, cores);
    for (what, error) in [("step time", errors[0]), ("bytes", errors[1]), ("memory", errors[2])] {
        let _ = writeln!(
            text,
            "- {what}, T > {FITTED_PEERS}: {:.1}% off on average, {:+.1}% at most",
            100.0 * error.mean,
            100.0 * error.worst
        );
    }
    text += &format!("\n## Constants of this machine, on {cores} cores\n\n{}", machine(constants, exchange));
    text += &clusters();
    text
}

fn line(point: &Point, constants: &Constants, cores: usize) -> String {
    let settings = &point.settings;
    let predicted = constants.predict(&point.cohort(cores), ExchangeMode::Hidden);
    let (ms, mb, memory) =
        (1e3 * predicted.seconds, predicted.bytes / 1e6, predicted.memory_bytes / f64::from(1 << 20));
    let head = format!("| {} | {} ", settings.shape.as_str(), settings.peers);
    match &point.found {
        None => format!("{head}| too large for this machine | {ms:.0} | | | {mb:.3} | | {memory:.0} | |\n"),
        Some(found) => format!(
            "{head}| {:.0} | {ms:.0} | {} | {:.3} | {mb:.3} | {:.0} | {memory:.0} | {} |\n",
            found.step_ms,
            percent(relative(ms, found.step_ms)),
            found.bytes_per_step_per_worker / 1e6,
            found.peak_rss_mb,
            percent(relative(memory, found.peak_rss_mb)),
        ),
    }
}

/// Errors of time, bytes and memory over the cohorts that nothing was fitted to.
pub fn errors(points: &[Point], constants: &Constants, cores: usize) -> [Error; 3] {
    let large = points.iter().filter(|point| point.settings.peers > FITTED_PEERS);
    let all: Vec<[f64; 3]> = large
        .filter_map(|point| {
            let found = point.found.as_ref()?;
            let predicted = constants.predict(&point.cohort(cores), ExchangeMode::Hidden);
            Some([
                relative(1e3 * predicted.seconds, found.step_ms),
                relative(predicted.bytes, found.bytes_per_step_per_worker),
                relative(predicted.memory_bytes / f64::from(1 << 20), found.peak_rss_mb),
            ])
        })
        .collect();
    std::array::from_fn(|which| {
        let of = || all.iter().map(|errors| errors[which]);
        Error {
            worst: of().max_by(|a, b| a.abs().total_cmp(&b.abs())).unwrap_or(0.0),
            mean: of().map(f64::abs).sum::<f64>() / all.len().max(1) as f64,
        }
    })
}

fn relative(predicted: f64, measured: f64) -> f64 {
    if measured == 0.0 { if predicted == 0.0 { 0.0 } else { f64::INFINITY } } else { predicted / measured - 1.0 }
}

fn percent(share: f64) -> String {
    format!("{:+.0}%", 100.0 * share)
}

fn machine(constants: &Constants, exchange: &ExchangeResult) -> String {
    let rate = |seconds: f64| {
        if seconds > 0.0 {
            format!("{:.1} GFLOP/s a core", 1e-9 / seconds)
        } else {
            "too cheap to be told apart".into()
        }
    };
    let from = "fitted to the parts of steps at T = 1 and 2";
    let alone = format!("`bench exchange` with {} workers", exchange.workers);
    let memory = "fitted to peak memory at T = 1 and 2";
    format!(
        "| constant | value | from |\n|---|---|---|\n\
         | layers' products | {} | {from} |\n\
         | attention's products | {} | {from} |\n\
         | prediction layer with loss | {} | {from} |\n\
         | a step beside that | {:.1} ms | {from} |\n\
         | bytes | {:.2} GB/s a worker | {alone}, largest all-to-all |\n\
         | a call between workers | {:.0} us | {alone}, smallest all-to-all |\n\
         | a process | {:.0} MB | {memory} |\n\
         | a token of a hosted peer | {:.1} KB | {memory} |\n",
        rate(constants.linear_s),
        rate(constants.attention_s),
        rate(constants.prediction_s),
        1e3 * constants.fixed_s,
        1e-9 / constants.byte_s,
        1e6 * constants.call_s,
        constants.process_bytes / f64::from(1 << 20),
        constants.token_bytes / 1e3,
    )
}

/// The extrapolation.
pub fn clusters() -> String {
    let mut text = "\n## Extrapolated: one peer on each of many GPUs\n\nThe same model with constants that are stated, not \
                    measured (`worker/src/bench/growth/clusters.rs`): GPUs of the H100's kind, networks at four fifths of \
                    what they are sold as. Milliseconds of a step, in brackets the share that is exchange; the cohort grows \
                    with the GPUs and the batch does not.\n"
        .to_owned();
    for shape in [Shape::Ml1m, Shape::Toys] {
        let _ = write!(text, "\n| {} shape | exchange | MB sent, 64 GPUs |", shape.as_str());
        text += &GPUS.map(|gpus| format!(" {gpus} |")).concat();
        text += "\n|---|---|---|";
        text += &"---|".repeat(GPUS.len());
        text += "\n";
        for cluster in CLUSTERS {
            for (name, mode) in MODES {
                let sent = cluster.predict(shape, GPUS[GPUS.len() - 1], mode).bytes / 1e6;
                let _ = write!(text, "| {} | {name} | {sent:.1} |", cluster.name);
                for gpus in GPUS {
                    let step = cluster.predict(shape, gpus, mode);
                    let share = 100.0 * step.exchange_seconds / step.seconds;
                    let _ = write!(text, " {:.1} ({share:.0}%) |", 1e3 * step.seconds);
                }
                text += "\n";
            }
        }
    }
    text
}
