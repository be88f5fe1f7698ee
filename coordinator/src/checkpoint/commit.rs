//! From the files that workers put to a checkpoint.

use super::{CheckpointError, verify};
use crate::cluster::Commit;
use medley_common::config::{self, RunConfig};
use medley_common::manifest::{self, Manifest, ManifestFile, TrainingState};
use medley_common::storage::{Attempt, Storage, StorageError};

/// A checkpoint that is in place.
#[derive(Debug, Clone, PartialEq)]
pub struct Committed {
    /// Its step.
    pub step: u64,
    /// Its place, as `Storage::checkpoint` names it.
    pub directory: String,
    /// Size of its files, without the manifest.
    pub bytes: u64,
    /// What its manifest says of the training.
    pub state: TrainingState,
}

/// Verifies every file against what the workers said, makes them a checkpoint and names it as the newest. Where a whole
/// checkpoint of the same step stands already (a resumed job that stopped before its first step, a leader that was deposed
/// just after its commit), it is kept and the new copy removed; a damaged one is set aside. Blocks: reads every file again.
///
/// `is_wanted` is asked before anything changes and right before the checkpoint would appear.
///
/// # Errors
/// [`CheckpointError::Refused`] where the files are not as the workers said; [`CheckpointError::Storage`], with
/// `StorageError::Unwanted` in it where `is_wanted` said no.
pub fn commit(
    storage: &Storage,
    job: &str,
    config: &RunConfig,
    request: &Commit,
    is_wanted: &dyn Fn() -> bool,
) -> Result<Committed, CheckpointError> {
    let attempt = Attempt { step: request.step, generation: request.generation };
    let expected = storage.staging(attempt);
    if request.staging != expected {
        let message = format!("the workers wrote to {:?}, not to {expected}", request.staging);
        return Err(CheckpointError::Refused(message));
    }
    let state: TrainingState = serde_json::from_str(&request.state)
        .map_err(|error| CheckpointError::Refused(format!("the worker of rank 0 sent no training state: {error}")))?;
    let mut files = request.files.clone();
    files.sort_by(|one, other| one.name.cmp(&other.name));
    if let Some(fault) = manifest::fault_of_names(&files) {
        return Err(CheckpointError::Refused(format!("the workers reported {fault}")));
    }
    let manifest = Manifest {
        format: manifest::FORMAT,
        version: medley_common::VERSION.into(),
        job: job.into(),
        generation: request.generation,
        step: request.step,
        peers: request.peers,
        config_hash: config::identity(config),
        data_hash: request.data_hash.clone(),
        state: state.clone(),
        files,
    };
    let standing = standing(storage, request.step)?;
    let committed = match standing {
        Some(whole) => {
            if is_wanted() {
                storage.discard(attempt)?;
            }
            whole
        }
        None => match put_in_place(storage, attempt, &manifest, is_wanted) {
            Ok(()) => manifest,
            // Another coordinator that led the job may have committed it meanwhile, and taken the files for that.
            Err(error) => self::standing(storage, request.step)?.ok_or(error)?,
        },
    };
    if !is_wanted() {
        return Err(unwanted(storage, request.step));
    }
    if let Err(error) = storage.set_latest(request.step) {
        // The checkpoint stands, and whoever resumes lists them; only people who read the file are told of an older one.
        tracing::warn!("the newest checkpoint is not named: {error}");
    }
    let bytes = committed.files.iter().map(|file| file.bytes).sum();
    Ok(Committed { step: request.step, directory: storage.checkpoint(request.step), bytes, state })
}

/// The whole checkpoint of a step; `None` where there is none, or a damaged one.
fn standing(storage: &Storage, step: u64) -> Result<Option<Manifest>, CheckpointError> {
    if !storage.is_committed(step)? {
        return Ok(None);
    }
    match verify(storage, step) {
        Ok(manifest) => Ok(Some(manifest)),
        Err(CheckpointError::Damaged { .. }) => Ok(None),
        // It may well be whole.
        Err(error) => Err(error),
    }
}

fn put_in_place(
    storage: &Storage,
    attempt: Attempt,
    manifest: &Manifest,
    is_wanted: &dyn Fn() -> bool,
) -> Result<(), CheckpointError> {
    for file in &manifest.files {
        check_file(storage, attempt, file)?;
    }
    if storage.is_committed(attempt.step)? {
        if !is_wanted() {
            return Err(unwanted(storage, attempt.step));
        }
        if standing(storage, attempt.step)?.is_none() {
            storage.set_aside(attempt.step)?;
        }
    }
    Ok(storage.commit_while(attempt, manifest, is_wanted)?)
}

fn unwanted(storage: &Storage, step: u64) -> CheckpointError {
    StorageError::Unwanted { place: storage.checkpoint(step) }.into()
}

