//! What ends a training, in one line each, and who is at fault.

use crate::checkpoint::CheckpointError;
use crate::collective::CollectiveError;
use crate::data::{DataError, PrefetchError};
use crate::session::SessionError;
use crate::session::channel::ChannelError;
use medley_common::certificates::CertificatesError;
use std::path::PathBuf;

/// What ended a training.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The configuration does not parse or cannot work.
    #[error(transparent)]
    Config(#[from] medley_common::config::ConfigError),
    /// The data cannot be used.
    #[error(transparent)]
    Data(#[from] DataError),
    /// There is no batch.
    #[error(transparent)]
    Batch(#[from] PrefetchError),
    /// The checkpoint cannot be used.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Other workers or the way to them.
    #[error(transparent)]
    Collective(#[from] CollectiveError),
    /// The coordinator.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The certificates.
    #[error("--certificates: {0}")]
    Certificates(#[from] CertificatesError),
    /// Candidates or ranks.
    #[error(transparent)]
    Evaluation(#[from] crate::eval::EvalError),
    /// Input that fits no rule of the configuration alone.
    #[error("{0}")]
    Input(String),
    /// Training diverged.
    #[error("the loss is not a finite number at step {step}; lower optimizer.learning_rate or set optimizer.clip_norm")]
    NotFinite {
        /// The step, from 1.
        step: u64,
    },
    /// A file cannot be written.
    #[error("{path}: cannot write: {source}")]
    Write {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl TrainError {
    /// Whether the user's input is at fault.
    pub fn is_bad_input(&self) -> bool {
        use crate::eval::EvalError;
        if matches!(self, Self::Data(DataError::Output(_))) {
            return false;
        }
        matches!(
            self,
            Self::Config(_)
                | Self::Data(_)
                | Self::Checkpoint(_)
                | Self::Certificates(_)
                | Self::Session(SessionError::Channel(ChannelError::Address { .. }))
                | Self::Input(_)
                | Self::Evaluation(EvalError::NoNegatives { .. })
        )
    }

    /// The rank whose silence or loss this failure is a consequence of.
    pub fn because_of_rank(&self) -> Option<usize> {
        match self {
            Self::Collective(
                CollectiveError::Deadline { rank, .. }
                | CollectiveError::PeerLost { rank, .. }
                | CollectiveError::Handshake { rank, .. }
                | CollectiveError::Protocol { rank, .. },
            ) => Some(*rank),
            _ => None,
        }
    }
}
