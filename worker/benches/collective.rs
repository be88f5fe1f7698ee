//! Time of one collective call between threads of this machine over loopback, which shows what the library itself
//! costs: copies, checksums, system calls and wake-ups. The size is what one rank sends to another (all-to-all) or the
//! length of the vector (all-reduce); throughput is what each rank sends.
//!
//! `cargo bench -p medley-worker --bench collective`

#![allow(missing_docs, clippy::unwrap_used)]

use std::thread;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use medley_worker::collective::{
    AbortHandle, Collective, Listener, Membership, Options, TcpCollective, parts, parts_mut,
};

const SIZES: [(&str, usize); 3] = [("1 KB", 1 << 10), ("1 MB", 1 << 20), ("10 MB", 10 << 20)];

fn all_to_all(criterion: &mut Criterion) {
    bench(
        criterion,
        "all_to_all",
        |world_size, bytes| (world_size - 1) * bytes,
        |group, bytes| {
            let lengths = vec![bytes / 4; group.world_size()];
            let send = vec![1.0; lengths.iter().sum()];
            let mut receive = send.clone();
            Box::new(move |group| {
                let mut receive = parts_mut(&mut receive, &lengths);
                group.all_to_all(&parts(&send, &lengths), &mut receive).unwrap();
            })
        },
    );
}

fn all_reduce(criterion: &mut Criterion) {
    bench(
        criterion,
        "all_reduce_sum",
        |world_size, bytes| 2 * (world_size - 1) * bytes / world_size,
        |_, bytes| {
            let mut values = vec![0.0; bytes / 4];
            Box::new(move |group| group.all_reduce_sum(&mut values).unwrap())
        },
    );
}

type Call = Box<dyn FnMut(&mut TcpCollective)>;

/// Measures a call, made ready by `prepare` on each rank, for all group sizes and message sizes.
fn bench(
    criterion: &mut Criterion,
    name: &str,
    sent_bytes: impl Fn(usize, usize) -> usize,
    prepare: fn(&TcpCollective, usize) -> Call,
) {
    let mut cases = criterion.benchmark_group(name);
    cases.sample_size(10).measurement_time(Duration::from_secs(2));
    for world_size in [2, 4] {
        for (label, bytes) in SIZES {
            cases.throughput(Throughput::Bytes(sent_bytes(world_size, bytes) as u64));
            let id = BenchmarkId::new(format!("{world_size} ranks"), label);
            cases.bench_function(id, |bencher| {
                bencher.iter_custom(|calls| {
                    run(world_size, |mut group| {
                        let mut call = prepare(&group, bytes);
                        call(&mut group);
                        group.barrier().unwrap();
                        let started = Instant::now();
                        (0..calls).for_each(|_| call(&mut group));
                        started.elapsed()
                    })
                });
            });
        }
    }
}

/// Runs `body` on every rank of a fresh group; the longest time of all.
fn run(world_size: usize, body: impl Fn(TcpCollective) -> Duration + Sync) -> Duration {
    let listeners: Vec<_> = (0..world_size).map(|_| Listener::bind("127.0.0.1:0").unwrap()).collect();
    let addresses: Vec<_> = listeners.iter().map(|listener| listener.local_addr().to_string()).collect();
    thread::scope(|scope| {
        let (body, addresses) = (&body, &addresses);
        let ranks: Vec<_> = listeners
            .iter()
            .enumerate()
            .map(|(rank, listener)| {
                scope.spawn(move || {
                    let membership = Membership {
                        job: "bench".to_owned(),
                        generation: 1,
                        rank,
                        addresses: addresses.clone(),
                        secret: b"bench".to_vec(),
                    };
                    let options = Options::default();
                    let abort = AbortHandle::new();
                    body(TcpCollective::connect(listener, &membership, &options, abort).unwrap())
                })
            })
            .collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).max().unwrap_or_default()
    })
}

criterion_group!(benches, all_to_all, all_reduce);
criterion_main!(benches);
