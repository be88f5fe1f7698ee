//! A directory as storage; that a bucket does the same is tested against a server, in the crate `integration-tests`.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::hash;
use crate::manifest::{FORMAT, ManifestFile, TrainingState};
use std::fs;

const SHARD: &str = "shared.safetensors";

fn attempt(step: u64) -> Attempt {
    Attempt { step, generation: 1 }
}

fn manifest(step: u64, contents: &[u8]) -> Manifest {
    Manifest {
        format: FORMAT,
        version: String::new(),
        job: "job".into(),
        generation: 1,
        step,
        peers: 1,
        config_hash: String::new(),
        data_hash: String::new(),
        state: TrainingState::default(),
        files: vec![ManifestFile { name: SHARD.into(), bytes: contents.len() as u64, sha256: hash::sha256(contents) }],
    }
}

/// A run directory with checkpoints of some steps.
fn with(steps: &[u64]) -> (tempfile::TempDir, Storage) {
    let run = tempfile::tempdir().unwrap();
    let storage = Storage::of_run(run.path(), "").unwrap();
    for step in steps {
        let contents = step.to_string();
        storage.put(attempt(*step), SHARD, contents.as_bytes()).unwrap();
        storage.commit(attempt(*step), &manifest(*step, contents.as_bytes())).unwrap();
    }
    (run, storage)
}

#[test]
fn what_is_put_and_committed_is_read_back_and_what_is_not_committed_is_not_seen() {
    let (run, storage) = with(&[7]);
    storage.put(attempt(9), SHARD, b"nine").unwrap();
    assert_eq!(storage.measure(attempt(9), SHARD).unwrap(), (4, hash::sha256(b"nine")));
    assert_eq!((storage.steps().unwrap(), storage.partial().unwrap()), (vec![7], vec![9]));
    assert_eq!(
        (storage.checkpoint(7).as_str(), storage.staging(attempt(9)).as_str()),
        ("checkpoints/step-7", "checkpoints/.step-9.staging")
    );
    let stored = storage.open(7).unwrap();
    assert_eq!((stored.manifest.step, stored.read(SHARD).unwrap()), (7, b"7".to_vec()));
    stored.check(SHARD).unwrap();
    assert_eq!(Stored::at(&run.path().join("checkpoints/step-7")).unwrap().manifest, stored.manifest);
    assert!(storage.open(9).unwrap_err().is_absent());
    storage.discard(attempt(9)).unwrap();
    storage.discard(attempt(9)).unwrap();
    assert_eq!(storage.partial().unwrap(), [0_u64; 0]);
}

#[test]
fn the_newest_is_what_a_listing_shows_and_the_name_never_goes_back() {
    let (run, storage) = with(&[3, 20, 100]);
    let latest = run.path().join("checkpoints").join(LATEST);
    assert_eq!(storage.latest().unwrap(), Some(100), "nothing names it yet");
    storage.set_latest(20).unwrap();
    assert_eq!(fs::read_to_string(&latest).unwrap(), "step-20\n");
    assert_eq!(storage.latest().unwrap(), Some(100), "a name that was not written is no reason to go back");
    storage.set_latest(3).unwrap();
    assert_eq!(fs::read_to_string(&latest).unwrap(), "step-20\n", "one that is late does not undo it");
    for damage in ["", "step-", "step-7", "\u{0}\u{1}", "step-20 step-20"] {
        fs::write(&latest, damage).unwrap();
        assert_eq!(storage.latest().unwrap(), Some(100), "{damage:?}");
    }
    storage.set_latest(100).unwrap();
    storage.remove(100).unwrap();
    assert_eq!(storage.latest().unwrap(), Some(20), "what it names is gone");
    storage.set_latest(20).unwrap();
    assert_eq!(fs::read_to_string(&latest).unwrap(), "step-20\n", "a name of nothing holds nobody up");
    assert_eq!(with(&[]).1.latest().unwrap(), None);
}

