//! Which checkpoints are deleted, and when.

use super::{CheckpointError, io};
use medley_common::manifest::{self, Manifest};
use medley_common::run_directory;
use std::fs;
use std::path::Path;

/// Removes what a coordinator that was killed left behind: staging directories, and checkpoints whose removal had
/// begun. Must not run while workers write.
///
/// # Errors
/// [`CheckpointError::Io`].
pub fn remove_stale_staging(run: &Path) -> Result<(), CheckpointError> {
    let directory = run.join(run_directory::CHECKPOINTS);
    for (name, path) in entries(&directory)? {
        if name.starts_with(".step-") {
            fs::remove_dir_all(&path).map_err(io(&path, "remove"))?;
        }
    }
    Ok(())
}

/// Keeps the `keep` newest checkpoints (0: all) and those of the steps that were the best for them, which a training
/// with patience goes back to, and removes the others; the steps that were removed. A checkpoint is renamed before its
/// files are deleted, so that one that is visible stays whole.
///
/// # Errors
/// [`CheckpointError::Io`].
pub fn retain(run: &Path, keep: usize) -> Result<Vec<u64>, CheckpointError> {
    if keep == 0 {
        return Ok(Vec::new());
    }
    let directory = run.join(run_directory::CHECKPOINTS);
    let mut steps: Vec<u64> =
        entries(&directory)?.iter().filter_map(|(name, _)| run_directory::checkpoint_step(name)).collect();
    steps.sort_unstable_by(|one, other| other.cmp(one));
    let (kept, old) = steps.split_at(keep.min(steps.len()));
    let best: Vec<u64> = kept.iter().filter_map(|step| best_step(&run_directory::checkpoint(run, *step))).collect();
    let removed: Vec<u64> = old.iter().copied().filter(|step| !best.contains(step)).collect();
    for step in &removed {
        let path = run_directory::checkpoint(run, *step);
        let hidden = directory.join(format!(".step-{step}.removed"));
        fs::rename(&path, &hidden).map_err(io(&path, "remove"))?;
        fs::remove_dir_all(&hidden).map_err(io(&hidden, "remove"))?;
    }
    Ok(removed)
}

/// The step that was the best when a checkpoint was written; none where its manifest cannot be read, as it is then of no
/// use to anybody.
fn best_step(checkpoint: &Path) -> Option<u64> {
    let text = fs::read(checkpoint.join(manifest::FILE)).ok()?;
    serde_json::from_slice(&text).ok().map(|manifest: Manifest| manifest.state.best_step)
}

fn entries(directory: &Path) -> Result<Vec<(String, std::path::PathBuf)>, CheckpointError> {
    let listing = match fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        listing => listing.map_err(io(directory, "list"))?,
    };
    listing
        .map(|entry| {
            let entry = entry.map_err(io(directory, "list"))?;
            Ok((entry.file_name().to_string_lossy().into_owned(), entry.path()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use medley_common::manifest::TrainingState;

    /// Checkpoints of some steps, each with the step that was the best by then.
    fn run_with(steps: &[(u64, u64)]) -> tempfile::TempDir {
        let run = tempfile::tempdir().unwrap();
        for (step, best_step) in steps {
            let directory = run_directory::checkpoint(run.path(), *step);
            fs::create_dir_all(&directory).unwrap();
            let manifest = Manifest {
                format: manifest::FORMAT,
                version: String::new(),
                job: String::new(),
                generation: 1,
                step: *step,
                peers: 2,
                config_hash: String::new(),
                data_hash: String::new(),
                state: TrainingState { best_step: *best_step, ..TrainingState::default() },
                files: Vec::new(),
            };
            fs::write(directory.join(manifest::FILE), serde_json::to_vec(&manifest).unwrap()).unwrap();
        }
        run
    }

    #[test]
    fn the_newest_and_the_best_stay() {
        let run = run_with(&[(5, 5), (10, 5), (20, 20), (30, 20), (40, 20), (100, 100)]);
        assert_eq!(retain(run.path(), 0).unwrap(), [0_u64; 0]);
        assert_eq!(retain(run.path(), 2).unwrap(), [30, 10, 5], "20 is what 40 would go back to");
        assert_eq!(retain(run.path(), 2).unwrap(), [0_u64; 0]);
        assert_eq!(retain(run.path(), 1).unwrap(), [40, 20]);
        assert_eq!(run_directory::latest_checkpoint(run.path()).unwrap().0, 100);
        assert_eq!(retain(run.path(), 9).unwrap(), [0_u64; 0]);
    }

    #[test]
    fn stale_staging_goes_and_checkpoints_stay() {
        let run = run_with(&[(10, 10)]);
        let checkpoints = run.path().join(run_directory::CHECKPOINTS);
        fs::create_dir(checkpoints.join(".step-20.staging")).unwrap();
        fs::create_dir(checkpoints.join(".step-5.removed")).unwrap();
        remove_stale_staging(run.path()).unwrap();
        assert_eq!(fs::read_dir(&checkpoints).unwrap().count(), 1);
        remove_stale_staging(&run.path().join("nowhere")).unwrap();
    }
}
