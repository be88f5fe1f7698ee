//! Groups of threads over loopback, for the tests of the TCP collective: in plain text, or encrypted in test binaries
//! whose name says so, which include the tests of others.

// Each test binary uses its own part of this.
#![allow(dead_code)]

#[path = "../authority/mod.rs"]
pub mod authority;

use std::sync::{Condvar, LazyLock, Mutex};
use std::thread;
use std::time::Duration;

use medley_common::certificates::{Certificates, Role};
use medley_worker::collective::{
    AbortHandle, Collective, CollectiveError, Listener, Membership, Options, TcpCollective,
};

/// Far below the default deadline of 30 s, far above what a busy machine needs.
pub const AT_ONCE: Duration = Duration::from_secs(15);
/// Ends what should never wait that long.
pub const LONG: Duration = Duration::from_secs(60);

/// Counts arrivals, and lets others wait for them.
#[derive(Default)]
pub struct Gate {
    count: Mutex<usize>,
    changed: Condvar,
}

impl Gate {
    pub fn arrive(&self) {
        *self.count.lock().unwrap() += 1;
        self.changed.notify_all();
    }

    pub fn count(&self) -> usize {
        *self.count.lock().unwrap()
    }

    pub fn wait_for(&self, wanted: usize) {
        let count = self.count.lock().unwrap();
        let (_count, outcome) = self.changed.wait_timeout_while(count, LONG, |count| *count < wanted).unwrap();
        assert!(!outcome.timed_out(), "the others did not arrive");
    }
}

/// A worker's certificates, where this test binary's groups have some.
fn certificates() -> Option<&'static Certificates> {
    static OWN: LazyLock<Option<Certificates>> = LazyLock::new(|| {
        let is_encrypted = env!("CARGO_CRATE_NAME").ends_with("_encrypted");
        is_encrypted.then(|| authority::load(&authority::authority(), Role::Worker))
    });
    OWN.as_ref()
}

pub fn bind() -> Listener {
    Listener::bind_with("127.0.0.1:0", certificates()).unwrap()
}

pub fn listeners(world_size: usize) -> (Vec<Listener>, Vec<String>) {
    let listeners: Vec<Listener> = (0..world_size).map(|_| bind()).collect();
    let addresses = listeners.iter().map(|listener| listener.local_addr().to_string()).collect();
    (listeners, addresses)
}

pub fn membership(rank: usize, addresses: &[String]) -> Membership {
    Membership {
        job: "test".to_owned(),
        generation: 7,
        rank,
        addresses: addresses.to_vec(),
        secret: b"of generation 7".to_vec(),
    }
}

pub fn connect_as(listener: &Listener, membership: &Membership) -> Result<TcpCollective, CollectiveError> {
    TcpCollective::connect(listener, membership, &Options::default(), AbortHandle::new())
}

pub fn connect(listener: &Listener, rank: usize, addresses: &[String]) -> Result<TcpCollective, CollectiveError> {
    connect_as(listener, &membership(rank, addresses))
}

/// Forms a group and runs `body` on every rank; the results are by rank.
pub fn run<T: Send>(world_size: usize, body: impl Fn(TcpCollective) -> T + Sync) -> Vec<T> {
    let (listeners, addresses) = listeners(world_size);
    each_rank(world_size, |rank| body(connect(&listeners[rank], rank, &addresses).unwrap()))
}

pub fn each_rank<T: Send>(world_size: usize, body: impl Fn(usize) -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let body = &body;
        let ranks: Vec<_> = (0..world_size).map(|rank| scope.spawn(move || body(rank))).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

/// What rank `from` has for rank `to`: values that tell both and the place.
pub fn part(from: usize, to: usize, length: usize) -> Vec<f32> {
    let value = |index| (from * 1_000 + to * 100) as f32 + (index % 97) as f32 / 8.0;
    (0..length).map(value).collect()
}

/// An all-to-all of [`part`]s whose lengths are a function of sender and receiver; what arrived, by sender.
pub fn all_to_all(
    group: &mut TcpCollective,
    length: impl Fn(usize, usize) -> usize,
) -> Result<Vec<Vec<f32>>, CollectiveError> {
    let (rank, ranks) = (group.rank(), 0..group.world_size());
    let send: Vec<_> = ranks.clone().map(|to| part(rank, to, length(rank, to))).collect();
    let send: Vec<&[f32]> = send.iter().map(Vec::as_slice).collect();
    let mut received: Vec<_> = ranks.map(|from| vec![f32::NAN; length(from, rank)]).collect();
    let mut receive: Vec<&mut [f32]> = received.iter_mut().map(Vec::as_mut_slice).collect();
    group.all_to_all(&send, &mut receive)?;
    Ok(received)
}

/// An all-gather of [`part`]s for rank 0 whose lengths are a function of the sender; what arrived, by sender.
pub fn all_gather(
    group: &mut TcpCollective,
    length: impl Fn(usize) -> usize,
) -> Result<Vec<Vec<f32>>, CollectiveError> {
    let (rank, ranks) = (group.rank(), 0..group.world_size());
    let mut received: Vec<_> = ranks.map(|from| vec![f32::NAN; length(from)]).collect();
    let mut receive: Vec<&mut [f32]> = received.iter_mut().map(Vec::as_mut_slice).collect();
    group.all_gather(&part(rank, 0, length(rank)), &mut receive)?;
    Ok(received)
}
