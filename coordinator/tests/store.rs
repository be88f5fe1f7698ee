//! What every store promises, asked of each of them.
#![allow(clippy::unwrap_used)]

use medley_common::config::{StoreConfig, StoreKind};
use medley_coordinator::store::{self, Change, Leases, Transaction, Watch};
use medley_integration_tests::etcd::EtcdCluster;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(20);
const LEASE: Duration = Duration::from_secs(2);

fn put(key: &str, value: &str) -> Change {
    Change::Put { key: key.into(), value: value.into() }
}

fn deleted(key: &str) -> Change {
    Change::Deleted { key: key.into() }
}

async fn next(watch: &mut Watch) -> Change {
    timeout(SOON, watch.next()).await.expect("a change is told soon").expect("the store is open")
}

async fn keys_and_values(store: &dyn Leases) {
    assert_eq!(store.get("job").await.unwrap(), None);
    assert!(store.list("").await.unwrap().is_empty());
    for (key, value) in [("worker/1", "b"), ("job", "x"), ("worker/0", "a"), ("workers", "c"), ("job", "y")] {
        store.put(key, value.as_bytes()).await.unwrap();
    }
    assert_eq!(store.get("job").await.unwrap().unwrap(), b"y");
    let expected = [("worker/0".to_owned(), b"a".to_vec()), ("worker/1".into(), b"b".to_vec())];
    assert_eq!(store.list("worker/").await.unwrap(), expected);
    assert_eq!(store.list("").await.unwrap().len(), 4);
    store.delete("worker/0").await.unwrap();
    store.delete("worker/0").await.unwrap();
    assert_eq!(store.list("worker/").await.unwrap(), expected[1..]);
    store.put("empty", b"").await.unwrap();
    assert_eq!(store.get("empty").await.unwrap().unwrap(), b"");
}

async fn transactions(store: &dyn Leases) {
    let new = Transaction::new().absent("t/a").put("t/a", "1").put("t/b", "1");
    assert!(store.transact(new.clone()).await.unwrap());
    assert!(!store.transact(new).await.unwrap());
    let swap = |from: &str, to: &str| Transaction::new().equals("t/a", from).put("t/a", to).delete("t/b");
    assert!(!store.transact(swap("2", "3")).await.unwrap());
    assert_eq!(store.list("t/").await.unwrap().len(), 2, "nothing of it was done");
    assert!(store.transact(swap("1", "2")).await.unwrap());
    assert_eq!(store.list("t/").await.unwrap(), [("t/a".into(), b"2".to_vec())]);
    assert!(!store.transact(Transaction::new().equals("t/none", "").put("t/none", "x")).await.unwrap());
    let partly = Transaction::new().equals("t/a", "2").absent("t/a").put("t/c", "x");
    assert!(!store.transact(partly).await.unwrap());
}

async fn nothing_is_lost_between_writers(store: Arc<dyn Leases>) {
    const WRITERS: u64 = 4;
    const EACH: u64 = 10;
    store.put("counter", b"0").await.unwrap();
    let count = |store: Arc<dyn Leases>| async move {
        for _ in 0..EACH {
            loop {
                let old = String::from_utf8(store.get("counter").await.unwrap().unwrap()).unwrap();
                let new = (old.parse::<u64>().unwrap() + 1).to_string();
                if store.transact(Transaction::new().equals("counter", old).put("counter", new)).await.unwrap() {
                    break;
                }
            }
        }
    };
    let writers: Vec<_> = (0..WRITERS).map(|_| tokio::spawn(count(store.clone()))).collect();
    for writer in writers {
        writer.await.unwrap();
    }
    assert_eq!(store.get("counter").await.unwrap().unwrap(), (WRITERS * EACH).to_string().as_bytes());
}

async fn watches(store: &dyn Leases) {
    store.put("w/a", b"1").await.unwrap();
    store.put("x", b"1").await.unwrap();
    let mut watch = store.watch("w/").await.unwrap();
    assert_eq!(next(&mut watch).await, put("w/a", "1"));
    store.put("x", b"2").await.unwrap();
    store.put("w/b", b"1").await.unwrap();
    store.put("w/b", b"2").await.unwrap();
    store.delete("w/a").await.unwrap();
    for change in [put("w/b", "1"), put("w/b", "2"), deleted("w/a")] {
        assert_eq!(next(&mut watch).await, change);
    }
    // Two of them are told the same.
    let mut other = store.watch("w/").await.unwrap();
    assert_eq!(next(&mut other).await, put("w/b", "2"));
    assert!(store.transact(Transaction::new().put("w/c", "1").delete("w/b")).await.unwrap());
    for watch in [&mut watch, &mut other] {
        let both = [next(watch).await, next(watch).await];
        assert!(both.contains(&put("w/c", "1")) && both.contains(&deleted("w/b")), "{both:?}");
    }
}

async fn claims(store: &dyn Leases) {
    let mut watch = store.watch("leader").await.unwrap();
    let first = store.claim("leader", b"one", LEASE).await.unwrap().unwrap();
    assert_eq!(store.get("leader").await.unwrap().unwrap(), b"one");
    assert_eq!(store.claim("leader", b"two", LEASE).await.unwrap(), None);
    assert!(store.renew(&first).await.unwrap());
    store.release(&first).await.unwrap();
    assert_eq!(store.get("leader").await.unwrap(), None);
    assert!(!store.renew(&first).await.unwrap());
    let second = store.claim("leader", b"two", LEASE).await.unwrap().unwrap();
    assert!(second.term > first.term);
    // What the first has done with is not the second's.
    store.release(&first).await.unwrap();
    assert!(store.renew(&second).await.unwrap());
    store.release(&second).await.unwrap();
    for change in [put("leader", "one"), deleted("leader"), put("leader", "two"), deleted("leader")] {
        assert_eq!(next(&mut watch).await, change);
    }
}

async fn contract(open: impl AsyncFn(&str) -> Arc<dyn Leases>) {
    keys_and_values(open("keys").await.as_ref()).await;
    transactions(open("transactions").await.as_ref()).await;
    nothing_is_lost_between_writers(open("writers").await).await;
    watches(open("watches").await.as_ref()).await;
    claims(open("claims").await.as_ref()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_embedded_store_keeps_the_contract() {
    let directory = tempfile::tempdir().unwrap();
    contract(async |job| {
        let file = directory.path().join(format!("{job}.redb"));
        store::open(&StoreConfig::default(), &file, job).await.unwrap()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_keeps_the_contract_and_jobs_apart() {
    let Some(cluster) = EtcdCluster::start() else {
        return;
    };
    let config = StoreConfig { kind: StoreKind::Etcd, endpoints: cluster.endpoints(), ..StoreConfig::default() };
    contract(async |job| store::open(&config, "unused".as_ref(), job).await.unwrap()).await;
    let mut jobs: Vec<String> = Vec::new();
    for line in String::from_utf8(cluster.ctl(&["get", "", "--prefix", "--keys-only"]).stdout).unwrap().lines() {
        let key = line.strip_prefix("/medley/");
        jobs.extend(key.and_then(|key| key.split_once('/')).map(|(job, _)| job.to_owned()));
    }
    jobs.dedup();
    assert_eq!(jobs, ["keys", "transactions", "watches", "writers"], "each job has its own keys");
    assert!(store::open(&config, "unused".as_ref(), "key").await.unwrap().list("").await.unwrap().is_empty());
}
