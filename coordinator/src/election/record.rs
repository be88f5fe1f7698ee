//! Who leads, as the store has it.

use crate::store::{Change, Store, StoreError, Watch};
use serde::{Deserialize, Serialize};

/// The key that the leader holds.
pub const KEY: &str = "leader";

/// Who leads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leader {
    /// A name for people, such as the host's.
    pub name: String,
    /// Where workers and other coordinators reach it.
    pub address: String,
    /// Random, of this time in the lead: the same candidate has another one the next time.
    pub identity: String,
}

/// Tells who leads, and when that changes.
#[derive(Debug)]
pub struct Leaders {
    watch: Watch,
}

impl Leaders {
    /// Of a job's store.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn of(store: &dyn Store) -> Result<Self, StoreError> {
        Ok(Self { watch: store.watch(KEY).await? })
    }

    /// Who leads now, at the first call where somebody does; then waits for each change. `None`: nobody leads any
    /// more, or the store is closed, in which case waiting on is in vain: every further call returns `None` at once.
    /// Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Option<Leader> {
        loop {
            match self.watch.next().await? {
                Change::Put { key, value } if key == KEY => match serde_json::from_slice(&value) {
                    Ok(leader) => return Some(leader),
                    Err(error) => tracing::warn!("the key `{KEY}` names no leader: {error}"),
                },
                Change::Deleted { key } if key == KEY => return None,
                // Another key that begins alike.
                _ => {}
            }
        }
    }
}
