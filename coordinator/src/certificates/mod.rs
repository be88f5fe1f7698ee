//! A cluster's private authority, and the certificates that it issues.
//!
//! 1. [`authority`]: making an authority, and certificates of it for a role.
//! 2. [`files`]: writing them, never over others, keys for their owner alone.
//! 3. [`mod@show`]: what certificates say, in plain words.
//!
//! Checking certificates and using them is `medley_common::certificates`'; this is what `medley certs` does.
//! Invariant: a private key is made here, written once with mode 600, and never shown.

pub mod authority;
pub mod files;
pub mod show;

pub use authority::{Authority, Order};
pub use show::show;

use std::path::PathBuf;

/// Why certificates cannot be made or shown: one line with the remedy.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// A file is there already.
    #[error(
        "{0} exists, and certificates are never written over others; name another directory by --out, or move it away"
    )]
    Exists(PathBuf),
    /// A file cannot be written.
    #[error("{path}: cannot write: {source}")]
    Unwritable {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is not there or cannot be read.
    #[error("{path}: cannot read: {source}{remedy}")]
    Unreadable {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
        /// What to do, after a semicolon, or nothing.
        remedy: &'static str,
    },
    /// A file does not hold what it should.
    #[error("{path}: {message}")]
    Unfit {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// An argument that cannot be.
    #[error("{0}")]
    Argument(String),
    /// Key or certificate could not be made.
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
}
