//! A hundred simulated workers on one coordinator: nothing that they say is lost, and none of them is taken for dead. How
//! fast they are heard is for `make bench-heartbeats`, whose load this is.

#![allow(clippy::unwrap_used)]

#[path = "../benches/heartbeats/coordinate.rs"]
mod coordinate;
#[path = "../benches/heartbeats/load.rs"]
mod load;
#[path = "../benches/heartbeats/simulate.rs"]
mod simulate;

use coordinate::Coordinator;
use load::Load;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_heartbeat_of_a_hundred_workers_is_applied() {
    for is_aligned in [false, true] {
        let load = Load {
            workers: 100,
            heartbeat: Duration::from_millis(20),
            step: Duration::from_millis(100),
            steps: 5,
            is_aligned,
        };
        let directory = tempfile::tempdir().unwrap();
        let coordinator = Coordinator::listen(load).await;
        let (url, token) = (coordinator.url.clone(), coordinator.token.clone());
        let workers = tokio::spawn(async move { simulate::simulate(&url, &token, 0..load.workers, load).await });
        let handled = coordinator.run(directory.path()).await;
        let said = workers.await.unwrap();

        assert_eq!((handled.outcome.outcome.as_str(), handled.lost), ("completed", 0), "{:?}", handled.outcome);
        assert_eq!(handled.committed, load.steps);
        assert_eq!(handled.said, said);
        assert_eq!(said.steps, load.steps * u64::from(load.workers));
        // A worker beats all the while: at least four times between its first step and its last.
        assert!(said.heartbeats >= 4 * u64::from(load.workers), "{said:?}");
        assert_eq!(handled.handling.len(), handled.applying.len());
        assert!(handled.one_way.len() as u64 <= said.steps && !handled.one_way.is_empty());
        assert!(handled.handling.iter().zip(&handled.applying).all(|(whole, part)| whole >= part));
        assert!(handled.wall > Duration::ZERO && handled.processor > Duration::ZERO);
    }
}
