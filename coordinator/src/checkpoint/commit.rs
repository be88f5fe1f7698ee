//! From files in a staging directory to a checkpoint.

use super::{CheckpointError, io, sync_directory, verify};
use crate::cluster::Commit;
use medley_common::config::{self, RunConfig};
use medley_common::manifest::{self, Manifest, ManifestFile, TrainingState};
use medley_common::{hash, run_directory};
use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

/// A checkpoint that is in place.
#[derive(Debug, Clone, PartialEq)]
pub struct Committed {
    /// Its step.
    pub step: u64,
    /// Its directory, relative to the run directory.
    pub directory: String,
    /// Size of its files, without the manifest.
    pub bytes: u64,
    /// What its manifest says of the training.
    pub state: TrainingState,
}

/// Where the files of a checkpoint are gathered before it is committed, relative to the run directory.
pub fn staging(step: u64) -> String {
    format!("{}/.step-{step}.staging", run_directory::CHECKPOINTS)
}

/// Verifies the staged files, writes the manifest beside them and renames the directory into place; everything is
/// synced before the rename, and the rename after it. Where a whole checkpoint of the same step stands already (a
/// resumed job that stopped before its first step), it is kept and the staged copy removed. Blocks: re-reads every
/// file.
///
/// # Errors
/// [`CheckpointError::Refused`] where the files are not as the workers said; [`CheckpointError::Io`].
pub fn commit(run: &Path, job: &str, config: &RunConfig, request: &Commit) -> Result<Committed, CheckpointError> {
    let expected = staging(request.step);
    if request.staging != expected {
        let message = format!("the workers wrote to {:?}, not to {expected}", request.staging);
        return Err(CheckpointError::Refused(message));
    }
    let state: TrainingState = serde_json::from_str(&request.state)
        .map_err(|error| CheckpointError::Refused(format!("the worker of rank 0 sent no training state: {error}")))?;
    let staged = run.join(&expected);
    let mut files = request.files.clone();
    files.sort_by(|one, other| one.name.cmp(&other.name));
    if let Some(fault) = fault_of_names(&files) {
        return Err(CheckpointError::Refused(format!("the workers reported {fault}")));
    }
    for file in &files {
        check_staged(&staged, file)?;
    }
    let manifest = Manifest {
        format: manifest::FORMAT,
        version: medley_common::VERSION.into(),
        job: job.into(),
        generation: request.generation,
        step: request.step,
        peers: u32::try_from(config.cohort.peers).unwrap_or(u32::MAX),
        config_hash: config::identity(config),
        data_hash: request.data_hash.clone(),
        state: state.clone(),
        files,
    };
    write_manifest(&staged, &manifest)?;
    let bytes = manifest.files.iter().map(|file| file.bytes).sum();
    let directory = run_directory::checkpoint(run, request.step);
    put_in_place(&staged, &directory)?;
    Ok(Committed {
        step: request.step,
        directory: format!("{}/step-{}", run_directory::CHECKPOINTS, request.step),
        bytes,
        state,
    })
}

/// What is wrong with the names of a checkpoint's files: each must be once, and inside its directory.
pub(super) fn fault_of_names(files: &[ManifestFile]) -> Option<String> {
    let mut seen = BTreeSet::new();
    for ManifestFile { name, .. } in files {
        let is_plain = Path::new(name).file_name().is_some_and(|plain| plain == name.as_str());
        if !is_plain || name.starts_with('.') || name == manifest::FILE || name.contains(char::is_control) {
            return Some(format!("a file named {name:?}"));
        }
        if !seen.insert(name) {
            return Some(format!("{name} twice"));
        }
    }
    files.is_empty().then(|| "no files".into())
}

fn check_staged(staged: &Path, file: &ManifestFile) -> Result<(), CheckpointError> {
    let path = staged.join(&file.name);
    let found = measure(&path)?;
    if found != (file.bytes, file.sha256.clone()) {
        return Err(CheckpointError::Refused(format!(
            "{}: holds {} bytes with hash {}, but the worker reported {} bytes with hash {}",
            path.display(),
            found.0,
            found.1,
            file.bytes,
            file.sha256.escape_debug()
        )));
    }
    Ok(())
}

/// Size and hash of a file as it is on the disk.
pub(super) fn measure(path: &Path) -> Result<(u64, String), CheckpointError> {
    let file = fs::File::open(path).map_err(io(path, "read"))?;
    let bytes = file.metadata().map_err(io(path, "read"))?.len();
    let sha256 = hash::sha256_reader(file).map_err(io(path, "read"))?;
    Ok((bytes, sha256))
}

