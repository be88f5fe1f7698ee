//! What can go wrong with a measurement, in one line each.

use crate::collective::CollectiveError;
use crate::data::DataError;
use crate::train::TrainError;
use std::path::PathBuf;
use std::time::Duration;

/// Why there is no measurement.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// Settings that do not fit together.
    #[error("{0}")]
    Input(String),
    /// A worker could not take a step.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// The data file cannot be used.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The workers lost one another.
    #[error(transparent)]
    Collective(#[from] CollectiveError),
    /// A worker process said why it failed.
    #[error("worker {rank}: {message}")]
    Member {
        /// Its rank.
        rank: usize,
        /// What it said.
        message: String,
        /// Whether the settings are at fault.
        bad_input: bool,
    },
    /// A worker process ended without a result.
    #[error("worker {rank} ended before it had a result ({status}); what it wrote is above")]
    Ended {
        /// Its rank.
        rank: usize,
        /// How.
        status: String,
    },
    /// No worker process said anything.
    #[error("no worker said anything for {0:.0?}; the machine may be too busy to measure on")]
    Silent(Duration),
    /// A worker process said what no worker says.
    #[error("worker {rank} said what nobody understands: {line}")]
    Unintelligible {
        /// Its rank.
        rank: usize,
        /// What it said.
        line: String,
    },
    /// A result cannot be written.
    #[error("{path}: cannot write: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Processes or pipes.
    #[error("cannot {what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
}

impl BenchError {
    /// Whether the user's input is at fault.
    pub fn is_bad_input(&self) -> bool {
        match self {
            Self::Input(_) => true,
            Self::Train(error) => error.is_bad_input(),
            Self::Data(error) => !matches!(error, DataError::Output(_)),
            Self::Member { bad_input, .. } => *bad_input,
            _ => false,
        }
    }

    /// What failed, and how.
    pub(crate) fn system(what: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::System { what, source }
    }
}
