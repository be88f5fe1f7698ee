//! The collectives alone, over loopback, against copying memory.
//!
//! Sizes and bandwidths are defined as NCCL's tests define them, so that figures can be compared. With W workers and a
//! call of S bytes that takes t seconds:
//!
//! | operation | S | bus bandwidth |
//! |---|---|---|
//! | all-reduce | the vector that every worker has and gets | `S / t · 2 (W-1)/W` |
//! | all-to-all | what a worker sends to all, itself included | `S / t · (W-1)/W` |
//! | all-gather | what everybody has in the end | `S / t · (W-1)/W` |
//!
//! Bus bandwidth is what a worker sends a second, and what it receives. The copy that it is compared with is between two
//! buffers too large for any cache, in the same processes at the same time, counted once: bytes copied a second.

use super::BenchError;
use super::member::Announce;
use super::products::median;
use super::result::round;
use crate::certificates;
use crate::collective::{Collective, parts, parts_mut, shard};
use crate::train::TrainError;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Instant;

/// A measurement of the collectives.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExchangeSettings {
    /// W.
    pub workers: usize,
    /// Sizes in bytes, whole floats each.
    pub sizes: Vec<usize>,
    /// Encrypt, with a worker's certificates from this directory.
    pub certificates: Option<PathBuf>,
}

/// An operation between workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Operation {
    /// Sums a vector over workers.
    AllReduce,
    /// Sends every worker a part.
    AllToAll,
    /// Sends every worker the same.
    AllGather,
}

impl Operation {
    /// All that training uses.
    pub const ALL: [Self; 3] = [Self::AllReduce, Self::AllToAll, Self::AllGather];

    fn as_str(self) -> &'static str {
        match self {
            Self::AllReduce => "all-reduce",
            Self::AllToAll => "all-to-all",
            Self::AllGather => "all-gather",
        }
    }

    /// Bytes that a worker of W sends in a call of S bytes, as a share of S.
    pub fn sent_share(self, workers: usize) -> f64 {
        let others = (workers - 1) as f64 / workers as f64;
        if self == Self::AllReduce { 2.0 * others } else { others }
    }
}

/// A measured case.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Case {
    /// The operation.
    pub operation: Operation,
    /// S.
    pub bytes: usize,
    /// Median microseconds of a call, of the slowest worker.
    pub time_us: f64,
    /// Bus bandwidth, 10⁹ bytes a second.
    pub bus_gb_per_s: f64,
    /// The same as a share of a worker's copy bandwidth.
    pub of_copy: f64,
}

/// What `bench exchange` reports.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExchangeResult {
    /// W.
    pub workers: usize,
    /// Whether what crosses the wire is encrypted.
    pub encrypted: bool,
    /// 10⁹ bytes a second that a worker copies while all do.
    pub copy_gb_per_s: f64,
    /// All cases.
    pub cases: Vec<Case>,
}

/// What a worker measured: its copy bandwidth, and microseconds by operation and size.
#[derive(Debug, Serialize, Deserialize)]
pub struct ExchangePart {
    copy_gb_per_s: f64,
    time_us: Vec<f64>,
}

/// Bytes of a buffer that is copied.
const COPIED: usize = 64 << 20;

impl ExchangeSettings {
    /// Cases of a measurement.
    pub fn cases(&self) -> impl Iterator<Item = (Operation, usize)> + '_ {
        Operation::ALL.into_iter().flat_map(|operation| self.sizes.iter().map(move |bytes| (operation, *bytes)))
    }

    /// Refuses what cannot be measured.
    ///
    /// # Errors
    /// One line that names the flag.
    pub fn check(&self) -> Result<(), BenchError> {
        if self.workers < 2 {
            return Err(BenchError::Input(format!("--workers: is {}; an exchange takes 2 or more", self.workers)));
        }
        certificates::load(self.certificates.as_deref()).map_err(TrainError::from)?;
        match self.sizes.iter().find(|bytes| **bytes < 4 * self.workers) {
            Some(bytes) => Err(BenchError::Input(format!(
                "--sizes: {bytes} bytes are less than a float for each of {} workers",
                self.workers
            ))),
            None => Ok(()),
        }
    }
}

