//! The packed computation against libtorch's graph, and its gradients with dropout against differences.

use crate::data::{Batch, Bucket};
use crate::model::{Computation, Network};
use medley_common::config::{self, RunConfig};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use tch::{Device, Kind, Tensor};

const ITEMS: usize = 40;

fn configuration(overrides: &[&str]) -> RunConfig {
    let text = "[data]\npath = \"none\"\n[network]\ndimension = 24\nheads = 3\nfeed_forward = 40\ndropout = 0.0\n\
                initialization = \"xavier\"\n[samples]\nmax_length = 330\n";
    let overrides: Vec<_> = overrides.iter().map(|text| text.parse().unwrap()).collect();
    config::parse(text, "test", &overrides).unwrap()
}

/// Sequences of some lengths, a third of the positions to predict.
fn bucket(lengths: &[usize]) -> Bucket {
    let length = *lengths.iter().max().unwrap();
    let mut bucket = Bucket {
        sequences: lengths.len(),
        length,
        tokens: vec![0; lengths.len() * length],
        lengths: lengths.to_vec(),
        row_positions: Vec::new(),
        targets: Vec::new(),
    };
    for (place, &real) in lengths.iter().enumerate() {
        for position in 0..real {
            bucket.tokens[place * length + position] = (1 + (7 * place + 3 * position) % (ITEMS + 1)) as i64;
            if (place + position) % 3 == 0 {
                bucket.row_positions.push((place * length + position) as i64);
                bucket.targets.push(((place + position) % ITEMS) as i64);
            }
        }
    }
    bucket
}

/// Several blocks, one of them longer than a block should be, and a sequence without rows.
fn batch() -> Batch {
    let buckets = vec![bucket(&[1, 2, 4]), bucket(&[30, 33, 90, 120]), bucket(&[300, 330])];
    let rows = buckets.iter().map(|bucket| bucket.targets.len()).sum();
    Batch { buckets, rows }
}

fn network(computation: Computation, config: &RunConfig) -> Network {
    let network = Network::draw_for(computation, config, ITEMS, &[0, 2], Device::Cpu);
    // Biases and norms are drawn as zeros and ones, which would hide their parts.
    let mut random = crate::random::stream(crate::random::Purpose::SyntheticItems, 5, 0, 0);
    let _guard = tch::no_grad_guard();
    let parameters = std::iter::once(&network.shared.parameters).chain(network.encoders.iter().map(|e| &e.parameters));
    for parameters in parameters {
        let noise = normal(parameters.len(), &mut random) * 0.2;
        let _ = parameters.values().shallow_clone().g_add_(&noise);
    }
    network
}

/// Numbers of no generator that other tests share.
fn normal(count: i64, random: &mut ChaCha8Rng) -> Tensor {
    let values: Vec<f32> = (0..count).map(|_| StandardNormal.sample(random)).collect();
    Tensor::from_slice(&values)
}

fn hidden_gradients(rows: usize, d: i64) -> Vec<Tensor> {
    let mut random = crate::random::stream(crate::random::Purpose::SyntheticItems, 9, 0, 0);
    (0..2).map(|_| normal(rows as i64 * d, &mut random).view([rows as i64, d])).collect()
}

/// Flat gradients of the shared parameters and of both encoders.
fn backward(network: &mut Network, gradients: &[Tensor]) -> Vec<Tensor> {
    let mut shared = network.shared.parameters.values().zeros_like();
    let private = network.backward(gradients, &mut shared);
    std::iter::once(shared).chain(private).collect()
}

/// The largest difference over the largest value.
fn error(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.size(), b.size());
    let worst = (a - b).abs().max().double_value(&[]);
    worst / b.abs().max().double_value(&[])
}

fn agree(overrides: &[&str]) {
    let (config, batch) = (configuration(overrides), batch());
    let (mut packed, mut graph) = (network(Computation::Packed, &config), network(Computation::Graph, &config));
    // Twice: buffers of the step before must not shine through.
    for step in 0..2 {
        let (ours, theirs) = (packed.train_forward(&batch, step), graph.train_forward(&batch, step));
        for (ours, theirs) in ours.iter().zip(&theirs) {
            assert!(error(ours, theirs) < 2e-6, "{overrides:?}: hidden rows differ by {}", error(ours, theirs));
        }
        let gradients = hidden_gradients(batch.rows, config.network.dimension);
        let (ours, theirs) = (backward(&mut packed, &gradients), backward(&mut graph, &gradients));
        for (ours, theirs) in ours.iter().zip(&theirs) {
            assert!(error(ours, theirs) < 5e-6, "{overrides:?}: gradients differ by {}", error(ours, theirs));
        }
    }
    for (ours, theirs) in packed.encoders.iter().zip(&graph.encoders) {
        let (ours, theirs) = (packed.evaluate_rows(ours, &batch), graph.evaluate_rows(theirs, &batch));
        assert!(error(&ours, &theirs) < 2e-6, "{overrides:?}: evaluated rows differ by {}", error(&ours, &theirs));
    }
}

#[test]
fn every_kind_of_network_agrees_with_automatic_differentiation() {
    for norm in ["post", "pre"] {
        for kind in ["bidirectional", "causal"] {
            let (norm, kind) = (format!("network.norm={norm:?}"), format!("network.kind={kind:?}"));
            for layers in ["network.layers=1", "network.layers=3"] {
                agree(&[&norm, &kind, layers]);
            }
        }
    }
    agree(&["network.dimension=16", "network.heads=1", "network.feed_forward=64"]);
}

