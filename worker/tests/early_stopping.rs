//! Patience: training ends where validations no longer improve, and the best validation's parameters are the result.

#![allow(clippy::unwrap_used)]

mod support;

use medley_common::manifest::{self, Manifest};
use medley_common::proto;
use std::path::Path;
use support::{Recorder, commit, configuration, data, train};

const RANKS: usize = 2;

fn ranks() -> Vec<Vec<u32>> {
    (0..RANKS as u32).map(|peer| vec![peer]).collect()
}

/// Trains two peers on two workers in `directory`.
fn run(data: &Path, directory: &Path, settings: &[&str]) -> Vec<Recorder> {
    train(&configuration(data, settings), &ranks(), directory, None, None)
}

/// A metric of a subject's evaluations on a split, in the order of their reports, with the steps.
fn metrics(recorders: &[Recorder], split: &str) -> Vec<(u64, f64)> {
    let of = |evaluation: &proto::Evaluation| {
        let metric = evaluation.metrics.iter().find(|metric| metric.name == "NDCG@10").unwrap();
        (evaluation.step, metric.mean)
    };
    let mut by_peer: Vec<Vec<(u64, f64)>> = recorders
        .iter()
        .map(|r| r.evaluations.iter().filter(|e| e.subject.starts_with("peer-") && e.split == split).map(of).collect())
        .collect();
    // The better of the peers at each validation.
    let others = by_peer.split_off(1);
    let mut best = by_peer.remove(0);
    for other in others {
        assert_eq!(best.len(), other.len());
        best.iter_mut().zip(other).for_each(|(best, other)| {
            assert_eq!(best.0, other.0);
            best.1 = best.1.max(other.1);
        });
    }
    best
}

fn reason(recorders: &[Recorder]) -> &str {
    &recorders[0].completed.as_ref().unwrap().reason
}

fn saved(recorders: &[Recorder]) -> Vec<u64> {
    recorders[0].shards.iter().map(|shards| shards.step).collect()
}

/// Steps so large that validations soon get worse.
const WILD: [&str; 6] = [
    "optimizer.learning_rate=0.5",
    "optimizer.schedule=constant",
    "optimizer.warmup_steps=0",
    "train.evaluate_every=1",
    "train.patience=3",
    "train.steps=60",
];

#[test]
fn training_ends_after_patience_and_returns_to_the_best_parameters() {
    let directory = tempfile::tempdir().unwrap();
    let data = data(directory.path());
    let recorders = run(&data, &directory.path().join("run"), &WILD);
    assert_eq!(reason(&recorders), "early-stopping");
    let steps = recorders[0].steps.len() as u64;
    assert!(steps < 60, "it stops early");

    let mut validations = metrics(&recorders, "valid");
    let last = validations.pop().unwrap();
    // The first of the largest, as a later one that is only as good is no improvement.
    let best = validations.iter().copied().reduce(|best, next| if next.1 > best.1 { next } else { best }).unwrap();
    assert_eq!(steps, best.0 + 3, "three validations without improvement after the best");
    assert_eq!(last, best, "the last evaluation is of the best parameters");
    assert_eq!(metrics(&recorders, "test")[0].0, best.0);
    let saved = saved(&recorders);
    assert!(saved.contains(&best.0) && saved.last() == Some(&steps), "{saved:?}");
}

#[test]
fn the_last_step_can_be_the_best_and_is_saved_once() {
    let directory = tempfile::tempdir().unwrap();
    let data = data(directory.path());
    // The last step has the only validation.
    let settings = ["train.evaluate_every=100", "train.patience=5"];
    let recorders = run(&data, &directory.path().join("run"), &settings);
    assert_eq!(reason(&recorders), "steps");
    let validations = metrics(&recorders, "valid");
    assert_eq!(validations[0].0, 12);
    assert_eq!(validations, [validations[0]; 2], "a validation, and the evaluation of the same parameters");
    assert_eq!(saved(&recorders), [12]);
}

#[test]
fn without_improvement_at_the_end_the_best_parameters_are_the_result_and_the_last_ones_are_saved_too() {
    let directory = tempfile::tempdir().unwrap();
    let data = data(directory.path());
    let mut settings = WILD.to_vec();
    // So wild that the last step is hardly the best; where it is, the claims hold all the same.
    settings.extend(["train.patience=50", "train.steps=9"]);
    let recorders = run(&data, &directory.path().join("run"), &settings);
    assert_eq!(reason(&recorders), "steps");
    let mut validations = metrics(&recorders, "valid");
    let last = validations.pop().unwrap();
    let best = validations.iter().copied().reduce(|best, next| if next.1 > best.1 { next } else { best }).unwrap();
    assert_eq!((validations.len(), last), (9, best));
    assert_eq!(saved(&recorders).last(), Some(&9));
}

#[test]
fn the_first_stage_of_peerrec_neither_chooses_nor_stops() {
    let directory = tempfile::tempdir().unwrap();
    let data = data(directory.path());
    // Nothing is learned, so that no validation but the first that counts is an improvement.
    let settings = [
        "method.name=peerrec",
        "method.stage_1_share=0.5",
        "optimizer.learning_rate=1e-30",
        "train.evaluate_every=1",
        "train.patience=1",
    ];
    let recorders = run(&data, &directory.path().join("run"), &settings);
    assert_eq!(reason(&recorders), "early-stopping");
    assert_eq!(recorders[0].steps.len(), 8, "six steps of the first stage, one that is the best, one that is not");
    assert_eq!(metrics(&recorders, "test")[0].0, 7);
}

#[test]
fn a_resumed_training_stops_where_the_uninterrupted_one_does_with_the_same_result() {
    let directory = tempfile::tempdir().unwrap();
    let data = data(directory.path());
    let config = configuration(&data, &WILD);
    let whole = run(&data, &directory.path().join("whole"), &WILD);
    let best = metrics(&whole, "test")[0].0;
    let steps = whole[0].steps.len() as u64;

    // Stopped after the best validation, to whose parameters it goes back in the end.
    let stop = best + 1;
    for kept in ["all checkpoints", "the last one", "what earlier versions wrote"] {
        let parts = directory.path().join(kept);
        let first = train(&config, &ranks(), &parts, None, Some(stop));
        for step in saved(&first) {
            // Where the disk was full at the best step, say, it has no checkpoint.
            if step == stop || kept != "the last one" {
                commit(&config, &parts, &first, step);
            }
        }
        let checkpoint = medley_common::run_directory::checkpoint(&parts, stop);
        if kept == "what earlier versions wrote" {
            forget_best(&checkpoint);
        }
        let second = train(&config, &ranks(), &parts, Some(&checkpoint), None);
        assert_eq!(reason(&second), "early-stopping", "{kept}");
        assert_eq!(second[0].steps.last().unwrap().step, steps, "{kept}");
        assert_eq!(metrics(&second, "test"), metrics(&whole, "test"), "{kept}");
    }
}

/// Takes the parameters of the best validation out of a checkpoint.
fn forget_best(checkpoint: &Path) {
    let path = checkpoint.join(manifest::FILE);
    let mut manifest: Manifest = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    assert!(manifest.keeps_best());
    manifest.files.retain(|file| !file.name.ends_with(".best.safetensors"));
    assert_eq!(manifest.files.len(), 6, "shared parameters and two peers, with their moments");
    std::fs::write(path, serde_json::to_vec(&manifest).unwrap()).unwrap();
}