/// Repetitions of a case: the same on every worker, fewer where calls are long.
fn repetitions(bytes: usize) -> usize {
    ((64 << 20) / bytes.max(1)).clamp(5, 200)
}

/// Calls every operation with every size.
///
/// # Errors
/// Those of the other workers.
pub fn measure(
    settings: &ExchangeSettings,
    mut group: Box<dyn Collective>,
    announce: &mut Announce<'_>,
) -> Result<ExchangePart, BenchError> {
    let mut time_us = Vec::new();
    for (operation, bytes) in settings.cases() {
        time_us.push(1e6 * case(&mut *group, operation, bytes / 4)?);
        announce.step(time_us.len());
    }
    group.barrier()?;
    let copy_gb_per_s = copy_bandwidth() / 1e9;
    group.barrier()?;
    Ok(ExchangePart { copy_gb_per_s, time_us })
}

/// Median seconds of a call on this worker; the first one, which makes the buffers, does not count.
fn case(group: &mut dyn Collective, operation: Operation, floats: usize) -> Result<f64, BenchError> {
    let (rank, workers) = (group.rank(), group.world_size());
    let even: Vec<usize> = (0..workers).map(|rank| shard(floats, workers, rank).len()).collect();
    // In an all-to-all every worker cuts its buffer in the same way, and so gets its own part's length from each.
    let received = if operation == Operation::AllToAll { vec![even[rank]; workers] } else { even.clone() };
    let send = vec![1.0; floats];
    let mut receive = vec![0.0; received.iter().sum()];
    let mut sum = send.clone();
    let mut seconds = Vec::new();
    group.barrier()?;
    for repetition in 0..=repetitions(4 * floats) {
        let start = Instant::now();
        match operation {
            Operation::AllReduce => group.all_reduce_sum(&mut sum)?,
            Operation::AllToAll => group.all_to_all(&parts(&send, &even), &mut parts_mut(&mut receive, &received))?,
            Operation::AllGather => {
                group.all_gather(&send[..even[rank]], &mut parts_mut(&mut receive, &received))?;
            }
        }
        if repetition > 0 {
            seconds.push(start.elapsed().as_secs_f64());
        }
        if operation == Operation::AllReduce {
            // Sums of sums would overflow after a hundred calls.
            sum.fill(1.0);
        }
    }
    Ok(median(&mut seconds))
}

/// Bytes a second that this thread copies between two buffers.
fn copy_bandwidth() -> f64 {
    let source = vec![1_u8; COPIED];
    let mut target = vec![0_u8; COPIED];
    let mut seconds: Vec<f64> = (0..8)
        .map(|_| {
            let start = Instant::now();
            std::hint::black_box(&mut target).copy_from_slice(std::hint::black_box(&source));
            start.elapsed().as_secs_f64()
        })
        .collect();
    COPIED as f64 / median(&mut seconds)
}

impl ExchangeResult {
    /// Puts the workers' parts together.
    pub fn of(settings: &ExchangeSettings, parts: &[ExchangePart]) -> Self {
        let copy = parts.iter().map(|part| part.copy_gb_per_s).sum::<f64>() / parts.len() as f64;
        let cases = settings.cases().enumerate().map(|(place, (operation, bytes))| {
            let time_us = parts.iter().filter_map(|part| part.time_us.get(place)).copied().fold(0.0, f64::max);
            let bus = bytes as f64 * operation.sent_share(settings.workers) / time_us / 1e3;
            Case {
                operation,
                bytes,
                time_us: round(time_us, 2),
                bus_gb_per_s: round(bus, 4),
                of_copy: round(bus / copy, 4),
            }
        });
        Self {
            workers: settings.workers,
            encrypted: settings.certificates.is_some(),
            cases: cases.collect(),
            copy_gb_per_s: round(copy, 3),
        }
    }

