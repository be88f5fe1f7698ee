//! Worker processes on this machine: found, checked, started, watched, and ended on every way out.
//!
//! 1. [`worker_binary`] finds `medley-worker`, [`check_version`] asks it what it is.
//! 2. [`preflight`] has it check a configuration before anything is written.
//! 3. [`Launcher`] starts the workers of a job and answers for their end.

mod binary;
mod launcher;

pub use binary::{Preflight, check_version, preflight, worker_binary};
pub use launcher::{Exited, Launch, Launcher};

use std::path::PathBuf;

/// What is wrong with the workers before a job begins; all but `Start` are the user's to mend.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// There is no worker binary.
    #[error("cannot find medley-worker: looked {places}; run `make build`, or name it in MEDLEY_WORKER")]
    Missing {
        /// Where it was looked for.
        places: String,
    },
    /// It cannot be run.
    #[error("{path}: cannot be run: {source}; run `make build`, or name another in MEDLEY_WORKER")]
    NotRunnable {
        /// The binary.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is of another version.
    #[error("{path}: is {found}, but this is medley {expected}; build both from the same source with `make build`")]
    Version {
        /// The binary.
        path: PathBuf,
        /// What it says it is.
        found: String,
        /// Our version.
        expected: &'static str,
    },
    /// The worker refuses the configuration or its data: its own line.
    #[error("{0}")]
    Refused(String),
    /// A process cannot be started.
    #[error("cannot start a worker: {0}")]
    Start(std::io::Error),
}
