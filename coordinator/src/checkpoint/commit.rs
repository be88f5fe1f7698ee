//! From the files that workers put to a checkpoint.

use super::{CheckpointError, verify};
use crate::cluster::Commit;
use medley_common::config::{self, RunConfig};
use medley_common::manifest::{self, Manifest, ManifestFile, TrainingState};
use medley_common::storage::{Attempt, Storage};

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
/// checkpoint of the same step stands already (a resumed job that stopped before its first step), it is kept and the new copy
/// removed. Blocks: reads every file again.
///
/// # Errors
/// [`CheckpointError::Refused`] where the files are not as the workers said; [`CheckpointError::Storage`].
pub fn commit(
    storage: &Storage,
    job: &str,
    config: &RunConfig,
    request: &Commit,
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
    for file in &files {
        check_file(storage, attempt, file)?;
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
    let bytes = manifest.files.iter().map(|file| file.bytes).sum();
    if storage.is_committed(request.step)? && verify(storage, request.step).is_ok() {
        storage.discard(attempt)?;
    } else {
        storage.commit(attempt, &manifest)?;
    }
    if let Err(error) = storage.set_latest(request.step) {
        // The checkpoint stands, and a listing finds it.
        tracing::warn!("the newest checkpoint is not named: {error}");
    }
    Ok(Committed { step: request.step, directory: storage.checkpoint(request.step), bytes, state })
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
        let committed = commit(&storage, "job", &RunConfig::default(), &request).unwrap();
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
            let outcome = commit(&storage, "job", &RunConfig::default(), &request);
            let message = outcome.expect_err(fault).to_string();
            assert!(!message.contains('\n'), "{message}");
            assert_eq!(storage.latest().unwrap(), None, "{fault}");
        }
    }

    #[test]
    fn a_whole_checkpoint_of_the_step_is_kept_and_a_broken_one_replaced() {
        let (run, storage) = run();
        let config = RunConfig::default();
        commit(&storage, "first", &config, &staged(&storage, 5)).unwrap();
        commit(&storage, "second", &config, &staged(&storage, 5)).unwrap();
        assert_eq!(verify(&storage, 5).unwrap().job, "first");
        fs::write(run.path().join("checkpoints/step-5/peer-0.safetensors"), "cut").unwrap();
        commit(&storage, "third", &config, &staged(&storage, 5)).unwrap();
        assert_eq!(verify(&storage, 5).unwrap().job, "third");
        assert_eq!(storage.partial().unwrap(), [0_u64; 0]);
    }
}