    /// What a person reads.
    pub fn table(&self) -> String {
        let mut table = comfy_table::Table::new();
        table.load_preset(comfy_table::presets::NOTHING);
        table.set_header(["operation", "size", "time", "bus bandwidth", "of a copy"]);
        for case in &self.cases {
            table.add_row([
                case.operation.as_str().to_owned(),
                size(case.bytes),
                format!("{:.1} us", case.time_us),
                format!("{:.3} GB/s", case.bus_gb_per_s),
                format!("{:.1}%", 100.0 * case.of_copy),
            ]);
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(comfy_table::CellAlignment::Right);
        }
        format!(
            "{} workers over loopback{}; each copies {:.2} GB/s of memory while all do\n\n{}\n",
            self.workers,
            if self.encrypted { ", encrypted" } else { "" },
            self.copy_gb_per_s,
            table.trim_fmt()
        )
    }
}

/// `1 KB`, `100 MB`.
fn size(bytes: usize) -> String {
    match bytes {
        1_000_000.. => format!("{} MB", bytes as f64 / 1e6),
        1_000.. => format!("{} KB", bytes as f64 / 1e3),
        _ => format!("{bytes} B"),
    }
}

/// Sizes as the command line names them: `1KB,1MB`, or a range in powers of ten, `1KB..100MB`. A KB is 1000 bytes.
///
/// # Errors
/// One line that says what would do.
pub fn parse_sizes(text: &str) -> Result<Vec<usize>, String> {
    match text.split_once("..") {
        None => text.split(',').map(parse_size).collect(),
        Some((first, last)) => {
            let (first, last) = (parse_size(first)?, parse_size(last)?);
            let sizes = std::iter::successors(Some(first), |size| size.checked_mul(10));
            Ok(sizes.take_while(|size| *size <= last).collect())
        }
    }
    .and_then(|sizes: Vec<usize>| if sizes.is_empty() { Err("the range is empty".into()) } else { Ok(sizes) })
}

fn parse_size(text: &str) -> Result<usize, String> {
    let wrong = || format!("{text:?} is no size; use for example 1KB, 64KB or 1MB, up to 1000MB");
    let text = text.trim();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" | "B" => 1,
        "KB" => 1_000,
        "MB" => 1_000_000,
        _ => return Err(wrong()),
    };
    let number: usize = digits.parse().map_err(|_| wrong())?;
    // Floats are what travels.
    let bytes = number.checked_mul(unit).map(|bytes| bytes / 4 * 4);
    bytes.filter(|bytes| (4..=1_000_000_000).contains(bytes)).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_lists_or_ranges() {
        assert_eq!(parse_sizes("1KB..100KB"), Ok(vec![1_000, 10_000, 100_000]));
        assert_eq!(parse_sizes("8, 1mb"), Ok(vec![8, 1_000_000]));
        for wrong in ["", "1XB", "KB", "1GB", "-1", "2", "1MB..1KB"] {
            assert!(parse_sizes(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn bandwidth_is_what_a_worker_sends() {
        let settings = ExchangeSettings { workers: 4, sizes: vec![1_000_000], certificates: None };
        let part = |us: f64| ExchangePart { copy_gb_per_s: 10.0, time_us: vec![us, us, us] };
        let result = ExchangeResult::of(&settings, &[part(1000.0), part(500.0)]);
        // A megabyte in a millisecond is 1 GB/s.
        let bandwidths: Vec<f64> = result.cases.iter().map(|case| case.bus_gb_per_s).collect();
        assert_eq!(bandwidths, [1.5, 0.75, 0.75]);
        assert_eq!(result.cases[0].of_copy, 0.15);
        assert!(result.table().contains("all-reduce"));
    }
}
