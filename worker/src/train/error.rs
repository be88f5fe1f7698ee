//! What ends a training, in one line each, and who is at fault.

use crate::checkpoint::CheckpointError;
use crate::collective::CollectiveError;
use crate::data::{DataError, PrefetchError};
use crate::session::SessionError;
use medley_common::certificates::CertificatesError;
use medley_common::certificates::channel::ChannelError;
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
    /// The coordinator's assignment contradicts itself, or what this worker holds.
    #[error("cannot follow the assignment: {0}")]
    Assignment(String),
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

pub(super) fn assignment(what: String) -> TrainError {
    TrainError::Assignment(what)
}

impl TrainError {
    /// Whether the generation failed and not this worker: it can take part in the next one with what it holds.
    pub fn is_of_the_group(&self) -> bool {
        use CollectiveError::{Aborted, Argument, Deadline, Handshake, Listen, PeerLost, Protocol, Setup};
        match self {
            Self::Collective(error) => match error {
                Deadline { .. } | PeerLost { .. } | Aborted { .. } | Protocol { .. } | Handshake { .. } | Setup(_) => {
                    true
                }
                Listen { .. } | Argument(_) => false,
            },
            _ => false,
        }
    }

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

    /// Whether another attempt would end in the same way.
    pub fn is_final(&self) -> bool {
        self.is_bad_input() || matches!(self, Self::NotFinite { .. })
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
