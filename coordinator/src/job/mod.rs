//! One job from its first worker to its last word: wires the cluster's decisions to processes, sockets and files.
//!
//! 1. [`prepare`] checks all that can be checked before anything is written.
//! 2. [`run`] drives the job in a run directory that is there: events in, actions out.
//! 3. [`Observer`] is told everything; `output` has those that write and show it.

mod driver;
mod observer;

pub use crate::cluster::Outcome;
pub use driver::run;
pub use observer::Observer;

use crate::checkpoint::{self, CheckpointError};
use crate::launch::{self, LaunchError, Preflight};
use crate::server::ServerError;
use crate::store::StoreError;
use medley_common::config::{self, RunConfig};
use medley_common::{exit, run_directory};
use std::path::PathBuf;

/// What is to be run.
#[derive(Debug, Clone)]
pub struct JobRequest {
    /// The configuration.
    pub config: RunConfig,
    /// The run directory; for [`run`] it exists, with `run.toml` and `logs/` in it.
    pub run_directory: PathBuf,
    /// Whether to go on from the last checkpoint.
    pub resume: bool,
}

/// A request that was checked.
#[derive(Debug)]
pub struct Prepared {
    request: JobRequest,
    binary: PathBuf,
    preflight: Preflight,
    /// Step and directory of the checkpoint to go on from.
    checkpoint: Option<(u64, PathBuf)>,
}

/// Why a job did not run, in one line.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// The workers, or what they found in configuration and data.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// The address to listen on.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The checkpoint to resume from.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The coordinator's store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The run directory to resume.
    #[error("{path}: {what}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it, and how to mend it.
        what: String,
    },
    /// The machine failed us.
    #[error("{doing}: {source}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
}

impl JobError {
    /// The exit code: 2 where the user can mend it.
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::Launch(LaunchError::Start(_)) | Self::Io { .. } | Self::Store(StoreError::Broken { .. }) => {
                exit::FAILURE
            }
            _ => exit::BAD_INPUT,
        }
    }
}

/// Checks workers, data and, to resume, the checkpoint. Writes nothing.
///
/// # Errors
/// One line that says what is wrong, where, and how to mend it.
pub fn prepare(request: JobRequest) -> Result<Prepared, JobError> {
    let binary = launch::worker_binary()?;
    launch::check_version(&binary)?;
    let preflight = launch::preflight(&binary, &request.config)?;
    let checkpoint = if request.resume { latest(&request, &preflight)? } else { None };
    Ok(Prepared { request, binary, preflight, checkpoint })
}

/// The last committed checkpoint, verified; `None` where the job never came to one and begins again.
fn latest(request: &JobRequest, preflight: &Preflight) -> Result<Option<(u64, PathBuf)>, JobError> {
    let run = &request.run_directory;
    let Some((step, directory)) = run_directory::latest_checkpoint(run) else {
        return Ok(None);
    };
    let manifest = checkpoint::verify(&directory)?;
    if manifest.config_hash != config::identity(&request.config) {
        return Err(JobError::Directory {
            path: directory,
            what: "was trained with another configuration than run.toml holds now; put run.toml back as it was to resume, or start a new run".into(),
        });
    }
    if manifest.data_hash != preflight.data_hash {
        return Err(JobError::Directory {
            path: directory,
            what: format!(
                "was trained on other data than {} holds now; put that file back to resume, or start a new run",
                request.config.data.path.display()
            ),
        });
    }
    Ok(Some((step, directory)))
}