fn write_manifest(staged: &Path, manifest: &Manifest) -> Result<(), CheckpointError> {
    let temporary = staged.join(format!(".{}", manifest::FILE));
    let path = staged.join(manifest::FILE);
    let text = serde_json::to_vec_pretty(manifest).expect("a manifest has string keys only");
    let write = || {
        let mut file = fs::File::create(&temporary)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
        sync_directory(staged)
    };
    write().map_err(io(&path, "write"))
}

fn put_in_place(staged: &Path, directory: &Path) -> Result<(), CheckpointError> {
    if directory.exists() {
        if verify(directory).is_ok() {
            return fs::remove_dir_all(staged).map_err(io(staged, "remove"));
        }
        fs::remove_dir_all(directory).map_err(io(directory, "remove"))?;
    }
    fs::rename(staged, directory).map_err(io(directory, "rename the staging directory to it"))?;
    let parent: PathBuf = directory.parent().map_or_else(PathBuf::new, Path::to_owned);
    sync_directory(&parent).map_err(io(&parent, "sync"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::verify;
    use super::*;

    fn staged(run: &Path, step: u64) -> Commit {
        let directory = run.join(staging(step));
        fs::create_dir_all(&directory).unwrap();
        let files = ["shared.safetensors", "peer-0.safetensors"].map(|name| {
            let contents = format!("{name} at {step}");
            fs::write(directory.join(name), &contents).unwrap();
            ManifestFile { name: name.into(), bytes: contents.len() as u64, sha256: hash::sha256(contents.as_bytes()) }
        });
        Commit {
            step,
            generation: 1,
            staging: staging(step),
            files: files.to_vec(),
            state: serde_json::to_string(&TrainingState::default()).unwrap(),
            data_hash: "data".into(),
        }
    }

    #[test]
    fn what_was_staged_becomes_a_verified_checkpoint() {
        let run = tempfile::tempdir().unwrap();
        let request = staged(run.path(), 7);
        let committed = commit(run.path(), "job", &RunConfig::default(), &request).unwrap();
        assert_eq!(committed.directory, "checkpoints/step-7");
        let directory = run.path().join(&committed.directory);
        let manifest = verify(&directory).unwrap();
        assert_eq!((manifest.step, manifest.files.len()), (7, 2));
        assert_eq!(committed.bytes, manifest.files.iter().map(|f| f.bytes).sum::<u64>());
        assert!(!run.path().join(staging(7)).exists());
        let (latest, _) = run_directory::latest_checkpoint(run.path()).unwrap();
        assert_eq!(latest, 7);
    }

    #[test]
    fn a_file_that_is_not_as_reported_makes_no_checkpoint() {
        for fault in ["short", "other", "missing", "twice", "outside", "no state"] {
            let run = tempfile::tempdir().unwrap();
            let mut request = staged(run.path(), 3);
            let path = run.path().join(staging(3)).join("peer-0.safetensors");
            match fault {
                "short" => fs::write(&path, "peer").unwrap(),
                "other" => fs::write(&path, "peer-0.safetensors at 4").unwrap(),
                "missing" => fs::remove_file(&path).unwrap(),
                "twice" => request.files.push(request.files[0].clone()),
                "outside" => request.files[0].name = "../shared.safetensors".into(),
                _ => request.state = String::new(),
            }
            let outcome = commit(run.path(), "job", &RunConfig::default(), &request);
            let message = outcome.expect_err(fault).to_string();
            assert!(!message.contains('\n'), "{message}");
            assert_eq!(run_directory::latest_checkpoint(run.path()), None, "{fault}");
        }
    }

    #[test]
    fn a_whole_checkpoint_of_the_step_is_kept_and_a_broken_one_replaced() {
        let run = tempfile::tempdir().unwrap();
        let config = RunConfig::default();
        commit(run.path(), "first", &config, &staged(run.path(), 5)).unwrap();
        commit(run.path(), "second", &config, &staged(run.path(), 5)).unwrap();
        let directory = run_directory::checkpoint(run.path(), 5);
        assert_eq!(verify(&directory).unwrap().job, "first");
        fs::write(directory.join("peer-0.safetensors"), "cut").unwrap();
        commit(run.path(), "third", &config, &staged(run.path(), 5)).unwrap();
        assert_eq!(verify(&directory).unwrap().job, "third");
        assert!(!run.path().join(staging(5)).exists());
    }
}
