//! Where the coordinator keeps what must survive it.
//!
//! [`Store`] is the interface; [`Embedded`] keeps everything in one file of the run directory. [`JobRecord`] is what
//! is kept of a job.

mod embedded;
mod record;

pub use embedded::Embedded;
pub use record::JobRecord;

/// Keys and values that survive a crash of the coordinator: a `put` that returned is there after `kill -9`.
pub trait Store: Send + Sync {
    /// The value of a key.
    ///
    /// # Errors
    /// Those of the medium.
    fn get(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError>;

    /// Sets a key.
    ///
    /// # Errors
    /// Those of the medium, a full disk among them; the old value then stays.
    fn put(&self, key: &str, value: &[u8]) -> Result<(), StoreError>;

    /// All keys that begin with `prefix`, in order, with their values.
    ///
    /// # Errors
    /// Those of the medium.
    fn list(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, StoreError>;

    /// Where it keeps them, as messages name it.
    fn place(&self) -> &std::path::Path;
}

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another coordinator has it open.
    #[error(
        "{path}: another coordinator is running this job; wait for its end or stop it, or choose another run directory"
    )]
    InUse {
        /// The store's file.
        path: std::path::PathBuf,
    },
    /// The medium failed, or the file is damaged.
    #[error("{path}: the coordinator's store cannot be used: {source}")]
    Broken {
        /// The store's file.
        path: std::path::PathBuf,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// What it keeps of the job is damaged, or of another version.
    #[error(
        "{path}: its record of the job cannot be read: {source}; move it away, and --resume goes on from the last checkpoint under a new job id"
    )]
    BadRecord {
        /// The store's file.
        path: std::path::PathBuf,
        /// Why.
        source: serde_json::Error,
    },
}
