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
            // Whoever tries again, later and not for ever, may find the storage back.
            Self::Checkpoint(error) => error.is_passing(),
            _ => false,
        }
    }

    /// Whether the user's input is at fault.
    pub fn is_bad_input(&self) -> bool {
        use crate::eval::EvalError;
        match self {
            Self::Data(DataError::Output(_)) => return false,
            Self::Checkpoint(error) if error.is_passing() => return false,
            _ => {}
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
        use crate::eval::EvalError;
        let has_diverged = matches!(self, Self::NotFinite { .. } | Self::Evaluation(EvalError::NotFinite { .. }));
        self.is_bad_input() || has_diverged
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::eval::EvalError;
    use medley_common::storage::StorageError;
    use std::io::ErrorKind;

    fn of_storage(error: StorageError) -> TrainError {
        TrainError::Checkpoint(error.into())
    }

    fn directory(kind: ErrorKind) -> TrainError {
        of_storage(StorageError::Directory { place: "step-4".into(), doing: "read", source: kind.into() })
    }

    /// Of the group, bad input, final.
    fn kinds(error: &TrainError) -> [bool; 3] {
        [error.is_of_the_group(), error.is_bad_input(), error.is_final()]
    }

    #[test]
    fn a_storage_that_is_away_is_tried_again_and_a_checkpoint_that_is_damaged_is_not() {
        let bucket = StorageError::Bucket { place: "s3://b/r".into(), doing: "read", message: "no answer".into() };
        for passing in
            [of_storage(bucket), directory(ErrorKind::TimedOut), directory(ErrorKind::StaleNetworkFileHandle)]
        {
            assert_eq!(kinds(&passing), [true, false, false], "{passing}");
        }
        let damaged = StorageError::Damaged { place: "step-4".into(), what: "it has 3 bytes".into() };
        let absent = StorageError::Absent { place: "step-4".into() };
        for lasting in [of_storage(damaged), of_storage(absent), directory(ErrorKind::PermissionDenied)] {
            assert_eq!(kinds(&lasting), [false, true, true], "{lasting}");
        }
    }

    #[test]
    fn a_model_that_has_diverged_would_do_so_again() {
        for error in [TrainError::NotFinite { step: 3 }, TrainError::Evaluation(EvalError::NotFinite { user: 1 })] {
            assert_eq!(kinds(&error), [false, false, true], "{error}");
        }
    }
}
