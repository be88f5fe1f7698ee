//! What went wrong with a storage.

/// Why a storage does not serve: one line with the place.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// What was named can be no place.
    #[error("output.checkpoints: \"{place}\": {message}")]
    Invalid {
        /// As given.
        place: String,
        /// What is wrong, and how to mend it.
        message: String,
    },
    /// It is not there.
    #[error("{place}: not found")]
    Absent {
        /// What.
        place: String,
    },
    /// The file system does not do it.
    #[error("{place}: cannot {doing}: {source}")]
    Directory {
        /// The file or directory.
        place: String,
        /// `read`, `write`, ...
        doing: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// The server of the bucket does not do it.
    #[error(
        "{place}: cannot {doing}: {message}; AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY say where and as whom"
    )]
    Bucket {
        /// The object or prefix.
        place: String,
        /// `read`, `write`, ...
        doing: &'static str,
        /// Why.
        message: String,
    },
    /// It is there, and not what it should be.
    #[error("{place}: not a whole file of a checkpoint ({what})")]
    Damaged {
        /// The file or object.
        place: String,
        /// What is wrong with it.
        what: String,
    },
    /// A checkpoint of the step is there already.
    #[error("{place}: is a checkpoint already, which stays as it is")]
    Exists {
        /// The checkpoint.
        place: String,
    },
    /// Whoever asked for it has lost the right to it meanwhile.
    #[error("{place}: was not committed, for this coordinator no longer leads the job")]
    Unwanted {
        /// The checkpoint.
        place: String,
    },
    /// It was written by another version.
    #[error(
        "{place}: has format {found}, this version of Medley ({}) reads {}; take version {}",
        crate::VERSION,
        crate::manifest::FORMAT,
        .version.escape_debug()
    )]
    Format {
        /// The manifest.
        place: String,
        /// Its format.
        found: u32,
        /// The version of Medley that wrote it.
        version: String,
    },
}

impl From<std::io::Error> for StorageError {
    /// A file that could not even be made in memory.
    fn from(source: std::io::Error) -> Self {
        Self::Directory { place: "a file of the checkpoint".into(), doing: "make", source }
    }
}

impl StorageError {
    /// Whether what was asked for is not there, as opposed to unreachable or damaged.
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Absent { .. })
    }

    /// Whether another attempt may succeed although nobody mends anything: a server that does not answer now, a file system
    /// that is not there for a while.
    pub fn is_passing(&self) -> bool {
        use std::io::ErrorKind::{NotFound, PermissionDenied};
        match self {
            Self::Bucket { .. } => true,
            Self::Directory { source, .. } => !matches!(source.kind(), NotFound | PermissionDenied),
            _ => false,
        }
    }
}