fn check_file(storage: &Storage, attempt: Attempt, file: &ManifestFile) -> Result<(), CheckpointError> {
    let (bytes, sha256) = storage.measure(attempt, &file.name)?;
    if (bytes, &sha256) != (file.bytes, &file.sha256) {
        return Err(CheckpointError::Refused(format!(
            "{}/{}: holds {bytes} bytes with hash {sha256}, but the worker reported {} bytes with hash {}",
            storage.staging(attempt),
            file.name,
            file.bytes,
            file.sha256.escape_debug()
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use medley_common::{hash, run_directory};
    use std::fs;

    fn staged(storage: &Storage, step: u64) -> Commit {
        let attempt = Attempt { step, generation: 1 };
        let files = ["shared.safetensors", "peer-0.safetensors"].map(|name| {
            let contents = format!("{name} at {step}");
            storage.put(attempt, name, contents.as_bytes()).unwrap();
            ManifestFile { name: name.into(), bytes: contents.len() as u64, sha256: hash::sha256(contents.as_bytes()) }
        });
        Commit {
            step,
            generation: 1,
            staging: storage.staging(attempt),
            files: files.to_vec(),
            peers: 1,
            spared: Default::default(),
            state: serde_json::to_string(&TrainingState::default()).unwrap(),
            data_hash: "data".into(),
        }
    }

    fn run() -> (tempfile::TempDir, Storage) {
        let run = tempfile::tempdir().unwrap();
        let storage = Storage::of_run(run.path(), "").unwrap();
        (run, storage)
    }

    #[test]
    fn what_was_staged_becomes_a_verified_checkpoint() {
        let (run, storage) = run();
        let request = staged(&storage, 7);
        let committed = commit(&storage, "job", &RunConfig::default(), &request, &|| true).unwrap();
        assert_eq!(committed.directory, "checkpoints/step-7");
        let manifest = verify(&storage, 7).unwrap();
        assert_eq!((manifest.step, manifest.files.len()), (7, 2));
        assert_eq!(committed.bytes, manifest.files.iter().map(|f| f.bytes).sum::<u64>());
        assert!(!run.path().join(&request.staging).exists());
        let (latest, _) = run_directory::latest_checkpoint(run.path()).unwrap();
        assert_eq!((latest, storage.latest().unwrap()), (7, Some(7)));
        assert_eq!(fs::read_to_string(run.path().join("checkpoints/latest")).unwrap(), "step-7\n");
    }

    #[test]
    fn a_file_that_is_not_as_reported_makes_no_checkpoint() {
        for fault in ["short", "other", "missing", "twice", "outside", "no state"] {
            let (run, storage) = run();
            let mut request = staged(&storage, 3);
            let path = run.path().join(&request.staging).join("peer-0.safetensors");
            match fault {
                "short" => fs::write(&path, "peer").unwrap(),
                "other" => fs::write(&path, "peer-0.safetensors at 4").unwrap(),
                "missing" => fs::remove_file(&path).unwrap(),
                "twice" => request.files.push(request.files[0].clone()),
                "outside" => request.files[0].name = "../shared.safetensors".into(),
                _ => request.state = String::new(),
            }
            let outcome = commit(&storage, "job", &RunConfig::default(), &request, &|| true);
            let message = outcome.expect_err(fault).to_string();
            assert!(!message.contains('\n'), "{message}");
            assert_eq!(storage.latest().unwrap(), None, "{fault}");
        }
    }

    #[test]
    fn a_whole_checkpoint_of_the_step_is_kept_and_a_broken_one_replaced() {
        let (run, storage) = run();
        let config = RunConfig::default();
        commit(&storage, "first", &config, &staged(&storage, 5), &|| true).unwrap();
        commit(&storage, "second", &config, &staged(&storage, 5), &|| true).unwrap();
        assert_eq!(verify(&storage, 5).unwrap().job, "first");
        fs::write(run.path().join("checkpoints/step-5/peer-0.safetensors"), "cut").unwrap();
        commit(&storage, "third", &config, &staged(&storage, 5), &|| true).unwrap();
        assert_eq!(verify(&storage, 5).unwrap().job, "third");
        assert_eq!(storage.partial().unwrap(), [0_u64; 0]);
    }

    #[test]
    fn a_deposed_leader_changes_nothing_that_its_successor_committed() {
        let (run, storage) = run();
        let config = RunConfig::default();
        let request = staged(&storage, 5);
        commit(&storage, "successor", &config, &request, &|| true).unwrap();
        // The files that it was asked to commit are gone into the checkpoint: to it as well that is a commit.
        let committed = commit(&storage, "deposed", &config, &request, &|| true).unwrap();
        assert_eq!((committed.step, verify(&storage, 5).unwrap().job.as_str()), (5, "successor"));

        // The successor commits while the deposed one has verified its files and is about to rename them.
        let request = staged(&storage, 9);
        let calls = std::cell::Cell::new(0);
        let intrude = || {
            if calls.replace(calls.get() + 1) == 0 {
                commit(&storage, "successor", &config, &request, &|| true).unwrap();
            }
            true
        };
        commit(&storage, "deposed", &config, &request, &intrude).unwrap();
        assert!(calls.get() > 0);
        assert_eq!(verify(&storage, 9).unwrap().job, "successor");

        // One that knows that it is deposed leaves everything alone, the name of the newest too.
        let request = staged(&storage, 12);
        let error = commit(&storage, "deposed", &config, &request, &|| false).unwrap_err();
        assert!(matches!(error, CheckpointError::Storage(StorageError::Unwanted { .. })), "{error}");
        assert!(run.path().join(&request.staging).join("peer-0.safetensors").is_file());
        assert_eq!(storage.steps().unwrap(), [5, 9]);
        assert_eq!(fs::read_to_string(run.path().join("checkpoints/latest")).unwrap(), "step-9\n");
    }
}
