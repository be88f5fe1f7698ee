//! Keeping the lead, and knowing when it is lost.

use super::clock;
use super::fenced::Fenced;
use super::timing::{Step, Timing};
use crate::random;
use crate::store::{Claim, Leases, Store, StoreError};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// For how long a key is looked at that needs no renewal, in case it goes all the same.
const LOOK: Duration = Duration::from_secs(1);

/// The lead of a job, from when it was won until it is lost, resigned or dropped. Dropped without
/// [`resign`](Self::resign) it is not renewed any more, and free for others when its lease has run out.
pub struct Leadership {
    store: Arc<dyn Leases>,
    fenced: Arc<dyn Store>,
    hold: Arc<Hold>,
    renewals: JoinHandle<()>,
}

impl Leadership {
    pub(super) fn begin(store: Arc<dyn Leases>, claim: Claim, now: Duration) -> Self {
        let timing = claim.lease.map(|lease| Timing::new(lease, claim.since, now, jitter()));
        let ends = timing.as_ref().map_or(Duration::MAX, Timing::ends);
        let hold = Arc::new(Hold { claim, lost: watch::Sender::new(None), ends: AtomicU64::new(nanoseconds(ends)) });
        let upcast: Arc<dyn Store> = store.clone();
        let fenced = Arc::new(Fenced::new(upcast, hold.clone()));
        let renewals = tokio::spawn(keep(store.clone(), hold.clone(), timing));
        Self { store, fenced, hold, renewals }
    }

    /// Grows with every leadership of the job, whoever's: of two leaders the one with the larger term is the later.
    pub fn term(&self) -> u64 {
        self.hold.claim.term
    }

    /// The store as this leader may write it: a write is carried out only while it leads, and fails with
    /// [`StoreError::Deposed`] otherwise. May outlive the leadership.
    pub fn store(&self) -> Arc<dyn Store> {
        self.fenced.clone()
    }

    /// Whether it leads, by its own clock.
    pub fn is_held(&self) -> bool {
        self.hold.check().is_ok()
    }

    /// Waits until the lead is lost, and says why. It is lost for good then; [`super::Candidate::campaign`] again.
    pub fn lost(&self) -> impl Future<Output = String> + Send + 'static {
        let mut lost = self.hold.lost.subscribe();
        async move {
            match lost.wait_for(Option::is_some).await {
                Ok(reason) => reason.clone().unwrap_or_default(),
                Err(_) => "the leadership was dropped".into(),
            }
        }
    }

    /// Gives the lead up, so that another candidate need not wait for the lease to run out.
    ///
    /// # Errors
    /// Those of the store; the lead is given up all the same, and free when the lease has run out.
    pub async fn resign(self) -> Result<(), StoreError> {
        // First of all nothing is written any more.
        self.hold.lose("it resigned");
        self.store.release(&self.hold.claim).await
    }
}

impl Drop for Leadership {
    fn drop(&mut self) {
        // In this order: a lead that is lost is let go of, and one that is dropped is not.
        self.renewals.abort();
        self.hold.lose("it was dropped");
    }
}

/// What a leader holds, and whether it still does.
pub(super) struct Hold {
    claim: Claim,
    /// Why it is lost.
    lost: watch::Sender<Option<String>>,
    /// When it may have ended, in nanoseconds of [`clock::now`]; the largest number: never.
    ends: AtomicU64,
}

impl Hold {
    pub fn claim(&self) -> &Claim {
        &self.claim
    }

    /// # Errors
    /// [`StoreError::Deposed`] when it is lost, or may be by the clock, whether anybody has noticed or not.
    pub fn check(&self) -> Result<(), StoreError> {
        let ends = self.ends.load(Ordering::Acquire);
        if ends != u64::MAX && nanoseconds(clock::now()) >= ends {
            self.lose(RAN_OUT);
        }
        match &*self.lost.borrow() {
            None => Ok(()),
            Some(reason) => Err(StoreError::Deposed { reason: reason.clone() }),
        }
    }

    /// The first reason stands.
    pub fn lose(&self, reason: &str) {
        self.lost.send_if_modified(|lost| {
            let is_first = lost.is_none();
            if is_first {
                *lost = Some(reason.to_owned());
            }
            is_first
        });
    }
}

const RAN_OUT: &str = "its lease could not be renewed in time";

/// Renews until the lead is lost, and then lets go of it.
async fn keep(store: Arc<dyn Leases>, hold: Arc<Hold>, timing: Option<Timing>) {
    match timing {
        Some(timing) => renew(store.as_ref(), &hold, timing).await,
        None => look(store.as_ref(), &hold).await,
    }
    // Nobody need wait for the rest of the lease. If this fails, it runs out.
    if let Err(error) = store.release(&hold.claim).await {
        tracing::debug!("the lost lead's lease runs out by itself: {error}");
    }
}

async fn renew(store: &dyn Leases, hold: &Hold, mut timing: Timing) {
    let mut lost = hold.lost.subscribe();
    loop {
        let now = clock::now();
        match timing.step(now) {
            Step::Deposed => return hold.lose(RAN_OUT),
            Step::Wait { until } => tokio::select! {
                () = tokio::time::sleep(until - now) => {}
                _ = lost.wait_for(Option::is_some) => return,
            },
            Step::Renew { limit } => {
                let renewal = timeout(limit, store.renew(&hold.claim)).await;
                let heard = clock::now();
                match renewal {
                    Ok(Ok(true)) => {
                        timing.renewed(now, heard, jitter());
                        hold.ends.store(nanoseconds(timing.ends()), Ordering::Release);
                    }
                    Ok(Ok(false)) => return hold.lose("the store holds the lead for it no more"),
                    Ok(Err(error)) => {
                        tracing::warn!("the lead could not be renewed: {error}");
                        timing.failed(heard, jitter());
                    }
                    Err(_) => {
                        tracing::warn!("the lead could not be renewed within {limit:?}");
                        timing.failed(heard, jitter());
                    }
                }
            }
        }
    }
}

/// Of a lead that does not run out.
async fn look(store: &dyn Leases, hold: &Hold) {
    let mut lost = hold.lost.subscribe();
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            _ = lost.wait_for(Option::is_some) => return,
        }
        if matches!(store.renew(&hold.claim).await, Ok(false)) {
            return hold.lose("the store holds the lead for it no more");
        }
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// A random number in [0, 1); without a source of them the middle, for renewing matters more.
fn jitter() -> f64 {
    random::bytes(1).map_or(0.5, |bytes| f64::from(bytes[0]) / 256.0)
}
