//! The shared store while members of a real etcd cluster die, hang, restart and forget.
#![allow(clippy::unwrap_used)]

use medley_common::config::{StoreConfig, StoreKind};
use medley_coordinator::store::{Change, Etcd, Store, StoreError, Transaction, Watch};
use medley_integration_tests::etcd::{EtcdCluster, MEMBERS};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// The longest that an operation may take when a member is lost: a new election among the members, which etcd's
/// default times bound by some two seconds, and room for a busy machine.
const BOUND: Duration = Duration::from_secs(8);

fn config(cluster: &EtcdCluster) -> StoreConfig {
    StoreConfig { kind: StoreKind::Etcd, endpoints: cluster.endpoints(), ..StoreConfig::default() }
}

async fn connect(cluster: &EtcdCluster) -> Etcd {
    Etcd::connect(&config(cluster), "job").await.unwrap()
}

/// Reads changes until what they tell is what the store has.
async fn converge(watch: &mut Watch, store: &Etcd, prefix: &str, told: &mut BTreeMap<String, Vec<u8>>) -> usize {
    let mut changes = 0;
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut present: BTreeMap<_, _> = store.list(prefix).await.unwrap().into_iter().collect();
    while *told != present {
        assert!(Instant::now() < deadline, "told {} keys, there are {}", told.len(), present.len());
        match timeout(Duration::from_secs(1), watch.next()).await {
            Ok(change) => {
                changes += 1;
                match change.unwrap() {
                    Change::Put { key, value } => drop(told.insert(key, value)),
                    Change::Deleted { key } => drop(told.remove(&key)),
                }
            }
            Err(_) => present = store.list(prefix).await.unwrap().into_iter().collect(),
        }
    }
    changes
}

