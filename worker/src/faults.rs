//! Faults that a worker does to itself, for the tests of recovery: those of [`environment::FAULTS`], and none without it.
//!
//! Only what must strike at a point of the worker's own work is here; killing, stopping and cutting off are done to it
//! from outside.

use medley_common::environment;
use medley_common::faults::{Fault, Moment};
use rustix::process::{Signal, getpid, kill_process};
use std::io::{self, Write};
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

static PLANNED: OnceLock<Vec<Fault>> = OnceLock::new();
static RANK: AtomicU32 = AtomicU32::new(0);
static GENERATION: AtomicU64 = AtomicU64::new(0);
static CORRUPTS: AtomicBool = AtomicBool::new(false);
static DISK_WAS_FULL: AtomicBool = AtomicBool::new(false);

/// The variable cannot be understood.
#[derive(Debug, thiserror::Error)]
#[error("{variable}: {0}; it is a JSON list of faults such as [{{\"fail_at\": {{\"rank\": 1, \"step\": 7}}}}]", variable = environment::FAULTS)]
pub struct FaultsError(serde_json::Error);

/// Reads what is planned, once.
///
/// # Errors
/// Where it cannot be understood.
pub fn read() -> Result<(), FaultsError> {
    let Ok(text) = std::env::var(environment::FAULTS) else { return Ok(()) };
    let planned: Vec<Fault> = serde_json::from_str(&text).map_err(FaultsError)?;
    tracing::warn!(faults = planned.len(), "this worker fails on purpose");
    PLANNED.get_or_init(|| planned);
    Ok(())
}

/// From now on this worker is of this rank and generation.
pub fn enter(generation: u64, rank: u32) {
    GENERATION.store(generation, Ordering::Relaxed);
    RANK.store(rank, Ordering::Relaxed);
}

fn planned() -> impl Iterator<Item = &'static Fault> {
    PLANNED.get().into_iter().flatten()
}

fn is_here(rank: u32, generation: u64) -> bool {
    rank == RANK.load(Ordering::Relaxed) && generation == GENERATION.load(Ordering::Relaxed)
}

/// A step, counted from 1, has come to this moment.
pub fn strike(step: u64, now: Moment) {
    for fault in planned() {
        match *fault {
            Fault::FailAt { rank, step: at, moment, generation } => {
                if at == step && moment == now && is_here(rank, generation) {
                    die();
                }
            }
            Fault::CorruptedFrame { rank, step: at, generation } => {
                if at == step && now == Moment::Beginning && is_here(rank, generation) {
                    CORRUPTS.store(true, Ordering::Relaxed);
                }
            }
            _ => {}
        }
    }
}

/// What is to be flipped in the checksum of the next frame that arrives; nearly always nothing.
pub fn corruption() -> u32 {
    if PLANNED.get().is_none() {
        return 0;
    }
    u32::from(CORRUPTS.swap(false, Ordering::Relaxed))
}

/// Writes a file of a checkpoint that is staged in this directory, as well as the planned state of the disk allows.
///
/// # Errors
/// Those of the file, and that no space is left where this is planned: once.
pub fn write(file: &mut impl Write, bytes: &[u8], staging: &Path) -> io::Result<()> {
    let step = || step_of(staging).unwrap_or(0);
    for fault in planned() {
        match *fault {
            Fault::SlowDisk { milliseconds } => std::thread::sleep(Duration::from_millis(milliseconds)),
            Fault::DiskFull { rank, step: at } => {
                let is_due = step() >= at && rank == RANK.load(Ordering::Relaxed);
                if is_due && !DISK_WAS_FULL.swap(true, Ordering::Relaxed) {
                    file.write_all(&bytes[..bytes.len() / 2])?;
                    return Err(rustix::io::Errno::NOSPC.into());
                }
            }
            Fault::HalfWrittenCheckpoint { rank, step: at, generation } => {
                if step() >= at && is_here(rank, generation) {
                    file.write_all(&bytes[..bytes.len() / 2])?;
                    file.flush()?;
                    die();
                }
            }
            _ => {}
        }
    }
    file.write_all(bytes)
}

/// The step of a staging directory `.step-N.staging`.
fn step_of(staging: &Path) -> Option<u64> {
    staging.file_name()?.to_str()?.strip_prefix(".step-")?.strip_suffix(".staging")?.parse().ok()
}

/// As the kernel does it when memory is short: without a word.
fn die() -> ! {
    // Nothing after this line of the process is to run; if the signal is refused the abort ends it as well.
    let _ = kill_process(getpid(), Signal::KILL);
    std::process::abort()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn nothing_fails_unless_it_is_planned() {
        strike(1, Moment::Prepared);
        assert_eq!(corruption(), 0);
        let mut file = Vec::new();
        write(&mut file, b"parameters", Path::new("checkpoints/.step-7.staging")).unwrap();
        assert_eq!(file, b"parameters");
        assert_eq!(step_of(Path::new("checkpoints/.step-7.staging")), Some(7));
        assert_eq!(step_of(Path::new("elsewhere")), None);
    }
}
