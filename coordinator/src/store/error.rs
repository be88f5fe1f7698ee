//! What can go wrong with a store.

use std::path::PathBuf;

/// Why the store cannot be used: one line with the remedy.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another coordinator has the file open.
    #[error(
        "{path}: another coordinator is running this job; wait for its end or stop it, or choose another run directory"
    )]
    InUse {
        /// The store's file.
        path: PathBuf,
    },
    /// The file's medium failed, or the file is damaged.
    #[error("{path}: the coordinator's store cannot be used: {source}")]
    Broken {
        /// The store's file.
        path: PathBuf,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// What it keeps of the job is damaged, or of another version.
    #[error(
        "{place}: its record of the job cannot be read: {source}; move it away, and --resume goes on from the last checkpoint under a new job id"
    )]
    BadRecord {
        /// The store.
        place: String,
        /// Why.
        source: serde_json::Error,
    },
    /// A setting cannot be used.
    #[error("{key}: {message}")]
    Setting {
        /// The configuration key.
        key: &'static str,
        /// What is wrong with it, and how to mend it.
        message: String,
    },
    /// No member answered when the store was opened.
    #[error(
        "store.endpoints: no etcd member answered within {seconds} s at {endpoints} ({last}); start the cluster or correct the addresses"
    )]
    NoAnswer {
        /// The members.
        endpoints: String,
        /// For how long they were tried.
        seconds: f64,
        /// What the last attempt said.
        last: String,
    },
    /// The cluster does not let us in.
    #[error("etcd at {endpoints} refuses: {message}; correct store.user, its password or the user's role")]
    Refused {
        /// The members.
        endpoints: String,
        /// Its words.
        message: String,
    },
    /// The cluster stopped answering. The operation may have been carried out.
    #[error(
        "etcd at {endpoints} did not answer for {seconds} s ({last}); see that most of its members run and can be reached"
    )]
    Unavailable {
        /// The members.
        endpoints: String,
        /// For how long they were tried.
        seconds: f64,
        /// What the last attempt said.
        last: String,
    },
    /// The cluster answered that it will not do this, however often it is asked.
    #[error("etcd at {endpoints} cannot do this: {message}")]
    Rejected {
        /// The members.
        endpoints: String,
        /// Its words.
        message: String,
    },
    /// The answer to a transaction was lost, and others have written the same keys since.
    #[error("{place}: whether a write happened is not known, for its answer was lost; read the keys again")]
    Uncertain {
        /// The store.
        place: String,
    },
    /// A write of a coordinator that leads no more; nothing was written.
    #[error("this coordinator leads no more ({reason}), so it writes no more")]
    Deposed {
        /// Why it does not.
        reason: String,
    },
}

impl StoreError {
    /// Whether the same may succeed later with nothing changed by a person.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::NoAnswer { .. } | Self::Unavailable { .. } | Self::Uncertain { .. })
    }
}
