//! Which checkpoints are deleted, and when.

use super::{CheckpointError, io};
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

/// Keeps the `keep` newest checkpoints (0: all) and the one of `best_step`, and removes the others; the steps that
/// were removed. A checkpoint is renamed before its files are deleted, so that one that is visible stays whole.
///
/// # Errors
/// [`CheckpointError::Io`].
pub fn retain(run: &Path, keep: usize, best_step: u64) -> Result<Vec<u64>, CheckpointError> {
    if keep == 0 {
        return Ok(Vec::new());
    }
    let directory = run.join(run_directory::CHECKPOINTS);
    let mut steps: Vec<u64> =
        entries(&directory)?.iter().filter_map(|(name, _)| run_directory::checkpoint_step(name)).collect();
    steps.sort_unstable_by(|one, other| other.cmp(one));
    let removed: Vec<u64> = steps.into_iter().skip(keep).filter(|step| *step != best_step).collect();
    for step in &removed {
        let path = run_directory::checkpoint(run, *step);
        let hidden = directory.join(format!(".step-{step}.removed"));
        fs::rename(&path, &hidden).map_err(io(&path, "remove"))?;
        fs::remove_dir_all(&hidden).map_err(io(&hidden, "remove"))?;
    }
    Ok(removed)
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

    fn run_with(steps: &[u64]) -> tempfile::TempDir {
        let run = tempfile::tempdir().unwrap();
        for step in steps {
            let directory = run_directory::checkpoint(run.path(), *step);
            fs::create_dir_all(&directory).unwrap();
            fs::write(directory.join(medley_common::manifest::FILE), "{}").unwrap();
        }
        run
    }

    #[test]
    fn the_newest_and_the_best_stay() {
        let run = run_with(&[10, 20, 30, 40, 100]);
        assert_eq!(retain(run.path(), 2, 20).unwrap(), [30, 10]);
        assert_eq!(retain(run.path(), 2, 20).unwrap(), [0_u64; 0]);
        assert_eq!(retain(run.path(), 0, 0).unwrap(), [0_u64; 0]);
        assert_eq!(retain(run.path(), 1, 0).unwrap(), [40, 20]);
        assert_eq!(run_directory::latest_checkpoint(run.path()).unwrap().0, 100);
    }

    #[test]
    fn stale_staging_goes_and_checkpoints_stay() {
        let run = run_with(&[10]);
        let checkpoints = run.path().join(run_directory::CHECKPOINTS);
        fs::create_dir(checkpoints.join(".step-20.staging")).unwrap();
        fs::create_dir(checkpoints.join(".step-5.removed")).unwrap();
        remove_stale_staging(run.path()).unwrap();
        assert_eq!(fs::read_dir(&checkpoints).unwrap().count(), 1);
        remove_stale_staging(&run.path().join("nowhere")).unwrap();
    }
}
