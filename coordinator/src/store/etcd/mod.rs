//! The store that several coordinators share: the keys below `/medley/JOB/` of an etcd cluster.
//!
//! [`connection`] opens it, [`attempts`] asks until some member answers, [`mod@write`] changes keys exactly as often as
//! asked to, [`follow`] watches them, [`lease`] holds them for a time.

mod attempts;
mod connection;
mod follow;
mod lease;
mod write;

use super::{Entries, Store, StoreError, Transaction, Watch};
use attempts::Failure;
use etcd_client::{Client, GetOptions};
use medley_common::config::StoreConfig;
use std::sync::Arc;
use std::time::Duration;

/// One job's part of an etcd cluster. Cheap to clone.
#[derive(Clone)]
pub struct Etcd {
    client: Client,
    inner: Arc<Inner>,
}

struct Inner {
    /// As messages name them.
    endpoints: String,
    /// `/medley/JOB/`.
    prefix: String,
    /// After this a request counts as unanswered.
    request: Duration,
    /// So long an operation is tried.
    retry: Duration,
}

impl Etcd {
    /// Connects to the cluster that a configuration names, trying until `store.retry_ms` are over. `job` must be a
    /// name that every coordinator of the job uses.
    ///
    /// # Errors
    /// [`StoreError::NoAnswer`], [`StoreError::Refused`], [`StoreError::Setting`].
    pub async fn connect(config: &StoreConfig, job: &str) -> Result<Self, StoreError> {
        connection::connect(config, job).await
    }

    fn full(&self, key: &str) -> String {
        format!("{}{key}", self.inner.prefix)
    }

    /// The key as those above know it. Whoever writes below the prefix what is not text is not of us.
    fn short(&self, full: &[u8]) -> Option<String> {
        Some(std::str::from_utf8(full).ok()?.strip_prefix(&self.inner.prefix)?.to_owned())
    }

    fn failed(&self, failure: Failure) -> StoreError {
        let endpoints = self.inner.endpoints.clone();
        match failure {
            Failure::Refused(message) => StoreError::Refused { endpoints, message },
            Failure::Rejected(message) => StoreError::Rejected { endpoints, message },
            Failure::Unanswered { tried, last } => {
                StoreError::Unavailable { endpoints, seconds: tried.as_secs_f64(), last }
            }
        }
    }

    /// Everything below a prefix, and the revision of the cluster at which it was so.
    async fn snapshot(&self, prefix: &str) -> Result<(i64, Entries), StoreError> {
        let full = self.full(prefix);
        let answer = self.ask(self.inner.retry, |client| {
            let (mut kv, full) = (client.kv_client(), full.clone());
            async move { kv.get(full, Some(GetOptions::new().with_prefix())).await }
        });
        let answer = answer.await.map_err(|failure| self.failed(failure))?.value;
        let revision = answer.header().map_or(0, |header| header.revision());
        let entries = answer.kvs().iter().filter_map(|kv| Some((self.short(kv.key())?, kv.value().to_vec())));
        Ok((revision, entries.collect()))
    }
}

#[tonic::async_trait]
impl Store for Etcd {
    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let full = self.full(key);
        let answer = self.ask(self.inner.retry, |client| {
            let (mut kv, full) = (client.kv_client(), full.clone());
            async move { kv.get(full, None).await }
        });
        let answer = answer.await.map_err(|failure| self.failed(failure))?.value;
        Ok(answer.kvs().first().map(|kv| kv.value().to_vec()))
    }

    async fn list(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        Ok(self.snapshot(prefix).await?.1)
    }

    async fn transact(&self, transaction: Transaction) -> Result<bool, StoreError> {
        self.write(&transaction).await
    }

    async fn watch(&self, prefix: &str) -> Result<Watch, StoreError> {
        self.follow(prefix).await
    }

    fn place(&self) -> String {
        format!("etcd at {}, {}", self.inner.endpoints, self.inner.prefix)
    }
}
