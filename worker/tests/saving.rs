//! Checkpoints beside training, on the side of a worker: reported in order, and without harm where they cannot be written.

#![allow(clippy::unwrap_used)]

mod support;

use medley_common::storage::{Attempt, Storage};
use support::{Recorder, configuration, curves, data, train};

fn reported(recorder: &Recorder) -> Vec<u64> {
    recorder.shards.iter().map(|shards| shards.step).collect()
}

fn failed(recorder: &Recorder) -> Vec<u64> {
    recorder.failed_shards.iter().map(|shards| shards.step).collect()
}

#[test]
fn every_checkpoint_is_reported_once_in_order_before_the_end_and_is_what_was_reported() {
    let directory = tempfile::tempdir().unwrap();
    let config = configuration(&data(directory.path()), &["train.checkpoint_every=1"]);
    let run = directory.path().join("run");
    let recorders = train(&config, &[vec![0], vec![1]], &run, None, None);
    let storage = Storage::of_run(&run, "").unwrap();
    for recorder in &recorders {
        assert_eq!(reported(recorder), (1..=12).collect::<Vec<u64>>());
        assert!(recorder.failed_shards.is_empty());
        for shards in &recorder.shards {
            for file in &shards.files {
                let attempt = Attempt { step: shards.step, generation: 1 };
                assert_eq!(storage.measure(attempt, &file.name).unwrap(), (file.bytes, file.sha256.clone()));
            }
        }
    }
    let states = recorders[0].shards.iter().map(|shards| shards.state.as_str());
    let rows: Vec<u64> = states
        .map(|state| serde_json::from_str::<serde_json::Value>(state).unwrap()["rows"].as_u64().unwrap())
        .collect();
    assert!(rows.windows(2).all(|pair| pair[0] < pair[1]), "each has the state of its own step: {rows:?}");
    assert!(recorders[1].shards.iter().all(|shards| shards.state.is_empty()));
}

#[test]
fn what_cannot_be_written_is_reported_and_changes_nothing_of_the_training() {
    let directory = tempfile::tempdir().unwrap();
    let data = data(directory.path());
    let in_the_way = directory.path().join("file");
    std::fs::write(&in_the_way, "in the way").unwrap();
    let place = format!("output.checkpoints={}", in_the_way.display());
    let run = |name: &str, settings: &[&str]| {
        train(&configuration(&data, settings), &[vec![0, 1]], &directory.path().join(name), None, None)
    };
    let undisturbed = run("undisturbed", &[]);
    let disturbed = run("disturbed", &["train.checkpoint_every=5", &place]);
    assert_eq!(failed(&disturbed[0]), [5, 10, 12]);
    assert!(disturbed[0].shards.is_empty() && disturbed[0].completed.is_some());
    let message = &disturbed[0].failed_shards[0].message;
    assert!(message.contains(&in_the_way.display().to_string()) && !message.contains('\n'), "{message}");
    assert_eq!(curves(&disturbed), curves(&undisturbed));
    let metrics =
        |recorders: &[Recorder]| recorders[0].evaluations.iter().map(|e| e.metrics.clone()).collect::<Vec<_>>();
    assert_eq!(metrics(&disturbed), metrics(&undisturbed));
}

#[test]
fn lists_of_candidates_that_cannot_be_kept_cost_nothing_but_themselves() {
    let directory = tempfile::tempdir().unwrap();
    let config = configuration(&data(directory.path()), &["evaluation.protocols=[\"uniform99\"]", "train.steps=1"]);
    let run = directory.path().join("run");
    std::fs::create_dir(&run).unwrap();
    std::fs::write(run.join("candidates"), "in the way").unwrap();
    let recorders = train(&config, &[vec![0, 1]], &run, None, None);
    assert!(recorders[0].completed.is_some());
    let hashes = recorders[0].evaluations.iter().filter(|e| e.split == "test").map(|e| e.candidates_hash.len());
    assert_eq!(hashes.collect::<Vec<_>>(), [64; 3], "two peers and a baseline, each with the hash of its lists");
}
