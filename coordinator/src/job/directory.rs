//! A run directory that is there whole or not at all.

use super::{JobError, SharedStore};
use crate::store::{Embedded, JobRecord};
use medley_common::config::{self, RunConfig};
use medley_common::run_directory;
use rustix::io::Errno;
use rustix::process::{Pid, getpid, test_kill_process};
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
pub async fn create(run: &Path, config: &RunConfig, record: &JobRecord) -> Result<SharedStore, JobError> {
    remove_leftovers(run);
    let temporary = run.with_file_name(format!("{}{}", temporary_prefix(run)?, std::process::id()));
    let created = fill(&temporary, config, record).await.and_then(|()| {
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

/// Of the name under which a run directory is made; the number of the process that makes it follows.
fn temporary_prefix(run: &Path) -> Result<String, JobError> {
    let name = run.file_name().ok_or_else(|| JobError::Exists(run.into()))?;
    Ok(format!(".{}.new-", name.to_string_lossy()))
}

/// Removes what processes that were killed while they made this run directory have left.
fn remove_leftovers(run: &Path) {
    let (Ok(prefix), Some(entries)) =
        (temporary_prefix(run), run.parent().and_then(|parent| fs::read_dir(parent).ok()))
    else {
        return;
    };
    let is_leftover = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        let maker = name.and_then(|name| name.strip_prefix(&prefix)?.parse().ok());
        maker.is_some_and(|maker| !is_another_alive(maker))
    };
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())).filter(is_leftover) {
        if let Err(error) = fs::remove_dir_all(&path) {
            tracing::warn!("cannot remove {}, which a killed process left: {error}", path.display());
        }
    }
}

/// Whether a number is that of another living process. This one's own, which in a container is often the same every
/// time, says nothing of the process that had it before.
fn is_another_alive(process: i32) -> bool {
    let Some(id) = Pid::from_raw(process).filter(|id| *id != getpid()) else {
        return false;
    };
    !matches!(test_kill_process(id), Err(Errno::SRCH))
}

async fn fill(directory: &Path, config: &RunConfig, record: &JobRecord) -> Result<(), JobError> {
    let parent = directory.parent().unwrap_or(directory);
    fs::create_dir_all(parent).map_err(unwritable(parent))?;
    let make = || {
        fs::create_dir(directory)?;
        fs::create_dir(directory.join(run_directory::LOGS))?;
        fs::create_dir(directory.join(run_directory::CHECKPOINTS))?;
        write_config(directory, config)
    };
    make().map_err(unwritable(directory))?;
    record.save(&Embedded::open(&directory.join(run_directory::STORE))?).await?;
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

/// Makes renames in a directory durable.
fn sync_directory(directory: &Path) -> std::io::Result<()> {
    File::open(directory)?.sync_all()
}

pub fn unwritable(path: &Path) -> impl Fn(std::io::Error) -> JobError {
    move |source| JobError::Unwritable { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[tokio::test]
    async fn a_new_directory_is_whole_and_a_used_one_is_refused() {
        let outside = tempfile::tempdir().unwrap();
        let run = outside.path().join("runs/first");
        let record = JobRecord::new("j".into());
        let store = create(&run, &RunConfig::default(), &record).await.unwrap();
        assert_eq!(JobRecord::load(store.as_ref()).await.unwrap(), Some(record.clone()));
        assert!(run.join("run.toml").is_file() && run.join("logs").is_dir());
        let message = check_absent(&run).unwrap_err().to_string();
        assert!(message.contains("--resume"), "{message}");
        assert!(create(&run, &RunConfig::default(), &record).await.is_err());
        let names = fs::read_dir(outside.path().join("runs")).unwrap();
        assert_eq!(names.count(), 1, "nothing half-written stays");
    }

    #[tokio::test]
    async fn what_a_killed_process_left_is_removed_and_what_a_living_one_makes_is_not() {
        let outside = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        let own_parent = std::os::unix::process::parent_id();
        let make = |name: String| {
            let path = outside.path().join(name);
            fs::create_dir_all(path.join("logs")).unwrap();
            path
        };
        let leftovers = [make(format!(".run.new-{}", child.id())), make(format!(".run.new-{}", std::process::id()))];
        let others = [
            make(format!(".run.new-{own_parent}")),
            make(format!(".run-2.new-{}", child.id())),
            make(".run.new-backup".into()),
        ];
        let run = outside.path().join("run");
        create(&run, &RunConfig::default(), &JobRecord::new("j".into())).await.unwrap();
        assert!(!leftovers.iter().any(|path| path.exists()));
        assert!(others.iter().all(|path| path.exists()));
    }

    #[tokio::test]
    async fn what_cannot_be_written_leaves_nothing() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("file"), "").unwrap();
        let run = outside.path().join("file/run");
        let record = JobRecord::new("j".into());
        let error = create(&run, &RunConfig::default(), &record).await.err().unwrap();
        assert!(matches!(error, JobError::Unwritable { .. }), "{error}");
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
    }
}
