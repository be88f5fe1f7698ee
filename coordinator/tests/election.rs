//! Who leads, over leaders that die, hang, are cut off from the store, and come back.
#![allow(clippy::unwrap_used)]

use medley_common::config::{StoreConfig, StoreKind};
use medley_coordinator::election::{Candidate, KEY, Leader, Leaders};
use medley_coordinator::store::{self, Claim, Embedded, Leases, Store, StoreError, Transaction, Watch};
use medley_integration_tests::etcd::EtcdCluster;
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};
use tokio::time::timeout;

const LEASE: Duration = Duration::from_secs(2);

/// A lease, the half second between etcd's looks at which have run out, and room for a busy machine.
const TAKEOVER: Duration = Duration::from_millis(2000 + 500 + 2500);

const SOON: Duration = Duration::from_secs(20);

async fn open(cluster: &EtcdCluster) -> Arc<dyn Leases> {
    let config = StoreConfig { kind: StoreKind::Etcd, endpoints: cluster.endpoints(), ..StoreConfig::default() };
    store::open(&config, "unused".as_ref(), "job").await.unwrap()
}

fn candidate(store: Arc<dyn Leases>, name: &str) -> Candidate {
    Candidate::new(store, name, format!("http://{name}:7000"), LEASE)
}

async fn within<T>(limit: Duration, what: &str, future: impl Future<Output = T>) -> T {
    timeout(limit, future).await.unwrap_or_else(|_| panic!("{what} took longer than {limit:?}"))
}

/// What holds of an election over any store.
async fn contract(store: Arc<dyn Leases>) {
    let mut leaders = Leaders::of(store.as_ref()).await.unwrap();
    let first = within(SOON, "the only candidate", candidate(store.clone(), "a").campaign()).await.unwrap();
    assert!(first.is_held());
    let told: Leader = leaders.next().await.unwrap();
    assert_eq!((told.name.as_str(), told.address.as_str()), ("a", "http://a:7000"));

    let fenced = first.store();
    fenced.put("x", b"1").await.unwrap();
    assert!(fenced.transact(Transaction::new().equals("x", "1").put("x", "2")).await.unwrap());
    let unmet = Transaction::new().equals("x", "1").put("x", "3");
    assert!(!fenced.transact(unmet).await.unwrap(), "a condition that does not hold deposes nobody");
    fenced.put("y", b"1").await.unwrap();
    fenced.delete("y").await.unwrap();
    assert_eq!(fenced.list("").await.unwrap().len(), 2, "x and the leader's key");

    let second = candidate(store.clone(), "b");
    let campaign = second.campaign();
    tokio::pin!(campaign);
    assert!(timeout(Duration::from_millis(300), &mut campaign).await.is_err(), "there is one leader");
    let (term, lost) = (first.term(), first.lost());
    first.resign().await.unwrap();
    let second = within(LEASE, "taking over from a leader that resigned", campaign).await.unwrap();
    assert!(second.term() > term);
    assert_eq!(within(SOON, "hearing of it", lost).await, "it resigned");
    assert_eq!(leaders.next().await, None);
    assert_eq!(leaders.next().await.unwrap().name, "b");

    for write in [Transaction::new().put("x", "old"), Transaction::new().equals("x", "2").delete("x")] {
        assert!(matches!(fenced.transact(write).await, Err(StoreError::Deposed { .. })));
    }
    assert!(matches!(fenced.put("x", b"old").await, Err(StoreError::Deposed { .. })));
    assert_eq!(fenced.get("x").await.unwrap().unwrap(), b"2", "it may still look");
    second.store().put("x", b"new").await.unwrap();
    second.resign().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_election_over_the_embedded_store() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    contract(Arc::new(Embedded::open(&path).unwrap())).await;
    // A leader that was killed left its key; the file's lock says that it is gone.
    let store: Arc<dyn Leases> = Arc::new(open_soon(&path).await);
    let killed = candidate(store.clone(), "a").campaign().await.unwrap();
    let term = killed.term();
    drop((killed, store));
    let store = Arc::new(open_soon(&path).await);
    assert!(store.get(KEY).await.unwrap().is_some());
    let next = within(SOON, "the next process", candidate(store, "b").campaign()).await.unwrap();
    assert!(next.term() > term);
}

