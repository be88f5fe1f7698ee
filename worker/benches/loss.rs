//! The loss kernel alone: 256 rows in chunks of 64, V = 3416 classes (the ML-1M shape), T = 4 peers, on one thread.
//! Throughput is in logits; the kernel overwrites them, so every round starts from a copy, measured beside it.
//!
//! Run with `cargo bench -p medley-worker --bench loss`.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use medley_worker::loss::{ChunkRows, Exclusivity, LossKernel, LossSpec, LossSums, SimdLevel};
use rand::{Rng, SeedableRng};

const ROWS: usize = 256;
const CHUNK: usize = 64;
const CATALOGUE: usize = 3416;

/// Logits of a peer that is neither ignorant nor certain.
fn logits(peers: usize) -> Vec<f32> {
    let mut random = rand::rngs::StdRng::seed_from_u64(1);
    (0..peers * CHUNK * CATALOGUE).map(|_| random.random_range(-4.0..4.0)).collect()
}

fn bench(criterion: &mut Criterion) {
    let peers = 4;
    let fresh = logits(peers);
    let mut work = fresh.clone();
    let targets: Vec<i64> = (0..CHUNK as i64).map(|row| row * 37).collect();
    let rows =
        ChunkRows { targets: &targets, weights: None, truncated: None, catalogue: CATALOGUE, scale: 1.0 / ROWS as f64 };
    let mut group = criterion.benchmark_group("loss");
    group.throughput(Throughput::Elements((peers * ROWS * CATALOGUE) as u64));
    group.sample_size(20);
    group.bench_function("copy", |bencher| {
        bencher.iter(|| {
            for _ in 0..ROWS / CHUNK {
                work.copy_from_slice(black_box(&fresh));
            }
        });
    });
    let specs = [
        ("ce", LossSpec::CrossEntropy),
        ("hail", LossSpec::Exclusivity(Exclusivity::hail(0.5, 1.0))),
        ("hail gamma 2", LossSpec::Exclusivity(Exclusivity::hail(0.5, 2.0))),
        ("peerrec stage 2", LossSpec::Exclusivity(Exclusivity::peerrec_stage2(0.5, 1.0))),
        ("mutual", LossSpec::Mutual { alpha: None }),
    ];
    for &level in SimdLevel::available().iter().rev() {
        let Ok(kernel) = LossKernel::with_level(level) else {
            continue;
        };
        for (name, spec) in &specs {
            group.bench_function(format!("{name}/{level:?}"), |bencher| {
                bencher.iter(|| {
                    let mut sums = LossSums::new(peers);
                    for _ in 0..ROWS / CHUNK {
                        work.copy_from_slice(&fresh);
                        kernel.losses_and_gradients(spec, &rows, &mut work, &mut sums).expect("the shapes fit");
                    }
                    sums
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
