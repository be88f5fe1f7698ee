//! Keys that are held for a time: each is bound to a lease of its own, and goes with it.

use super::Etcd;
use super::attempts::Failure;
use crate::election::clock;
use crate::store::{Claim, Leases, Store, StoreError};
use etcd_client::{Compare, CompareOp, Error, PutOptions, Txn, TxnOp, TxnOpResponse};
use std::time::Duration;

#[tonic::async_trait]
impl Leases for Etcd {
    async fn claim(&self, key: &str, value: &[u8], lease: Duration) -> Result<Option<Claim>, StoreError> {
        if self.get(key).await?.is_some() {
            return Ok(None);
        }
        // What takes longer than half of the lease leaves too little of it.
        let patience = (lease / 2).min(self.inner.retry);
        let (id, granted, since) = self.grant(lease, patience).await.map_err(|failure| self.failed(failure))?;
        let claimed = self.put_first(key, value, id, patience).await;
        match claimed {
            Ok(Some(term)) => {
                let (key, value) = (key.to_owned(), value.to_owned());
                Ok(Some(Claim { key, value, term, lease: Some(granted), since, id }))
            }
            Ok(None) => {
                self.revoke(id).await?;
                Ok(None)
            }
            Err(failure) => {
                // It may have been claimed, or may yet be: not without its lease.
                if let Err(error) = self.revoke(id).await {
                    tracing::debug!("a lease that nothing may hang on runs out by itself: {error}");
                }
                Err(self.failed(failure))
            }
        }
    }

    async fn renew(&self, claim: &Claim) -> Result<bool, StoreError> {
        let id = claim.id;
        let renewed = self.ask(self.inner.request, |client| {
            let mut leases = client.lease_client();
            async move {
                match leases.keep_alive(id).await {
                    Ok(_) => Ok(true),
                    Err(Error::LeaseKeepAliveError(_)) => Ok(false),
                    Err(error) => Err(error),
                }
            }
        });
        if !renewed.await.map_err(|failure| self.failed(failure))?.value {
            return Ok(false);
        }
        // A lease may be there without its key, which an operator can remove.
        let full = self.full(&claim.key);
        let held = self.ask(self.inner.request, |client| {
            let (mut kv, full) = (client.kv_client(), full.clone());
            async move { kv.get(full, None).await }
        });
        let held = held.await.map_err(|failure| self.failed(failure))?.value;
        Ok(held.kvs().first().is_some_and(|kv| kv.lease() == id && kv.value() == claim.value))
    }

    async fn release(&self, claim: &Claim) -> Result<(), StoreError> {
        self.revoke(claim.id).await
    }
}

impl Etcd {
    /// A new lease: its name, its length and when it began at the earliest.
    async fn grant(&self, lease: Duration, patience: Duration) -> Result<(i64, Duration, Duration), Failure> {
        let seconds = i64::try_from(lease.as_millis().div_ceil(1000)).unwrap_or(i64::MAX);
        let answer = self.ask(patience, |client| {
            let mut leases = client.lease_client();
            async move {
                // Each attempt asks for a lease of its own, so that this is when the answered one was asked for.
                let since = clock::now();
                Ok((leases.grant(seconds, None).await?, since))
            }
        });
        let (granted, since) = answer.await?.value;
        let length = Duration::from_secs(u64::try_from(granted.ttl()).unwrap_or(0));
        Ok((granted.id(), length, since))
    }

    /// Sets a key that is not there, bound to a lease; the key's term, or `None` where somebody was faster.
    async fn put_first(&self, key: &str, value: &[u8], lease: i64, patience: Duration) -> Result<Option<u64>, Failure> {
        let full = self.full(key);
        let first = Txn::new()
            .when([Compare::version(full.clone(), CompareOp::Equal, 0)])
            .and_then([TxnOp::put(full.clone(), value, Some(PutOptions::new().with_lease(lease)))])
            .or_else([TxnOp::get(full, None)]);
        let answer = self.ask(patience, |client| {
            let (mut kv, first) = (client.kv_client(), first.clone());
            async move { kv.txn(first).await }
        });
        let answer = answer.await?.value;
        // The revision of the cluster at which the key came to be: it only grows.
        let revision = if answer.succeeded() {
            answer.header().map(|header| header.revision())
        } else {
            // Our own, if an earlier attempt's answer was lost.
            answer.op_responses().first().and_then(|response| {
                match response {
                    TxnOpResponse::Get(got) => got.kvs().first().filter(|kv| kv.lease() == lease),
                    _ => None,
                }
                .map(|kv| kv.create_revision())
            })
        };
        Ok(revision.and_then(|revision| u64::try_from(revision).ok()))
    }

    /// Ends a lease, and with it what hangs on it.
    async fn revoke(&self, id: i64) -> Result<(), StoreError> {
        let answer = self.ask(self.inner.retry, |client| {
            let mut leases = client.lease_client();
            async move {
                match leases.revoke(id).await {
                    // It has run out, or an earlier attempt ended it.
                    Err(Error::GRpcStatus(status)) if status.code() == tonic::Code::NotFound => Ok(()),
                    other => other.map(|_| ()),
                }
            }
        });
        answer.await.map(|_| ()).map_err(|failure| self.failed(failure))
    }
}
