//! The fused prediction layer and loss at the ML-1M and Toys shapes, beside its three matrix products alone: logits, the way
//! back to the rows, and the way back to the weights. On one thread; `R` rows, `V` items, T = 4 peers (ML-1M) or 2 (Toys).
//!
//! Run with `cargo bench -p medley-worker --bench prediction`; `CHUNK_ROWS=n` tries another size of chunks.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use medley_common::config::Precision;
use medley_worker::exchange::{Prediction, PredictionParts};
use medley_worker::loss::{Exclusivity, LossSpec};
use medley_worker::matrix::{Matrix, MatrixMut, Write, product};
use rand::{Rng, SeedableRng};

const WIDTH: usize = 64;

fn numbers(count: usize, size: f32, seed: u64) -> Vec<f32> {
    let mut random = rand::rngs::StdRng::seed_from_u64(seed);
    (0..count).map(|_| random.random_range(-size..size)).collect()
}

fn bench(criterion: &mut Criterion) {
    rayon::ThreadPoolBuilder::new().num_threads(1).build_global().expect("nothing else made a pool");
    let chunk_rows = std::env::var("CHUNK_ROWS").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    for (name, rows, catalogue, peers) in [("ml-1m", 2560, 3416, 4), ("toys", 371, 11924, 2)] {
        let weights = numbers(catalogue * WIDTH, 0.2, 1);
        let (square, ones, zeros) = (numbers(WIDTH * WIDTH, 0.2, 2), vec![1.0; WIDTH], vec![0.0; WIDTH]);
        let bias = numbers(catalogue, 0.1, 3);
        let parts = PredictionParts {
            transform: &square[..],
            transform_bias: &zeros,
            gain: &ones,
            bias: &zeros,
            output: &weights,
            output_bias: &bias,
        };
        let hidden = numbers(peers * rows * WIDTH, 1.0, 4);
        let targets: Vec<i64> = (0..rows as i64).map(|row| row * 37 % catalogue as i64).collect();
        let loss = LossSpec::Exclusivity(Exclusivity::hail(0.5, 1.0));

        let mut group = criterion.benchmark_group(format!("prediction/{name}"));
        group.throughput(Throughput::Elements((peers * rows * catalogue) as u64));
        group.sample_size(10);
        let precision = Precision::Float32;
        group.bench_function("products alone", |bencher| {
            let n = peers * rows;
            let mut logits = vec![0.0; 256 * catalogue];
            let (mut back, mut sums) = (vec![0.0; 256 * WIDTH], vec![0.0; catalogue * WIDTH]);
            bencher.iter(|| {
                for start in (0..n).step_by(256) {
                    let count = 256.min(n - start);
                    let rows = Matrix::new(&hidden[start * WIDTH..], count, WIDTH);
                    let output = Matrix::new(&weights, catalogue, WIDTH);
                    product(
                        precision,
                        &mut MatrixMut::new(&mut logits, count, catalogue),
                        Write::Over,
                        rows,
                        output.transposed(),
                    );
                    let change = Matrix::new(&logits, count, catalogue);
                    product(precision, &mut MatrixMut::new(&mut back, count, WIDTH), Write::Over, change, output);
                    product(
                        precision,
                        &mut MatrixMut::new(&mut sums, catalogue, WIDTH),
                        Write::Add,
                        change.transposed(),
                        rows,
                    );
                }
            });
        });
        group.bench_function("fused", |bencher| {
            bencher.iter(|| {
                let prediction = Prediction::new(parts, peers, chunk_rows, precision, loss, 1.0 / rows as f64);
                prediction.compute(&hidden, &targets)
            });
        });
        group.finish();
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
