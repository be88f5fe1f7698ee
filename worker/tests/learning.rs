//! What the settings of the optimiser and the precision do to a training.

#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;
use support::{configuration, curves, data, train};

/// Losses of peer 0, one peer on each of two workers.
fn losses(data: &Path, settings: &[&str]) -> Vec<f64> {
    let directory = tempfile::tempdir().unwrap();
    let config = configuration(data, settings);
    curves(&train(&config, &[vec![0], vec![1]], directory.path(), None, None)).remove(&0).unwrap()
}

#[test]
fn gradients_are_clipped_to_the_largest_norm() {
    let directory = tempfile::tempdir().unwrap();
    let data = data(directory.path());
    // With so large an epsilon an update is in proportion to the gradient, and there is no other update than it.
    let run = |norm: &str, rate: &str| {
        let settings = ["optimizer.epsilon=1.0", "optimizer.weight_decay=0.0", "optimizer.warmup_steps=0", norm, rate];
        losses(&data, &settings)
    };
    let free = run("optimizer.clip_norm=0.0", "optimizer.learning_rate=1.0");
    let wide = run("optimizer.clip_norm=1e9", "optimizer.learning_rate=1.0");
    let narrow = run("optimizer.clip_norm=1e-9", "optimizer.learning_rate=1.0");
    let still = run("optimizer.clip_norm=0.0", "optimizer.learning_rate=1e-30");
    assert_eq!(free, wide, "a norm that is never reached changes nothing");
    let apart = |one: &[f64], other: &[f64]| one.iter().zip(other).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(apart(&narrow, &still) < 1e-5, "{narrow:?} {still:?}");
    assert!(apart(&free, &still) > 1e-3, "{free:?} {still:?}");
}

#[test]
fn the_second_stage_begins_with_the_moments_of_the_first_or_without() {
    let directory = tempfile::tempdir().unwrap();
    let data = data(directory.path());
    let run = |reset: &str| losses(&data, &["method.name=peerrec", "method.stage_1_share=0.5", reset]);
    let kept = run("method.reset_optimizer=false");
    let cleared = run("method.reset_optimizer=true");
    // Of twelve steps the seventh is the first of stage 2: its update is the first to differ, and the eighth's loss.
    assert_eq!(kept[..7], cleared[..7]);
    assert!(kept[7..].iter().zip(&cleared[7..]).all(|(kept, cleared)| kept != cleared), "{kept:?} {cleared:?}");
}

#[test]
fn a_cohort_learns_in_bfloat16_as_it_does_in_float32() {
    if !medley_worker::matrix::has_bfloat16() {
        return println!("skipped: this processor has no AVX-512 BF16");
    }
    let directory = tempfile::tempdir().unwrap();
    let data = data(directory.path());
    let run = |precision: &str| losses(&data, &["train.steps=150", "method.name=hail", precision]);
    let (exact, rounded) = (run("train.precision=float32"), run("train.precision=bf16"));
    let end = |losses: &[f64]| losses[losses.len() - 20..].iter().sum::<f64>() / 20.0;
    let learned = exact[0] - end(&exact);
    let apart = (end(&exact) - end(&rounded)).abs();
    println!("from {} to {} and {}", exact[0], end(&exact), end(&rounded));
    assert!(learned > 0.1, "too little is learned to compare: {learned}");
    assert!(exact != rounded, "nothing was rounded");
    assert!(apart < 0.02 * learned, "{} and {}, {apart} apart of {learned} learned", end(&exact), end(&rounded));
}
