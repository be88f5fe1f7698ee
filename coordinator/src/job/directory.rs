//! A run directory that is there whole or not at all.

use super::{JobError, SharedStore};
use crate::checkpoint::sync_directory;
use crate::store::{Embedded, JobRecord};
use medley_common::config::{self, RunConfig};
use medley_common::run_directory;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Refuses a run directory that holds something already; an empty directory holds nothing.
///
/// # Errors
/// [`JobError::Exists`], [`JobError::Unwritable`].
pub fn check_absent(run: &Path) -> Result<(), JobError> {
    match fs::read_dir(run).map(Iterator::count) {
        Ok(0) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Err(unwritable(run)(error)),
        _ => Err(JobError::Exists(run.to_owned())),
    }
}

/// Removes the run directory of a new job whose input is bad after all, so that a corrected job can take its name.
pub fn withdraw(run: &Path) {
    if let Err(error) = fs::remove_dir_all(run) {
        tracing::warn!("cannot remove {}: {error}; remove it before the next attempt", run.display());
    }
}

/// Makes a run directory with its configuration and its store, under another name that becomes the right one when
/// all is there.
///
/// # Errors
/// [`JobError::Unwritable`], [`JobError::Exists`], [`JobError::Store`]; what was made is removed.
pub fn create(run: &Path, config: &RunConfig, record: &JobRecord) -> Result<SharedStore, JobError> {
    let temporary = temporary_name(run)?;
    let created = fill(&temporary, config, record).and_then(|()| {
        check_absent(run)?;
        fs::rename(&temporary, run).map_err(unwritable(run))?;
        let parent = run.parent().unwrap_or(run);
        sync_directory(parent).map_err(unwritable(run))
    });
    if let Err(error) = created {
        // The first error is the one to report.
        let _ = fs::remove_dir_all(&temporary);
        return Err(error);
    }
    Ok(Arc::new(Embedded::open(&run.join(run_directory::STORE))?))
}

fn temporary_name(run: &Path) -> Result<PathBuf, JobError> {
    let name = run.file_name().ok_or_else(|| JobError::Exists(run.into()))?;
    let name = format!(".{}.new-{}", name.to_string_lossy(), std::process::id());
    Ok(run.with_file_name(name))
}

fn fill(directory: &Path, config: &RunConfig, record: &JobRecord) -> Result<(), JobError> {
    let parent = directory.parent().unwrap_or(directory);
    fs::create_dir_all(parent).map_err(unwritable(parent))?;
    let make = || {
        fs::create_dir(directory)?;
        fs::create_dir(directory.join(run_directory::LOGS))?;
        fs::create_dir(directory.join(run_directory::CHECKPOINTS))?;
        write_config(directory, config)
    };
    make().map_err(unwritable(directory))?;
    record.save(&Embedded::open(&directory.join(run_directory::STORE))?)?;
    sync_directory(directory).map_err(unwritable(directory))
}

/// Writes `run.toml`: the old one stays until the new one is whole.
pub fn write_config(run: &Path, config: &RunConfig) -> std::io::Result<()> {
    let temporary = run.join(format!(".{}", run_directory::CONFIG));
    let mut file = File::create(&temporary)?;
    file.write_all(config::to_toml(config).as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, run.join(run_directory::CONFIG))?;
    sync_directory(run)
}

pub fn unwritable(path: &Path) -> impl Fn(std::io::Error) -> JobError {
    move |source| JobError::Unwritable { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_new_directory_is_whole_and_a_used_one_is_refused() {
        let outside = tempfile::tempdir().unwrap();
        let run = outside.path().join("runs/first");
        let record = JobRecord::new("j".into());
        let store = create(&run, &RunConfig::default(), &record).unwrap();
        assert_eq!(JobRecord::load(store.as_ref()).unwrap(), Some(record.clone()));
        assert!(run.join("run.toml").is_file() && run.join("logs").is_dir());
        let message = check_absent(&run).unwrap_err().to_string();
        assert!(message.contains("--resume"), "{message}");
        assert!(create(&run, &RunConfig::default(), &record).is_err());
        let names = fs::read_dir(outside.path().join("runs")).unwrap();
        assert_eq!(names.count(), 1, "nothing half-written stays");
    }

    #[test]
    fn what_cannot_be_written_leaves_nothing() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("file"), "").unwrap();
        let run = outside.path().join("file/run");
        let record = JobRecord::new("j".into());
        let error = create(&run, &RunConfig::default(), &record).err().unwrap();
        assert!(matches!(error, JobError::Unwritable { .. }), "{error}");
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
    }
}
