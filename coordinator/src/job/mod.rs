//! STAND-IN, thrown away at merge: the shape of the job module that the command line is written against.

mod observer;

use medley_common::config::RunConfig;
pub use observer::Observer;
use std::path::PathBuf;

/// What is to be run.
pub struct JobRequest {
    /// The configuration.
    pub config: RunConfig,
    /// Where everything goes.
    pub run_directory: PathBuf,
    /// Whether to go on from the last checkpoint.
    pub resume: bool,
}

/// How the job ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// `completed`, `early-stopping`, `stopped` or `failed`.
    pub outcome: String,
    /// One line for a person.
    pub message: String,
    /// One of `medley_common::exit`.
    pub exit_code: i32,
    /// Steps committed.
    pub step: u64,
}

/// The job could not be run.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct JobError(String);

impl JobError {
    /// One of `medley_common::exit`.
    pub fn exit_code(&self) -> i32 {
        medley_common::exit::FAILURE
    }
}

/// Runs a job to its end.
///
/// # Errors
/// Always: this stands in for the real thing.
pub async fn run(
    _request: JobRequest,
    _observers: Vec<Box<dyn Observer>>,
) -> Result<Outcome, JobError> {
    Err(JobError("this build has no job module".into()))
}
