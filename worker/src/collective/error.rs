//! What can go wrong between the workers of a group, one clear line each.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::handshake::HandshakeError;
use medley_common::certificates::tls;

/// A failure of the data plane. Cloneable, because a group that broke answers every later call with its first error.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CollectiveError {
    /// A wait ran into its deadline.
    #[error("{operation}: no answer from rank {rank} within {waited:.1?}: {detail}")]
    Deadline {
        /// The first rank that was still missing.
        rank: usize,
        /// The call that waited, `connect` for the formation of the group.
        operation: &'static str,
        /// How long it waited.
        waited: Duration,
        /// What exactly was missing, or the last failure seen while trying.
        detail: String,
    },
    /// The connection to a rank broke or was closed.
    #[error("lost the connection to rank {rank}: {source}")]
    PeerLost {
        /// The rank at the other end.
        rank: usize,
        /// What the socket reported.
        source: Arc<io::Error>,
    },
    /// The group was aborted by an [`AbortHandle`](super::AbortHandle).
    #[error("the collective was aborted: {reason}")]
    Aborted {
        /// The reason given to [`AbortHandle::abort`](super::AbortHandle::abort).
        reason: String,
    },
    /// A rank sent something other than what this call expects: corrupted bytes, another call, other lengths.
    #[error("rank {rank} broke the protocol of the exchange: {what}")]
    Protocol {
        /// The rank that sent it.
        rank: usize,
        /// What was wrong.
        what: String,
    },
    /// What answered at a rank's address is not that rank of this group, or refused this worker for good.
    #[error("cannot join rank {rank} at {address}: {source}")]
    Handshake {
        /// The rank that was dialled.
        rank: usize,
        /// Its address.
        address: String,
        /// Why.
        source: HandshakeError,
    },
    /// The address to listen on cannot be had.
    #[error("cannot listen on {address} for the exchange: {source}; choose a free port, or port 0 for any")]
    Listen {
        /// The address asked for.
        address: String,
        /// What the system reported.
        source: Arc<io::Error>,
    },
    /// A thread could not be started or a socket not be set up.
    #[error("cannot set up the exchange: {0}")]
    Setup(Arc<io::Error>),
    /// The caller's arguments do not fit together. Nothing was sent; the group stays usable.
    #[error("{0}")]
    Argument(String),
}

impl CollectiveError {
    pub(super) fn setup(error: io::Error) -> Self {
        Self::Setup(Arc::new(error))
    }

    pub(super) fn lost(rank: usize, error: io::Error) -> Self {
        match tls::error_in(&error) {
            // The other end found something wrong with what it was sent, and left.
            Some(rustls::Error::AlertReceived(_)) | None => {}
            Some(error) => return Self::Protocol { rank, what: tls::explain(error) },
        }
        let source = match error.kind() {
            io::ErrorKind::UnexpectedEof => io::Error::new(error.kind(), "it closed the connection"),
            _ => error,
        };
        Self::PeerLost { rank, source: Arc::new(source) }
    }
}
