//! Checkpoints as the coordinator sees them: workers put files, and a manifest makes them a checkpoint. Where they are kept is
//! `medley_common::storage`.
//!
//! 1. [`commit()`]: verifies what the workers put, and commits it.
//! 2. [`verify()`] and [`damages()`]: whether a committed checkpoint is whole; [`check_fit()`]: whether it fits a configuration.
//! 3. [`retain()`]: what is deleted, and when.
//!
//! Invariant: what has a manifest is complete; anything else is never loaded.

mod commit;
mod retain;
mod verify;

pub use commit::{Committed, commit};
pub use retain::retain;
pub use verify::{check_fit, damages, verify};

use medley_common::storage::StorageError;

/// What is wrong with a checkpoint: one line with the place and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// What keeps it cannot be read or written.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The files are not what the manifest said.
    #[error("{source}; remove {place} to go on from the checkpoint before it")]
    Damaged {
        /// Which file, and what is wrong with it.
        source: StorageError,
        /// The checkpoint.
        place: String,
    },
    /// It belongs to another configuration.
    #[error("{place}: {message}")]
    Unfit {
        /// The checkpoint.
        place: String,
        /// Which key differs, and how to mend it.
        message: String,
    },
    /// What the workers reported cannot make a checkpoint.
    #[error("{0}")]
    Refused(String),
    /// A new run would mix its checkpoints with those of another.
    #[error(
        "output.checkpoints: {place} holds checkpoints already; name another place, or go on with their run by --resume"
    )]
    Occupied {
        /// The place.
        place: String,
    },
}
