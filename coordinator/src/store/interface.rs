//! What every store can do.

use super::{StoreError, Transaction, Watch};
use std::time::Duration;

/// Keys and values that survive a crash of the coordinator: a write that returned is there after `kill -9`. Reads see
/// every write that returned before they began, whoever made it. Every operation ends: after `store.retry_ms` at the
/// latest where the store is elsewhere, and where it is a file on a full disk, once there is room.
#[tonic::async_trait]
pub trait Store: Send + Sync {
    /// The value of a key.
    ///
    /// # Errors
    /// Those of the medium.
    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError>;

    /// All keys that begin with `prefix`, in order, with their values.
    ///
    /// # Errors
    /// Those of the medium.
    async fn list(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, StoreError>;

    /// Writes all or nothing: everything if every condition holds, and then returns true, else nothing. When the
    /// answer of the store was lost and all that was to be written is in place, that counts as having happened; who
    /// must know whether it was they that wrote puts something of their own into the value. A key may be written
    /// once in a transaction; etcd takes 128 keys in all.
    ///
    /// # Errors
    /// Those of the medium; the old values then stay. [`StoreError::Uncertain`] when the
    /// answer was lost and others have written since. [`StoreError::Deposed`] of a leader's store.
    async fn transact(&self, transaction: Transaction) -> Result<bool, StoreError>;

    /// What is there below `prefix`, and from then on what changes.
    ///
    /// # Errors
    /// Those of the medium.
    async fn watch(&self, prefix: &str) -> Result<Watch, StoreError>;

    /// Where it keeps them, as messages name it.
    fn place(&self) -> String;

    /// Sets a key.
    ///
    /// # Errors
    /// As [`Store::transact`].
    async fn put(&self, key: &str, value: &[u8]) -> Result<(), StoreError> {
        self.transact(Transaction::new().put(key, value)).await.map(|_| ())
    }

    /// Removes a key, if it is there.
    ///
    /// # Errors
    /// As [`Store::transact`].
    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.transact(Transaction::new().delete(key)).await.map(|_| ())
    }
}

/// A store in which a key can be held for as long as somebody keeps renewing it. `election` is made of this.
#[tonic::async_trait]
pub trait Leases: Store {
    /// Sets a key that nobody holds, to be removed when it was not renewed for `lease`. `None`: somebody holds it.
    ///
    /// # Errors
    /// Those of the medium.
    async fn claim(&self, key: &str, value: &[u8], lease: Duration) -> Result<Option<Claim>, StoreError>;

    /// Begins the lease anew; false: the key is no longer held. Waits no longer than a request may take; whoever
    /// calls bounds it further.
    ///
    /// # Errors
    /// Those of the medium; the key may then be held or not, and renewed or not.
    async fn renew(&self, claim: &Claim) -> Result<bool, StoreError>;

    /// Removes the key if it is still held.
    ///
    /// # Errors
    /// Those of the medium.
    async fn release(&self, claim: &Claim) -> Result<(), StoreError>;
}

/// A key that is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The key.
    pub key: String,
    /// Its value.
    pub value: Vec<u8>,
    /// Grows with every claim of this key, whoever makes it.
    pub term: u64,
    /// How long the store keeps the key without a renewal; `None`: for as long as this process lives.
    pub lease: Option<Duration>,
    /// When the lease began at the earliest, by [`crate::election::clock::now`].
    pub since: Duration,
    /// The store's own name of the lease.
    pub id: i64,
}
