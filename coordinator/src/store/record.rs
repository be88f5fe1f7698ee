//! What is kept of a job.

use super::{Store, StoreError};
use serde::{Deserialize, Serialize};

const KEY: &str = "job";

/// What a coordinator that takes a job up again must know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRecord {
    /// The job; a resumed run keeps it.
    pub id: String,
    /// The last generation that was formed; 0 before the first.
    pub generation: u64,
    /// The step of the last committed checkpoint.
    pub checkpoint: Option<u64>,
    /// `created`, `running`, or the outcome.
    pub status: String,
}

impl JobRecord {
    /// The record of a job that has not begun.
    pub fn new(id: String) -> Self {
        Self {
            id,
            generation: 0,
            checkpoint: None,
            status: "created".into(),
        }
    }

    /// The record in a store; `None` where there is none that can be read.
    ///
    /// # Errors
    /// Those of the store.
    pub fn load(store: &dyn Store) -> Result<Option<Self>, StoreError> {
        let bytes = store.get(KEY)?;
        Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }

    /// Puts the record into a store.
    ///
    /// # Errors
    /// Those of the store.
    pub fn save(&self, store: &dyn Store) -> Result<(), StoreError> {
        let bytes = serde_json::to_vec(self).expect("a record has string keys only");
        store.put(KEY, &bytes)
    }
}
