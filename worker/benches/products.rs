//! Matrix products of a step in float32 and in bfloat16, on one thread: those of a layer on a block of 256 tokens, of
//! attention over 200 positions, and of the prediction layer on a chunk of 128 rows. 10⁹ of criterion's elements a
//! second are GFLOP/s.
//!
//! Run with `cargo bench -p medley-worker --bench products`; processors without AVX-512 BF16 measure float32 alone.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use medley_common::config::Precision;
use medley_worker::matrix::{Matrix, MatrixMut, Write, has_bfloat16, product};
use rand::{Rng, SeedableRng};
use std::time::Duration;

/// Which factor lies transposed in memory.
#[derive(Clone, Copy, PartialEq)]
enum Flipped {
    None,
    Left,
    Right,
}

/// `[rows, inner]` by `[inner, columns]`.
const PRODUCTS: [(&str, [usize; 3], Flipped); 11] = [
    ("projection", [256, 64, 192], Flipped::Right),
    ("feed-forward in", [256, 64, 256], Flipped::Right),
    ("feed-forward out", [256, 256, 64], Flipped::Right),
    ("feed-forward back", [256, 256, 64], Flipped::None),
    ("weight gradient", [256, 256, 64], Flipped::Left),
    ("scores", [200, 32, 200], Flipped::Right),
    ("weights by values", [200, 200, 32], Flipped::None),
    ("values' gradient", [200, 200, 32], Flipped::Left),
    ("logits", [128, 65, 3416], Flipped::Right),
    ("logits back", [128, 3416, 64], Flipped::None),
    ("item gradient", [3416, 128, 64], Flipped::Left),
];

fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut random = rand::rngs::StdRng::seed_from_u64(seed);
    (0..count).map(|_| random.random_range(-1.0..1.0)).collect()
}

fn bench(criterion: &mut Criterion) {
    let mut precisions = vec![Precision::Float32];
    if has_bfloat16() {
        precisions.push(Precision::Bfloat16);
    }
    for (name, [rows, inner, columns], flipped) in PRODUCTS {
        let (left, right) = (numbers(rows * inner, 1), numbers(inner * columns, 2));
        let left = match flipped {
            Flipped::Left => Matrix::new(&left, inner, rows).transposed(),
            _ => Matrix::new(&left, rows, inner),
        };
        let right = match flipped {
            Flipped::Right => Matrix::new(&right, columns, inner).transposed(),
            _ => Matrix::new(&right, inner, columns),
        };
        let write = if flipped == Flipped::Left { Write::Add } else { Write::Over };
        let mut values = vec![0.0; rows * columns];
        let mut group = criterion.benchmark_group(format!("{name} {rows}x{inner}x{columns}"));
        group.throughput(Throughput::Elements(2 * (rows * inner * columns) as u64));
        group.warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_millis(500)).sample_size(20);
        for precision in &precisions {
            group.bench_function(precision.as_str(), |bencher| {
                bencher.iter(|| {
                    product(*precision, &mut MatrixMut::new(&mut values, rows, columns), write, left, right);
                });
            });
        }
        group.finish();
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