/// Gets and puts until told to stop; returns how often, and the longest that one took.
async fn operate(store: Etcd, is_over: Arc<AtomicBool>) -> (u64, Duration) {
    let (mut number, mut longest) = (0_u64, Duration::ZERO);
    while !is_over.load(Ordering::Relaxed) {
        number += 1;
        let value = number.to_string();
        let begun = Instant::now();
        store.put("operated", value.as_bytes()).await.unwrap();
        longest = longest.max(begun.elapsed());
        let begun = Instant::now();
        assert_eq!(store.get("operated").await.unwrap().unwrap(), value.as_bytes());
        longest = longest.max(begun.elapsed());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    (number, longest)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_member_interrupts_nothing_for_long() {
    let Some(mut cluster) = EtcdCluster::start() else {
        return;
    };
    let store = connect(&cluster).await;
    let mut watch = store.watch("").await.unwrap();
    let is_over = Arc::new(AtomicBool::new(false));
    let operations = tokio::spawn(operate(store.clone(), is_over.clone()));
    tokio::time::sleep(Duration::from_millis(500)).await;
    // The worst one to lose.
    let leader = cluster.leader();
    cluster.kill(leader);
    tokio::time::sleep(Duration::from_secs(4)).await;
    cluster.launch(leader);
    cluster.wait();
    // One that hangs answers nothing, and closes no connection.
    let leader = cluster.leader();
    cluster.stop(leader);
    tokio::time::sleep(Duration::from_secs(6)).await;
    cluster.cont(leader);
    tokio::time::sleep(Duration::from_secs(1)).await;
    is_over.store(true, Ordering::Relaxed);
    let (number, longest) = operations.await.unwrap();
    println!("{number} puts and gets, the longest took {longest:?}");
    assert!(longest < BOUND, "an operation took {longest:?}");
    assert!(number > 20, "only {number} puts and gets");
    converge(&mut watch, &store, "", &mut BTreeMap::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_restart_of_all_members_everything_is_there_and_goes_on() {
    let Some(mut cluster) = EtcdCluster::start() else {
        return;
    };
    let store = connect(&cluster).await;
    let mut watch = store.watch("").await.unwrap();
    let mut told = BTreeMap::new();
    store.put("before", b"1").await.unwrap();
    converge(&mut watch, &store, "", &mut told).await;
    (0..MEMBERS).for_each(|member| cluster.kill(member));
    // Asked while nobody is there to answer.
    let during = {
        let store = store.clone();
        tokio::spawn(async move { store.put("during", b"2").await })
    };
    let impatient = StoreConfig { retry_ms: 1000, ..config(&cluster) };
    let message = Etcd::connect(&impatient, "job").await.err().unwrap().to_string();
    assert!(message.contains("no etcd member answered within 1 s"), "{message}");
    (0..MEMBERS).for_each(|member| cluster.launch(member));
    during.await.unwrap().unwrap();
    assert_eq!(store.get("before").await.unwrap().unwrap(), b"1");
    store.put("after", b"3").await.unwrap();
    converge(&mut watch, &store, "", &mut told).await;
    assert_eq!(told.len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_happen_once_whatever_becomes_of_their_answers() {
    let Some(mut cluster) = EtcdCluster::start() else {
        return;
    };
    let store = connect(&cluster).await;
    store.put("counter", b"0").await.unwrap();
    let (is_over, done, uncertain) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let shared = Arc::new((is_over, done, uncertain));
    let count = |store: Etcd, shared: Arc<(AtomicBool, AtomicU64, AtomicU64)>, writer: u32| async move {
        let (is_over, done, uncertain) = &*shared;
        while !is_over.load(Ordering::Relaxed) {
            // The writer's name makes each value one that only it writes.
            let old = store.get("counter").await.unwrap().unwrap();
            let text = String::from_utf8(old.clone()).unwrap();
            let number: u64 = text.split(' ').next().unwrap().parse().unwrap();
            let new = format!("{} {writer}", number + 1);
            match store.transact(Transaction::new().equals("counter", old).put("counter", new)).await {
                Ok(true) => drop(done.fetch_add(1, Ordering::Relaxed)),
                Ok(false) => {}
                Err(StoreError::Uncertain { .. } | StoreError::Unavailable { .. }) => {
                    uncertain.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => panic!("{error}"),
            }
        }
    };
    let mut writers = Vec::new();
    for writer in 0..3 {
        writers.push(tokio::spawn(count(connect(&cluster).await, shared.clone(), writer)));
    }
    for _ in 0..2 {
        let leader = cluster.leader();
        cluster.stop(leader);
        tokio::time::sleep(Duration::from_millis(1500)).await;
        // What it was asked for before it was stopped comes late now.
        cluster.cont(leader);
        tokio::time::sleep(Duration::from_millis(700)).await;
        let leader = cluster.leader();
        cluster.kill(leader);
        tokio::time::sleep(Duration::from_millis(1500)).await;
        cluster.launch(leader);
        cluster.wait();
    }
    shared.0.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    let (done, uncertain) = (shared.1.load(Ordering::Relaxed), shared.2.load(Ordering::Relaxed));
    let text = String::from_utf8(store.get("counter").await.unwrap().unwrap()).unwrap();
    let counted: u64 = text.split(' ').next().unwrap().parse().unwrap();
    println!("{done} writes happened, {uncertain} may have, {counted} were counted");
    assert!(done > 20, "only {done} writes");
    assert!((done..=done + uncertain).contains(&counted), "{done} happened, {uncertain} may have, {counted} counted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_survives_the_compaction_of_what_it_has_not_heard() {
    const WRITES: usize = 6000;
    const KEYS: usize = 40;
    let Some(cluster) = EtcdCluster::start() else {
        return;
    };
    let store = connect(&cluster).await;
    let mut watch = store.watch("n/").await.unwrap();
    // Nobody reads the watch: what is written piles up until the member holds it back, to be sent later.
    let client = etcd_client::Client::connect(cluster.endpoints(), None).await.unwrap();
    let value = "x".repeat(4000);
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..KEYS {
        let (mut kv, value) = (client.kv_client(), value.clone());
        writers.spawn(async move {
            let mut revision = 0;
            for number in 0..WRITES / KEYS {
                let put = kv.put(format!("/medley/job/n/{writer}"), format!("{number} {value}"), None);
                revision = put.await.unwrap().header().unwrap().revision();
            }
            revision
        });
    }
    let revision = writers.join_all().await.into_iter().max().unwrap();
    store.delete("n/0").await.unwrap();
    client.kv_client().compact(revision, None).await.unwrap();
    // A moment for the member to find that the watch is behind what it still knows.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let changes = converge(&mut watch, &store, "n/", &mut BTreeMap::new()).await;
    println!("{changes} of {WRITES} changes were told");
    assert!(changes < WRITES, "all {changes} changes were told: nothing was compacted away");
    // It goes on.
    store.put("n/last", b"x").await.unwrap();
    let last = timeout(Duration::from_secs(10), watch.next()).await.unwrap();
    assert_eq!(last, Some(Change::Put { key: "n/last".into(), value: b"x".to_vec() }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_that_speak_tls_are_known_by_their_authority_and_know_us_by_our_certificate() {
    let Some(cluster) = EtcdCluster::start_secured() else {
        return;
    };
    let certificates = cluster.certificates().unwrap();
    let secured = StoreConfig {
        tls_ca: Some(certificates.authority.clone()),
        tls_certificate: Some(certificates.certificate.clone()),
        tls_key: Some(certificates.key.clone()),
        retry_ms: 2000,
        ..config(&cluster)
    };
    let store = Etcd::connect(&secured, "job").await.unwrap();
    let mut watch = store.watch("").await.unwrap();
    store.put("x", b"1").await.unwrap();
    assert_eq!(watch.next().await, Some(Change::Put { key: "x".into(), value: b"1".to_vec() }));
    let nameless = StoreConfig { tls_certificate: None, tls_key: None, ..secured.clone() };
    let foreign = StoreConfig { tls_ca: Some(certificates.another_authority.clone()), ..secured };
    for (refused, says) in [(nameless, "certificate"), (foreign, "certificate")] {
        let message = Etcd::connect(&refused, "job").await.err().unwrap().to_string();
        println!("{message}");
        assert!(message.to_lowercase().contains(says) && !message.contains('\n'), "{message}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_log_in_and_stay_logged_in_over_restarts() {
    let Some(mut cluster) = EtcdCluster::start() else {
        return;
    };
    let before = connect(&cluster).await;
    // Whatever this variable holds is the password; the other one holds something else.
    const RIGHT: &str = "HOME";
    const WRONG: &str = "PATH";
    let root = format!("root:{}", std::env::var(RIGHT).unwrap());
    for command in [
        &["user", "add", &root][..],
        &["role", "add", "root"],
        &["user", "grant-role", "root", "root"],
        &["auth", "enable"],
    ] {
        let output = cluster.ctl(command);
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let as_user = |user: &str, password_env: &str| StoreConfig {
        user: Some(user.into()),
        password_env: Some(password_env.into()),
        ..config(&cluster)
    };
    for refused in [config(&cluster), as_user("root", WRONG), as_user("absent", RIGHT)] {
        let begun = Instant::now();
        let error = Etcd::connect(&refused, "job").await.err().unwrap();
        assert!(matches!(error, StoreError::Refused { .. }), "{error}");
        let message = error.to_string();
        assert!(message.contains("store.user") && !message.contains('\n'), "{message}");
        assert!(begun.elapsed() < Duration::from_secs(10), "it is refused at once");
    }
    assert!(matches!(before.get("x").await, Err(StoreError::Refused { .. })));
    let store = Etcd::connect(&as_user("root", RIGHT), "job").await.unwrap();
    store.put("x", b"1").await.unwrap();
    // The members forget who has logged in.
    (0..MEMBERS).for_each(|member| cluster.kill(member));
    (0..MEMBERS).for_each(|member| cluster.launch(member));
    assert_eq!(store.get("x").await.unwrap().unwrap(), b"1");
    let mut watch = store.watch("").await.unwrap();
    assert_eq!(watch.next().await, Some(Change::Put { key: "x".into(), value: b"1".to_vec() }));
}
