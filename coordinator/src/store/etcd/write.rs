//! Changing keys exactly as often as asked to.
//!
//! A request whose answer is lost may have been carried out, and one that a stopped member still holds may be carried
//! out much later. So every write is bound to the revisions of all keys that it is about, which are read first: a
//! write that comes too late, or a second time, finds other revisions and does nothing. The conditions are judged on
//! what was read, and hold when the write is carried out, since the revisions are the same.

use super::Etcd;
use super::attempts::Failure;
use crate::store::{StoreError, Transaction, Write};
use etcd_client::{Compare, CompareOp, Txn, TxnOp, TxnOpResponse};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// Of every key that a transaction is about: when it was last changed (0: it is not there), and its value.
type Seen = BTreeMap<String, (i64, Option<Vec<u8>>)>;

impl Etcd {
    pub(super) async fn write(&self, transaction: &Transaction) -> Result<bool, StoreError> {
        let end = Instant::now() + self.inner.retry;
        // What was seen before the first write whose fate is not known.
        let mut doubt: Option<Seen> = None;
        loop {
            let seen = self.see(transaction, left(end)).await.map_err(|failure| self.failed(failure))?;
            let value = |key: &str| seen.get(key).and_then(|(_, value)| value.as_deref());
            if let Some(before) = &doubt
                && *before != seen
            {
                if transaction.writes.iter().all(|write| write.is_in_place(value(write.key()))) {
                    return Ok(true);
                }
                if !transaction.conditions.is_empty() {
                    return Err(StoreError::Uncertain { place: crate::store::Store::place(self) });
                }
                // Somebody wrote after us or before: the last one, which we may be, is right.
                doubt = None;
            }
            if !transaction.conditions.iter().all(|condition| condition.holds(value(condition.key()))) {
                return Ok(false);
            }
            let answer = self.ask(left(end), |client| {
                let (mut kv, txn) = (client.kv_client(), self.bound(transaction, &seen));
                async move { kv.txn(txn).await }
            });
            match answer.await {
                Ok(answer) if answer.value.succeeded() => return Ok(true),
                // Somebody was faster, or we were ourselves.
                Ok(answer) => {
                    if answer.is_repeated {
                        doubt.get_or_insert(seen);
                    }
                    if left(end).is_zero() {
                        let (tried, last) = (self.inner.retry, "others kept writing the same keys".into());
                        return Err(self.failed(Failure::Unanswered { tried, last }));
                    }
                }
                Err(failure) => return Err(self.failed(failure)),
            }
        }
    }

    /// Reads all keys that a transaction is about, at one revision.
    async fn see(&self, transaction: &Transaction, patience: Duration) -> Result<Seen, Failure> {
        let conditions = transaction.conditions.iter().map(|condition| condition.key());
        let mut keys: Vec<&str> = conditions.chain(transaction.writes.iter().map(Write::key)).collect();
        keys.sort_unstable();
        keys.dedup();
        let reads: Vec<TxnOp> = keys.iter().map(|key| TxnOp::get(self.full(key), None)).collect();
        let answer = self.ask(patience, |client| {
            let (mut kv, txn) = (client.kv_client(), Txn::new().and_then(reads.clone()));
            async move { kv.txn(txn).await }
        });
        let answer = answer.await?.value;
        let found = answer.op_responses().into_iter().map(|response| match response {
            TxnOpResponse::Get(got) => got.kvs().first().map(|kv| (kv.mod_revision(), Some(kv.value().to_vec()))),
            _ => None,
        });
        Ok(keys.iter().map(|key| (*key).to_owned()).zip(found.map(|found| found.unwrap_or((0, None)))).collect())
    }

    /// The writes, on condition that nothing has changed since it was seen.
    fn bound(&self, transaction: &Transaction, seen: &Seen) -> Txn {
        let unchanged: Vec<Compare> = seen
            .iter()
            .map(|(key, (revision, _))| Compare::mod_revision(self.full(key), CompareOp::Equal, *revision))
            .collect();
        let writes: Vec<TxnOp> = transaction
            .writes
            .iter()
            .map(|write| match write {
                Write::Put { key, value } => TxnOp::put(self.full(key), value.clone(), None),
                Write::Delete { key } => TxnOp::delete(self.full(key), None),
            })
            .collect();
        Txn::new().when(unchanged).and_then(writes)
    }
}

fn left(end: Instant) -> Duration {
    end.saturating_duration_since(Instant::now())
}
