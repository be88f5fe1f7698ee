//! Watching keys over lost members, restarts and compactions.
//!
//! Whatever ends the stream of changes, all keys are listed anew and what differs is told ([`View`]), so that nothing
//! depends on the history that etcd still has.

use super::Etcd;
use crate::store::watch::View;
use crate::store::{Change, StoreError, Watch};
use etcd_client::{Error, EventType, WatchOptions, WatchResponse, WatchStream};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

/// Between attempts to go on with a watch.
const PAUSE: Duration = Duration::from_millis(100);

impl Etcd {
    pub(super) async fn follow(&self, prefix: &str) -> Result<Watch, StoreError> {
        let mut present = Some(self.snapshot(prefix).await?);
        let (etcd, prefix) = (self.clone(), prefix.to_owned());
        Ok(Watch::start(move |told| async move {
            let mut view = View::default();
            loop {
                let Some((revision, entries)) = present.take() else {
                    present = match etcd.snapshot(&prefix).await {
                        Ok(present) => Some(present),
                        Err(error) => {
                            tracing::warn!("the watch of {prefix:?} waits: {error}");
                            sleep(PAUSE).await;
                            None
                        }
                    };
                    continue;
                };
                for change in view.replace(entries) {
                    if told.send(change).await.is_err() {
                        return;
                    }
                }
                match etcd.stream(&prefix, revision + 1, &mut view, &told).await {
                    Ended::Unheard => return,
                    Ended::Broken(why) => tracing::debug!("the watch of {prefix:?} begins anew: {why}"),
                }
                sleep(PAUSE).await;
            }
        }))
    }

    /// Tells changes from a revision on until the stream ends.
    async fn stream(&self, prefix: &str, from: i64, view: &mut View, told: &mpsc::Sender<Change>) -> Ended {
        let options = WatchOptions::new().with_prefix().with_start_revision(from);
        let mut client = self.client.watch_client();
        let limit = self.inner.request;
        let mut stream = match timeout(limit, client.watch(self.full(prefix), Some(options))).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Ended::Broken(error.to_string()),
            Err(_) => return Ended::Broken("no answer".into()),
        };
        loop {
            let response = match next(&mut stream, limit).await {
                Ok(response) => response,
                Err(why) => return Ended::Broken(why),
            };
            if response.canceled() {
                return Ended::Broken(match response.compact_revision() {
                    0 => format!("the member ended it ({})", response.cancel_reason()),
                    revision => format!("the history up to revision {revision} was compacted"),
                });
            }
            for event in response.events() {
                let Some((kv, key)) = event.kv().and_then(|kv| Some((kv, self.short(kv.key())?))) else {
                    continue;
                };
                let change = match event.event_type() {
                    EventType::Put => Change::Put { key, value: kv.value().to_vec() },
                    EventType::Delete => Change::Deleted { key },
                };
                if view.apply(&change) && told.send(change).await.is_err() {
                    return Ended::Unheard;
                }
            }
        }
    }
}

enum Ended {
    /// Nobody listens any more.
    Unheard,
    Broken(String),
}

/// The next response. A member that is silent for `limit` is asked for its progress, and given up when it is silent for
/// as long again: a stopped process keeps its connections.
async fn next(stream: &mut WatchStream, limit: Duration) -> Result<WatchResponse, String> {
    let told = |response: Result<Option<WatchResponse>, Error>| match response {
        Ok(Some(response)) => Ok(response),
        Ok(None) => Err("the member closed it".to_owned()),
        Err(error) => Err(error.to_string()),
    };
    if let Ok(response) = timeout(limit, stream.message()).await {
        return told(response);
    }
    stream.request_progress().await.map_err(|error| error.to_string())?;
    match timeout(limit, stream.message()).await {
        Ok(response) => told(response),
        Err(_) => Err("the member is silent".into()),
    }
}
