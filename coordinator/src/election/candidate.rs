//! Running for the lead.

use super::record::{KEY, Leader};
use super::{Leadership, clock};
use crate::random;
use crate::store::{Change, Leases, StoreError, Watch};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// Between attempts while the store does not answer.
const PAUSE: Duration = Duration::from_millis(200);

/// A coordinator that would lead a job.
#[derive(Clone)]
pub struct Candidate {
    store: Arc<dyn Leases>,
    name: String,
    address: String,
    lease: Duration,
}

impl Candidate {
    /// A candidate for the lead of the job that a store belongs to. `name` is for people; at `address` workers and
    /// other coordinators reach it. `lease` is `store.lease_ms`.
    pub fn new(store: Arc<dyn Leases>, name: impl Into<String>, address: impl Into<String>, lease: Duration) -> Self {
        Self { store, name: name.into(), address: address.into(), lease }
    }

    /// Waits until this candidate leads. A store that does not answer is waited for. May be called again once the
    /// leadership is lost; dropping the future withdraws the candidate.
    ///
    /// # Errors
    /// Those of the store that do not pass by themselves, such as refused credentials.
    pub async fn campaign(&self) -> Result<Leadership, StoreError> {
        let identity = random::hex(16)
            .map_err(|source| StoreError::Broken { path: "/dev/urandom".into(), source: Box::new(source) })?;
        let leader = Leader { name: self.name.clone(), address: self.address.clone(), identity };
        let value = serde_json::to_vec(&leader).expect("a leader has string keys only");
        let mut watch = None;
        loop {
            match self.attempt(&value, &mut watch).await {
                Ok(Some(leadership)) => return Ok(leadership),
                Ok(None) => {}
                Err(error) if error.is_passing() => {
                    tracing::warn!("{} waits for the store to run for the lead: {error}", self.name);
                    sleep(PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Claims the lead, or waits until it may be free.
    async fn attempt(&self, value: &[u8], watch: &mut Option<Watch>) -> Result<Option<Leadership>, StoreError> {
        let watch = match watch {
            Some(watch) => watch,
            none => none.insert(self.store.watch(KEY).await?),
        };
        if let Some(claim) = self.store.claim(KEY, value, self.lease).await? {
            return Ok(Some(Leadership::begin(self.store.clone(), claim, clock::now())));
        }
        // A watch tells the end of every lease; waiting has an end all the same.
        let freed = async {
            while let Some(change) = watch.next().await {
                if matches!(&change, Change::Deleted { key } if key == KEY) {
                    return;
                }
            }
            sleep(self.lease).await;
        };
        let _ = timeout(2 * self.lease, freed).await;
        Ok(None)
    }
}