/// The norm of the difference over the norm.
fn relative_error(a: &Tensor, b: &Tensor) -> f64 {
    (a - b).norm().double_value(&[]) / b.norm().double_value(&[])
}

/// A factor in bfloat16 is off by 2⁻⁹ at most, so that a product of many terms is off by a sixth of a hundredth of its
/// norm or so; those of some twenty products, one after the other, add up like noise.
#[test]
fn bfloat16_products_give_the_rows_and_gradients_of_float32_within_two_hundredths() {
    if !crate::matrix::has_bfloat16() {
        return println!("skipped: this processor has no AVX-512 BF16");
    }
    for norm in ["network.norm=\"post\"", "network.norm=\"pre\""] {
        let (exact, batch) = (configuration(&[norm, "network.dropout=0.2"]), batch());
        let rounded = configuration(&[norm, "network.dropout=0.2", "train.precision=bf16"]);
        let (mut exact, mut rounded) = (network(Computation::Packed, &exact), network(Computation::Packed, &rounded));
        let (expected, found) = (exact.train_forward(&batch, 3), rounded.train_forward(&batch, 3));
        let gradients = hidden_gradients(batch.rows, 24);
        let pairs = expected.into_iter().zip(found);
        let pairs = pairs.chain(backward(&mut exact, &gradients).into_iter().zip(backward(&mut rounded, &gradients)));
        for (expected, found) in pairs {
            let error = relative_error(&found, &expected);
            assert!(error < 0.02, "{norm}: off by {error}");
            assert!(error > 1e-5, "{norm}: nothing was rounded");
        }
        // Evaluation is float32 in either.
        for (exact_encoder, rounded_encoder) in exact.encoders.iter().zip(&rounded.encoders) {
            let expected = exact.evaluate_rows(exact_encoder, &batch);
            assert!(rounded.evaluate_rows(rounded_encoder, &batch).equal(&expected));
        }
    }
}

/// Every instruction set computes the same: the test above once more in processes that are told to use each.
#[test]
fn every_instruction_set_agrees_too() {
    let test = "model::packed::tests::every_kind_of_network_agrees_with_automatic_differentiation";
    for level in crate::loss::SimdLevel::available() {
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test])
            .env("MEDLEY_SIMD", format!("{level:?}"))
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{level:?}: {text}");
    }
}

/// With dropout on, masks must be the same on the way back: the slope along a direction equals the difference.
#[test]
fn gradients_with_dropout_are_those_of_the_function_that_was_computed() {
    for norm in ["post", "pre"] {
        let norm = format!("network.norm={norm:?}");
        let config = configuration(&["network.dropout=0.3", &norm]);
        let batch = Batch { buckets: vec![bucket(&[3, 12, 20])], rows: bucket(&[3, 12, 20]).targets.len() };
        let gradients = hidden_gradients(batch.rows, config.network.dimension);
        let mut network = network(Computation::Packed, &config);
        let value = |network: &mut Network| -> f64 {
            let hidden = network.train_forward(&batch, 7);
            hidden.iter().zip(&gradients).map(|(h, g)| (h * g).sum(Kind::Double).double_value(&[])).sum()
        };
        let _ = value(&mut network);
        let all = backward(&mut network, &gradients);
        let vectors: Vec<Tensor> = std::iter::once(network.shared.parameters.values().shallow_clone())
            .chain(network.encoders.iter().map(|encoder| encoder.parameters.values().shallow_clone()))
            .collect();
        for (vector, gradient) in vectors.into_iter().zip(&all) {
            // Along the gradient itself the slope is its squared norm.
            let step = 2e-3 / gradient.norm().double_value(&[]);
            let shift = |factor: f64| {
                let _guard = tch::no_grad_guard();
                let _ = vector.shallow_clone().g_add_(&(gradient * factor));
            };
            shift(step);
            let above = value(&mut network);
            shift(-2.0 * step);
            let below = value(&mut network);
            shift(step);
            let slope = (above - below) / (2.0 * step);
            let expected = gradient.square().sum(Kind::Double).double_value(&[]);
            assert!((slope / expected - 1.0).abs() < 0.02, "{norm}: {slope} instead of {expected}");
        }
    }
}

/// Masks depend on seed, step, peer and place alone: not on what else is in the batch's blocks.
#[test]
fn dropout_drops_its_share_and_differs_by_step_and_peer_but_not_by_neighbours() {
    let config = configuration(&["network.dropout=0.5"]);
    let rows = |lengths: &[usize], step: u64| {
        let bucket = bucket(lengths);
        let batch = Batch { rows: bucket.targets.len(), buckets: vec![bucket] };
        network(Computation::Packed, &config).train_forward(&batch, step)
    };
    let (alone, beside) = (rows(&[50], 3), rows(&[50, 200, 200], 3));
    let first = alone[0].size()[0];
    assert!(alone[0].equal(&beside[0].narrow(0, 0, first)));
    assert!(!alone[0].equal(&rows(&[50], 4)[0]));
    // Without dropout, equal parameters make equal rows; the masks of two peers differ.
    let config = configuration(&["network.dropout=0.5"]);
    let mut twins = network(Computation::Packed, &config);
    let _guard = tch::no_grad_guard();
    let values = twins.encoders[0].parameters.values().copy();
    twins.encoders[1].parameters.values().shallow_clone().copy_(&values);
    let bucket = bucket(&[50]);
    let hidden = twins.train_forward(&Batch { rows: bucket.targets.len(), buckets: vec![bucket] }, 3);
    assert!(!hidden[0].equal(&hidden[1]));
}
