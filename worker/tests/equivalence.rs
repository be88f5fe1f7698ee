//! Exchange mode and placement of the peers are matters of cost: they must not change what is learned.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use support::{commit, configuration, curves, data, train};

/// Largest relative difference between two sets of curves.
fn difference(left: &BTreeMap<u32, Vec<f64>>, right: &BTreeMap<u32, Vec<f64>>) -> f64 {
    assert_eq!(left.len(), right.len(), "the same peers");
    let pairs = left.iter().zip(right).flat_map(|((_, left), (_, right))| {
        assert_eq!(left.len(), right.len(), "the same steps");
        left.iter().zip(right)
    });
    pairs.map(|(left, right)| (left - right).abs() / left.abs().max(1e-9)).fold(0.0, f64::max)
}

fn placements(peers: u32) -> Vec<Vec<Vec<u32>>> {
    let one_each = (0..peers).map(|peer| vec![peer]).collect();
    let all_on_one = vec![(0..peers).collect()];
    let mixed = vec![(1..peers).rev().collect(), vec![0]];
    vec![all_on_one, one_each, mixed]
}

fn assert_equivalent(peers: u32, overrides: &[&str]) {
    let directory = tempfile::tempdir().unwrap();
    let data = data(directory.path());
    let mut reference = None;
    for mode in ["hidden", "logits", "distributions"] {
        for ranks in placements(peers) {
            let (peers, mode) = (format!("cohort.peers={peers}"), format!("exchange.mode={mode}"));
            let mut all = vec![peers.as_str(), mode.as_str(), "exchange.chunk_rows=7"];
            all.extend(overrides);
            let config = configuration(&data, &all);
            let recorders = train(&config, &ranks, directory.path(), None, None);
            let curves = curves(&recorders);
            let reference = reference.get_or_insert_with(|| curves.clone());
            let worst = difference(reference, &curves);
            assert!(worst < 1e-4, "{mode}, {ranks:?}: curves differ by {worst:e}");
        }
    }
    let curves = reference.unwrap();
    let first = &curves[&0];
    assert!(first.last().unwrap() < &first[0], "the cohort learns: {first:?}");
    assert!(curves[&0][0] != curves[&1][0], "peers are not copies of one another");
}

#[test]
fn hail_with_noise_filter() {
    assert_equivalent(2, &["method.beta=0.2"]);
    assert_equivalent(3, &["method.beta=0.2", "method.gamma=2.0", "method.rank_base=0"]);
}

#[test]
fn hail_as_released() {
    assert_equivalent(2, &["method.beta=0.02", "method.beta_base=slots", "method.truncate_ce=true"]);
}

#[test]
fn peerrec_through_both_stages() {
    assert_equivalent(3, &["method.name=peerrec", "method.beta=0.1"]);
}

#[test]
fn mutual_learning_of_causal_networks() {
    assert_equivalent(2, &["method.name=dml", "network.kind=causal", "network.norm=pre"]);
}

#[test]
fn a_resumed_training_equals_an_uninterrupted_one_bit_for_bit() {
    let directory = tempfile::tempdir().unwrap();
    let data = data(directory.path());
    let variants: [&[&str]; 2] = [&["method.beta=0.2"], &["method.name=peerrec", "optimizer.variant=textbook"]];
    for (number, overrides) in variants.iter().enumerate() {
        let mut all = vec!["train.checkpoint_every=5"];
        all.extend(*overrides);
        let config = configuration(&data, &all);
        let ranks = vec![vec![0], vec![1]];
        let whole = directory.path().join(format!("whole-{number}"));
        let uninterrupted = train(&config, &ranks, &whole, None, None);

        let parts = directory.path().join(format!("parts-{number}"));
        let first = train(&config, &ranks, &parts, None, Some(5));
        assert_eq!(first[0].steps.len(), 5, "it stops where it was asked to");
        let checkpoint = commit(&config, &parts, &first, 5);
        let second = train(&config, &ranks, &parts, Some(&checkpoint), None);

        let (expected, rest) = (curves(&uninterrupted), curves(&second));
        for (peer, rest) in &rest {
            assert_eq!(&expected[peer][5..], rest.as_slice());
        }
        let hashes = |recorders: &[support::Recorder]| -> Vec<String> {
            let last = recorders.iter().map(|r| r.shards.last().unwrap());
            last.flat_map(|shards| &shards.files).map(|file| file.sha256.clone()).collect()
        };
        assert_eq!(hashes(&uninterrupted), hashes(&second), "the last checkpoints are equal");
    }
}

#[test]
fn every_worker_stops_at_the_same_step_when_one_is_asked_to() {
    let directory = tempfile::tempdir().unwrap();
    let data = data(directory.path());
    let config = configuration(&data, &[]);
    let recorders = train(&config, &[vec![0], vec![1]], directory.path(), None, Some(3));
    for recorder in recorders {
        assert_eq!(recorder.steps.len(), 3);
        assert_eq!(recorder.shards.last().unwrap().step, 3);
    }
}
