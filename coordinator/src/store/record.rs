//! What is kept of a job.

use super::{Store, StoreError};
use crate::cluster::Kept;
use crate::random;
use medley_common::hash;
use serde::{Deserialize, Serialize};

const KEY: &str = "job";

/// What a coordinator that takes a job up again must know.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobRecord {
    /// The job; a resumed run keeps it.
    pub id: String,
    /// The last generation that was formed; 0 before the first.
    pub generation: u64,
    /// The step of the last committed checkpoint.
    pub checkpoint: Option<u64>,
    /// `created`, `running`, or the outcome.
    pub status: String,
    /// The outcome in one line, once there is one.
    #[serde(default)]
    pub message: String,
    /// What a worker that joins must know, and whoever asks something of the job.
    #[serde(default)]
    pub token: String,
    /// From which the secret of each generation is made, hexadecimal.
    #[serde(default)]
    secret: String,
    /// `config::identity` of its configuration, where several coordinators must agree on that.
    #[serde(default)]
    pub identity: String,
    /// How often it was gone on with after it had ended.
    #[serde(default)]
    pub resumptions: u64,
    /// The cluster's own part: the last generation, and T.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<Kept>,
}

impl JobRecord {
    /// The record of a job that has not begun.
    pub fn new(id: String) -> Self {
        Self {
            id,
            generation: 0,
            checkpoint: None,
            status: "created".into(),
            message: String::new(),
            token: String::new(),
            secret: String::new(),
            identity: String::new(),
            resumptions: 0,
            kept: None,
        }
    }

    /// Whether it has come to an outcome.
    pub fn has_ended(&self) -> bool {
        !matches!(self.status.as_str(), "created" | "running")
    }

    /// Draws a new token and a new secret.
    ///
    /// # Errors
    /// Where the system gives no random bytes.
    pub fn renew_secrets(&mut self) -> std::io::Result<()> {
        (self.token, self.secret) = (random::hex(32)?, random::hex(32)?);
        Ok(())
    }

    /// What only the members of a generation know. It says nothing of that of another generation.
    pub fn secret_of(&self, generation: u64) -> Vec<u8> {
        hash::sha256(format!("{}/{}/{generation}", self.secret, self.id).as_bytes()).into_bytes()
    }

    /// The record in a store; `None` where there is none.
    ///
    /// # Errors
    /// Those of the store; [`StoreError::BadRecord`] where what it keeps is no record.
    pub async fn load(store: &dyn Store) -> Result<Option<Self>, StoreError> {
        let read = |bytes: Vec<u8>| {
            serde_json::from_slice(&bytes).map_err(|source| StoreError::BadRecord { place: store.place(), source })
        };
        store.get(KEY).await?.map(read).transpose()
    }

    /// Puts the record into a store.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn save(&self, store: &dyn Store) -> Result<(), StoreError> {
        let bytes = serde_json::to_vec(self).expect("a record has string keys only");
        store.put(KEY, &bytes).await
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::Embedded;
    use super::*;

    #[tokio::test]
    async fn a_record_that_cannot_be_read_is_one_line_with_the_file_and_the_remedy() {
        let directory = tempfile::tempdir().unwrap();
        let store = Embedded::open(&directory.path().join("coordinator.redb")).unwrap();
        assert_eq!(JobRecord::load(&store).await.unwrap(), None);
        store.put(KEY, b"{\"id\":\"j\",").await.unwrap();
        let message = JobRecord::load(&store).await.unwrap_err().to_string();
        assert!(message.contains("coordinator.redb") && message.contains("move it away"), "{message}");
        assert!(!message.contains('\n'), "{message}");
    }
}
