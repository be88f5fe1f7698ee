//! Checkpoints as the coordinator sees them: workers write files into a staging directory, and a manifest makes them
//! a checkpoint.
//!
//! 1. [`commit()`]: verifies what the workers wrote, writes the manifest and renames the directory into place.
//! 2. [`verify()`]: whether a committed checkpoint is whole, and whether it fits a configuration.
//! 3. [`retain()`] and [`remove_stale_staging()`]: what is deleted, and when.
//!
//! Invariant: a directory `step-N` that holds a manifest is complete; anything else is never loaded.

mod commit;
mod retain;
mod verify;

pub use commit::{Committed, commit, staging};
pub use retain::{remove_stale_staging, retain};
pub use verify::{check_fit, verify};

use std::path::{Path, PathBuf};

/// What is wrong with a checkpoint: one line with the place and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// A file cannot be read or written.
    #[error("{path}: cannot {doing}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// `read`, `write`, ...
        doing: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// The files are not what the manifest or the workers said.
    #[error("{path}: {message}; remove {directory} to go on from the checkpoint before it")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
        /// The checkpoint's directory.
        directory: PathBuf,
    },
    /// It belongs to another configuration.
    #[error("{path}: {message}")]
    Unfit {
        /// The checkpoint's directory.
        path: PathBuf,
        /// Which key differs, and how to mend it.
        message: String,
    },
    /// What the workers reported cannot make a checkpoint.
    #[error("{0}")]
    Refused(String),
}

fn io(path: &Path, doing: &'static str) -> impl FnOnce(std::io::Error) -> CheckpointError {
    move |source| CheckpointError::Io { path: path.to_owned(), doing, source }
}

/// Makes renames in a directory durable.
pub(crate) fn sync_directory(directory: &Path) -> std::io::Result<()> {
    std::fs::File::open(directory)?.sync_all()
}