#[test]
fn sweeping_removes_what_is_half_done_and_nothing_else() {
    let (run, storage) = with(&[10]);
    storage.set_latest(10).unwrap();
    storage.put(attempt(20), SHARD, b"half").unwrap();
    fs::create_dir(run.path().join("checkpoints/.step-5.removed")).unwrap();
    storage.sweep().unwrap();
    let mut names: Vec<_> =
        fs::read_dir(run.path().join("checkpoints")).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, [LATEST, "step-10"]);
    Storage::of_run(&run.path().join("nowhere"), "").unwrap().sweep().unwrap();
}

#[test]
fn a_directory_without_a_manifest_never_blocks() {
    let (run, storage) = with(&[10]);
    fs::create_dir(run.path().join("checkpoints/step-30")).unwrap();
    assert_eq!((storage.steps().unwrap(), storage.partial().unwrap()), (vec![10], vec![30]));
    assert_eq!(storage.latest().unwrap(), Some(10));
    storage.put(attempt(30), SHARD, b"30").unwrap();
    storage.commit(attempt(30), &manifest(30, b"30")).unwrap();
    storage.open(30).unwrap().check(SHARD).unwrap();
}

#[test]
fn a_checkpoint_is_never_replaced_and_one_that_nobody_wants_any_more_never_appears() {
    let (_run, storage) = with(&[10]);
    storage.put(attempt(10), SHARD, b"again").unwrap();
    let again = manifest(10, b"again");
    let error = storage.commit(attempt(10), &again).unwrap_err();
    assert!(matches!(error, StorageError::Exists { .. }), "{error}");
    assert_eq!(storage.open(10).unwrap().read(SHARD).unwrap(), b"10");
    storage.set_aside(10).unwrap();
    let error = storage.commit_while(attempt(10), &again, &|| false).unwrap_err();
    assert!(matches!(error, StorageError::Unwanted { .. }) && storage.steps().unwrap().is_empty(), "{error}");
    storage.commit(attempt(10), &again).unwrap();
    assert_eq!(storage.open(10).unwrap().read(SHARD).unwrap(), b"again");
}

#[test]
fn damage_is_one_line_with_the_file() {
    let (run, storage) = with(&[4]);
    let directory = run.path().join("checkpoints/step-4");
    let stored = storage.open(4).unwrap();
    for (contents, expected) in
        [(Some("44"), "has 2 bytes, its manifest says 1"), (Some("5"), "hash"), (None, "not found")]
    {
        match contents {
            Some(contents) => fs::write(directory.join(SHARD), contents).unwrap(),
            None => fs::remove_file(directory.join(SHARD)).unwrap(),
        }
        for error in [stored.check(SHARD).unwrap_err(), stored.read(SHARD).unwrap_err()] {
            let message = error.to_string();
            assert!(message.contains(expected) && message.contains(SHARD) && !message.contains('\n'), "{message}");
        }
    }
    for (contents, expected) in [("{\"format\":", "no manifest"), ("{\"format\": 99}", "format 99")] {
        fs::write(directory.join(manifest::FILE), contents).unwrap();
        let message = storage.open(4).unwrap_err().to_string();
        assert!(message.contains(expected) && message.contains("manifest.json"), "{message}");
    }
}

#[test]
fn names_that_can_be_no_place_are_refused() {
    for name in ["s3://", "s3:///prefix", "s3://bucket/a//b"] {
        let error = Storage::of_run(Path::new("."), name).unwrap_err();
        assert!(matches!(error, StorageError::Invalid { .. }) && error.to_string().contains(name), "{error}");
    }
    let elsewhere = Storage::of_run(Path::new("run"), "elsewhere").unwrap();
    assert!(Path::new(&elsewhere.checkpoint(3)).is_absolute());
    assert!(elsewhere.checkpoint(3).ends_with("/elsewhere/step-3"));
}
