//! Worker processes on this machine.
//!
//! 1. [`WorkerBinary`]: where the binary is, and whether it is of our version.
//! 2. [`preflight()`]: the worker's own check of configuration and data, before anything is written.
//! 3. [`Shares`]: how many workers there are, and how many threads each has.
//! 4. [`Launcher`] in `launcher`: starts the workers, reports their ends, and leaves none behind.
//! 5. `process`: one worker process, its process group and its log; `last_words`: what the log says of its end.
//!
//! Invariant: no worker outlives the coordinator. On an orderly way out the launcher stops them; when it is dropped
//! it kills them; when the coordinator itself is killed, the kernel ends them (the worker asks for that with
//! `PR_SET_PDEATHSIG`), and their standard input, held open by the coordinator, ends.

mod binary;
mod last_words;
mod launcher;
mod preflight;
mod process;
mod shares;

pub use binary::WorkerBinary;
pub use launcher::{Exit, LaunchPlan, Launcher};
pub use preflight::{Preflight, preflight};
pub use shares::{Asked, Shares, cores};

use medley_common::{environment, exit};
use std::path::PathBuf;

/// Why workers cannot be started: one line with the remedy.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The environment names a file that is not there.
    #[error(
        "{variable}: there is no file {path}; point it at medley-worker, or unset it to look beside medley and on PATH"
    )]
    Named {
        /// The environment variable.
        variable: &'static str,
        /// What it says.
        path: PathBuf,
    },
    /// There is no worker binary.
    #[error(
        "medley-worker was not found: looked at {looked}; build it with `make build`, or name it with {}",
        environment::WORKER_BINARY
    )]
    Missing {
        /// Every place, in order.
        looked: String,
    },
    /// The worker is of another version.
    #[error("{path} is version {found}, medley is {ours}; build both from one checkout with `make build`")]
    Version {
        /// The worker binary.
        path: PathBuf,
        /// Its version.
        found: String,
        /// Ours.
        ours: &'static str,
    },
    /// The file that should be the worker does not behave like it.
    #[error("{path} is not a usable medley-worker: {message}; build it with `make build`")]
    Unusable {
        /// The worker binary.
        path: PathBuf,
        /// What it did.
        message: String,
    },
    /// The worker refused the configuration or its data; its own words.
    #[error("{0}")]
    BadInput(String),
    /// A check of the worker went wrong for another reason than its input.
    #[error("{path} check ended {status}: {message}")]
    CheckFailed {
        /// The worker binary.
        path: PathBuf,
        /// How it ended.
        status: String,
        /// The last line that it wrote.
        message: String,
    },
    /// A process or its log could not be made.
    #[error("cannot start worker {slot}: {source}")]
    Start {
        /// Which.
        slot: u32,
        /// Why.
        source: std::io::Error,
    },
    /// The thread that starts processes could not be made.
    #[error("cannot start the launcher's thread: {0}")]
    Thread(std::io::Error),
}

impl LaunchError {
    /// One of `medley_common::exit`.
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::Named { .. }
            | Self::Missing { .. }
            | Self::Version { .. }
            | Self::Unusable { .. }
            | Self::BadInput(_) => exit::BAD_INPUT,
            Self::CheckFailed { .. } | Self::Start { .. } | Self::Thread(_) => exit::FAILURE,
        }
    }
}
