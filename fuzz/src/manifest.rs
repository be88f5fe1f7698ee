//! A checkpoint's `manifest.json`, in a directory with a file that it may vouch for and one outside that it may not.

use crate::one_line::assert_one_line;
use medley_common::config::RunConfig;
use medley_common::manifest::{FILE, Manifest};
use medley_common::storage::{Attempt, Storage};
use medley_coordinator::checkpoint;
use medley_coordinator::cluster::Commit;
use std::fs;
use std::path::Path;

/// A file of the directory.
pub const INSIDE: (&str, &[u8]) = ("shared.safetensors", b"tensors");
/// A file beside the directory.
pub const OUTSIDE: (&str, &[u8]) = ("secret", b"not of this checkpoint");

/// Reads the input as a manifest, verifies the directory by it, and commits a checkpoint of the files that it names.
pub fn check(input: &[u8]) -> bool {
    let Ok(manifest) = serde_json::from_slice::<Manifest>(input) else {
        return verify(input).is_some();
    };
    let written = serde_json::to_vec(&manifest).expect("a manifest has string keys only");
    let again: Manifest = serde_json::from_slice(&written).expect("what was written can be read");
    assert_eq!(again, manifest, "changed by being written and read");
    let verified = verify(input);
    commit(&manifest);
    verified.is_some()
}

/// Verifies a committed checkpoint whose manifest is the input.
fn verify(input: &[u8]) -> Option<Manifest> {
    let root = tempfile::tempdir().expect("a directory");
    let storage = Storage::of_run(root.path(), "").expect("a directory");
    let directory = root.path().join("checkpoints/step-1");
    fs::create_dir_all(&directory).expect("a directory");
    fs::write(root.path().join("checkpoints").join(OUTSIDE.0), OUTSIDE.1).expect("a file");
    fs::write(directory.join(INSIDE.0), INSIDE.1).expect("a file");
    fs::write(directory.join(FILE), input).expect("a file");
    match checkpoint::verify(&storage, 1) {
        Ok(manifest) => {
            for file in &manifest.files {
                assert_eq!(file.name, INSIDE.0, "vouches for a file outside of its directory");
            }
            Some(manifest)
        }
        Err(error) => {
            assert_one_line(&error);
            None
        }
    }
}

/// Commits what workers would have reported of the files that the manifest names.
fn commit(manifest: &Manifest) {
    let run = tempfile::tempdir().expect("a directory");
    let storage = Storage::of_run(run.path(), "").expect("a directory");
    let staging = storage.staging(Attempt { step: manifest.step, generation: manifest.generation });
    let staged = run.path().join(&staging);
    fs::create_dir_all(&staged).expect("a directory");
    fs::write(run.path().join(OUTSIDE.0), OUTSIDE.1).expect("a file");
    fs::write(staged.join(INSIDE.0), INSIDE.1).expect("a file");
    let request = Commit {
        step: manifest.step,
        generation: manifest.generation,
        staging,
        peers: manifest.peers,
        spared: Default::default(),
        files: manifest.files.clone(),
        state: serde_json::to_string(&manifest.state).expect("a state has string keys only"),
        data_hash: manifest.data_hash.clone(),
    };
    match checkpoint::commit(&storage, &manifest.job, &RunConfig::default(), &request, &|| true) {
        Ok(committed) => {
            let verified = checkpoint::verify(&storage, committed.step).expect("what was committed is whole");
            assert_eq!(verified.state, manifest.state);
            assert!(is_untouched(run.path()));
        }
        Err(error) => {
            assert_one_line(&error);
            assert!(is_untouched(run.path()));
        }
    }
}

fn is_untouched(root: &Path) -> bool {
    fs::read(root.join(OUTSIDE.0)).is_ok_and(|bytes| bytes == OUTSIDE.1)
}