/// Opens a store that another task is about to close.
async fn open_soon(path: &std::path::Path) -> Embedded {
    let deadline = Instant::now() + SOON;
    loop {
        match Embedded::open(path) {
            Err(StoreError::InUse { .. }) if Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            opened => return opened.unwrap(),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_election_over_etcd() {
    if let Some(cluster) = EtcdCluster::start() {
        contract(open(&cluster).await).await;
    }
}

/// A store whose renewals hang while it is told to: a leader that is paused, or whose way to the store is cut.
struct Pausing {
    store: Arc<dyn Leases>,
    is_paused: AtomicBool,
}

#[tonic::async_trait]
impl Store for Pausing {
    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.store.get(key).await
    }
    async fn list(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        self.store.list(prefix).await
    }
    async fn transact(&self, transaction: Transaction) -> Result<bool, StoreError> {
        self.store.transact(transaction).await
    }
    async fn watch(&self, prefix: &str) -> Result<Watch, StoreError> {
        self.store.watch(prefix).await
    }
    fn place(&self) -> String {
        self.store.place()
    }
}

#[tonic::async_trait]
impl Leases for Pausing {
    async fn claim(&self, key: &str, value: &[u8], lease: Duration) -> Result<Option<Claim>, StoreError> {
        self.store.claim(key, value, lease).await
    }
    async fn renew(&self, claim: &Claim) -> Result<bool, StoreError> {
        match self.is_paused.load(Ordering::Relaxed) {
            true => std::future::pending().await,
            false => self.store.renew(claim).await,
        }
    }
    async fn release(&self, claim: &Claim) -> Result<(), StoreError> {
        match self.is_paused.load(Ordering::Relaxed) {
            true => std::future::pending().await,
            false => self.store.release(claim).await,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_cannot_renew_deposes_itself_before_anybody_can_take_over() {
    let Some(cluster) = EtcdCluster::start() else {
        return;
    };
    let pausing = Arc::new(Pausing { store: open(&cluster).await, is_paused: AtomicBool::new(false) });
    let first = candidate(pausing.clone(), "a").campaign().await.unwrap();
    // It keeps the lead while it can.
    tokio::time::sleep(3 * LEASE).await;
    assert!(first.is_held());
    let other = open(&cluster).await;
    let second = tokio::spawn(async move {
        let leadership = candidate(other, "b").campaign().await.unwrap();
        (leadership, Instant::now())
    });
    pausing.is_paused.store(true, Ordering::Relaxed);
    let paused = Instant::now();
    let reason = within(LEASE + Duration::from_millis(500), "noticing by its own clock", first.lost()).await;
    let noticed = Instant::now();
    assert!(reason.contains("lease"), "{reason}");
    let late = first.store().put("x", b"late").await;
    assert!(matches!(late, Err(StoreError::Deposed { .. })), "{late:?}");
    let (second, taken) = within(TAKEOVER, "taking over", second).await.unwrap();
    println!("deposed after {:?}, taken over after {:?}", noticed - paused, taken - paused);
    assert!(noticed < taken, "two thought that they led");
    assert!(second.term() > first.term());
    second.store().put("x", b"second").await.unwrap();
    assert!(first.store().put("x", b"late").await.is_err());
    assert_eq!(first.store().get("x").await.unwrap().unwrap(), b"second");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_passed_the_clock_is_refused_by_the_store() {
    let Some(cluster) = EtcdCluster::start() else {
        return;
    };
    let store = open(&cluster).await;
    let leadership = candidate(store.clone(), "a").campaign().await.unwrap();
    // Somebody else holds the key, and this leader has not heard of it.
    store.put(KEY, b"{\"name\":\"b\",\"address\":\"\",\"identity\":\"b\"}").await.unwrap();
    let refused = leadership.store().put("x", b"1").await;
    assert!(matches!(refused, Err(StoreError::Deposed { .. })), "{refused:?}");
    assert_eq!(store.get("x").await.unwrap(), None, "nothing was written");
    within(SOON, "hearing of it", leadership.lost()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lead_survives_a_lost_member_and_comes_back_after_a_restart_of_all() {
    let Some(mut cluster) = EtcdCluster::start() else {
        return;
    };
    let store = open(&cluster).await;
    // A member's loss with a new election among the members takes etcd two seconds; a lease must outlive that.
    let candidate = Candidate::new(store, "a", "http://a:7000", Duration::from_secs(6));
    let first = candidate.campaign().await.unwrap();
    for is_killed in [true, false] {
        let member = cluster.leader();
        if is_killed {
            cluster.kill(member)
        } else {
            cluster.stop(member)
        }
        tokio::time::sleep(Duration::from_secs(7)).await;
        assert!(first.is_held(), "lost with a member (killed: {is_killed})");
        if is_killed {
            cluster.launch(member)
        } else {
            cluster.cont(member)
        }
        cluster.wait();
    }
    first.store().put("x", b"1").await.unwrap();
    for member in 0..3 {
        cluster.kill(member);
    }
    within(Duration::from_secs(7), "noticing", first.lost()).await;
    let again = tokio::spawn(async move { candidate.campaign().await });
    tokio::time::sleep(Duration::from_secs(1)).await;
    (0..3).for_each(|member| cluster.launch(member));
    let again = within(Duration::from_secs(30), "leading again", again).await.unwrap().unwrap();
    assert!(again.term() > first.term());
    assert_eq!(again.store().get("x").await.unwrap().unwrap(), b"1");
}

/// One process of `examples/candidate.rs`.
struct Process {
    child: Child,
    lines: Receiver<(Instant, String)>,
}

impl Process {
    fn start(cluster: &EtcdCluster, name: &str) -> Self {
        let test = std::env::current_exe().unwrap();
        let program = test.parent().unwrap().parent().unwrap().join("examples/candidate");
        assert!(program.is_file(), "{} is missing: cargo build --examples", program.display());
        let mut child = Command::new(program)
            .args([name, "job", &LEASE.as_millis().to_string()])
            .args(cluster.endpoints())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send((Instant::now(), line)).is_err() {
                    return;
                }
            }
        });
        Self { child, lines }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// The first line from now on that begins with a word, and what follows the word.
    fn wait(&self, word: &str, limit: Duration) -> Option<(Instant, String)> {
        let end = Instant::now() + limit;
        loop {
            let (time, line) = self.lines.recv_timeout(end.saturating_duration_since(Instant::now())).ok()?;
            assert!(!line.starts_with("UNFENCED"), "{line}");
            if let Some(rest) = line.strip_prefix(word) {
                return Some((time, rest.trim().to_owned()));
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until one of them leads: which, when, and in which term.
fn next_leader(processes: &[Process], limit: Duration) -> (usize, Instant, u64) {
    let end = Instant::now() + limit;
    while Instant::now() < end {
        for (at, process) in processes.iter().enumerate() {
            if let Some((time, term)) = process.wait("leads", Duration::from_millis(10)) {
                return (at, time, term.parse().unwrap());
            }
        }
    }
    panic!("nobody took the lead within {limit:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaders_that_are_killed_or_stopped_are_followed_by_the_next() {
    let Some(cluster) = EtcdCluster::start() else {
        return;
    };
    let store = open(&cluster).await;
    let names = ["a", "b", "c"];
    let mut processes: Vec<Process> = names.iter().map(|name| Process::start(&cluster, name)).collect();
    let (mut leader, _, mut term) = next_leader(&processes, SOON);
    for round in 0..4 {
        processes[leader].wait("wrote", SOON).expect("a leader writes");
        let counted: u64 = number(store.as_ref(), "count").await;
        let is_killed = round % 2 == 0;
        processes[leader].signal(if is_killed { Signal::KILL } else { Signal::STOP });
        let gone = Instant::now();
        let (next, time, next_term) = next_leader(&processes, SOON);
        assert_ne!(next, leader, "round {round}");
        assert!(next_term > term, "terms only grow: {next_term} after {term}");
        println!("round {round}: the next leads after {:?}", time - gone);
        assert!(time - gone < TAKEOVER, "the next took over after {:?}", time - gone);
        processes[next].wait("wrote", SOON).expect("the next leader writes");
        if is_killed {
            processes[leader] = Process::start(&cluster, names[leader]);
        } else {
            // It wakes up in the middle of writing, and its lease is over.
            let before: u64 = number(store.as_ref(), &format!("by/{}", names[leader])).await;
            processes[leader].signal(Signal::CONT);
            assert!(processes[leader].wait("refused", SOON).is_some(), "the old leader does not write");
            let after: u64 = number(store.as_ref(), &format!("by/{}", names[leader])).await;
            assert_eq!(before, after, "the old leader wrote");
        }
        assert!(number(store.as_ref(), "count").await > counted, "nothing of what was counted is lost");
        (leader, term) = (next, next_term);
    }
}

async fn number(store: &dyn Store, key: &str) -> u64 {
    store.get(key).await.unwrap().and_then(|text| String::from_utf8(text).ok()?.parse().ok()).unwrap_or(0)
}
