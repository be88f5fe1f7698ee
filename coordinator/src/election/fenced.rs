//! The store as only the leader may write it.

use super::leadership::Hold;
use crate::store::{Store, StoreError, Transaction, Watch};
use std::sync::Arc;

/// Writes only while the leader's key is still the one that this leader wrote; reads and watches as the store beneath.
pub struct Fenced {
    store: Arc<dyn Store>,
    hold: Arc<Hold>,
}

impl Fenced {
    pub fn new(store: Arc<dyn Store>, hold: Arc<Hold>) -> Self {
        Self { store, hold }
    }
}

#[tonic::async_trait]
impl Store for Fenced {
    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.store.get(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        self.store.list(prefix).await
    }

    async fn transact(&self, transaction: Transaction) -> Result<bool, StoreError> {
        self.hold.check()?;
        let claim = self.hold.claim();
        let is_done = self.store.transact(transaction.equals(&claim.key, claim.value.as_slice())).await?;
        if is_done {
            return Ok(true);
        }
        // No value is ever written to that key twice: if it is ours now it was ours all the time, and another
        // condition did not hold.
        if self.store.get(&claim.key).await?.as_deref() == Some(claim.value.as_slice()) {
            return Ok(false);
        }
        self.hold.lose("another coordinator took over");
        self.hold.check().map(|()| false)
    }

    async fn watch(&self, prefix: &str) -> Result<Watch, StoreError> {
        self.store.watch(prefix).await
    }

    fn place(&self) -> String {
        self.store.place()
    }
}
