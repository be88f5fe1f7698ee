//! Faults that a worker does to itself, for the tests of recovery: those of [`environment::FAULTS`], and none without it.
//!
//! Only what must strike at a point of the worker's own work is here; killing, stopping and cutting off are done to it
//! from outside.

use medley_common::environment;
use medley_common::faults::{Fault, Moment};
use rustix::process::{Signal, getpid, kill_process};
use std::io;
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
            Fault::FailAt { rank, step: at, moment, generation }
                if at == step && moment == now && is_here(rank, generation) =>
            {
                die();
            }
            Fault::CorruptedFrame { rank, step: at, generation }
                if at == step && now == Moment::Beginning && is_here(rank, generation) =>
            {
                CORRUPTS.store(true, Ordering::Relaxed);
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

/// Writes a file of a step's checkpoint by `put`, as well as the planned state of the disk allows.
///
/// # Errors
/// Those of `put`, and that no space is left where this is planned: once.
pub fn write<E: From<io::Error>>(step: u64, bytes: &[u8], put: impl Fn(&[u8]) -> Result<(), E>) -> Result<(), E> {
    for fault in planned() {
        match *fault {
            Fault::SlowDisk { milliseconds } => std::thread::sleep(Duration::from_millis(milliseconds)),
            Fault::DiskFull { rank, step: at } => {
                let is_due = step >= at && rank == RANK.load(Ordering::Relaxed);
                if is_due && !DISK_WAS_FULL.swap(true, Ordering::Relaxed) {
                    put(&bytes[..bytes.len() / 2])?;
                    return Err(io::Error::from(rustix::io::Errno::NOSPC).into());
                }
            }
            Fault::HalfWrittenCheckpoint { rank, step: at, generation } if step >= at && is_here(rank, generation) => {
                put(&bytes[..bytes.len() / 2])?;
                die();
            }
            _ => {}
        }
    }
    put(bytes)
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
        let written = std::cell::RefCell::new(Vec::new());
        let put = |bytes: &[u8]| {
            written.borrow_mut().extend_from_slice(bytes);
            Ok::<_, io::Error>(())
        };
        write(7, b"parameters", put).unwrap();
        assert_eq!(*written.borrow(), b"parameters");
    }
}
