//! A coordinator in small: runs for the lead of a job and, while it leads, counts in the job's store. It shows how a
//! program uses the election, and the tests of the election run several of it.
//!
//!     candidate NAME JOB LEASE_MS ENDPOINT...
//!
//! Each line that it prints says what happened: `leads TERM`, `wrote NUMBER`, `lost REASON`, `refused ERROR`.

use medley_common::config::{StoreConfig, StoreKind};
use medley_coordinator::election::{Candidate, Leadership};
use medley_coordinator::store::{self, StoreError};
use std::path::Path;
use std::time::Duration;

/// Between writes.
const PAUSE: Duration = Duration::from_millis(20);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, name, job, lease_ms, endpoints @ ..] = arguments.as_slice() else {
        return Err("candidate NAME JOB LEASE_MS ENDPOINT...".into());
    };
    let lease_ms = lease_ms.parse()?;
    let config =
        StoreConfig { kind: StoreKind::Etcd, endpoints: endpoints.to_vec(), lease_ms, ..StoreConfig::default() };
    let store = store::open(&config, Path::new(""), job).await?;
    let candidate = Candidate::new(store, name, format!("http://{name}:7000"), Duration::from_millis(lease_ms));
    loop {
        let leadership = candidate.campaign().await?;
        println!("leads {}", leadership.term());
        tokio::select! {
            reason = leadership.lost() => println!("lost {reason}"),
            error = count(name, &leadership) => println!("refused {error}"),
        }
        // What is left over of a leadership is good for nothing.
        match leadership.store().put("count", name.as_bytes()).await {
            Err(error @ StoreError::Deposed { .. }) => println!("refused {error}"),
            other => println!("UNFENCED {other:?}"),
        }
    }
}

/// Counts on from what the store has, until it may not write any more.
async fn count(name: &str, leadership: &Leadership) -> StoreError {
    let store = leadership.store();
    loop {
        let counted = async {
            let number = store.get("count").await?.and_then(|text| String::from_utf8(text).ok()?.parse().ok());
            let number: u64 = number.unwrap_or(0) + 1;
            store.put("count", number.to_string().as_bytes()).await?;
            store.put(&format!("by/{name}"), number.to_string().as_bytes()).await?;
            println!("wrote {number}");
            Ok(())
        };
        if let Err(error) = counted.await {
            return error;
        }
        tokio::time::sleep(PAUSE).await;
    }
}
