//! The run directory of a new run.

use medley_common::config::{self, RunConfig};
use medley_common::run_directory;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Why a run directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// There is one already.
    #[error("{0} exists; go on with it by --resume {0}, or name another one by --out DIR")]
    Exists(String),
    /// It cannot be made or written to.
    #[error("cannot write to the run directory {path}: {source}; name another one by --out DIR")]
    Unwritable {
        /// The directory.
        path: String,
        /// Why.
        source: std::io::Error,
    },
}

/// A run directory that this process made.
#[derive(Debug)]
pub struct Created {
    path: PathBuf,
    /// The outermost directory that was not there before.
    first_made: Option<PathBuf>,
}

/// Makes a run directory and writes the resolved configuration into it. An empty directory that is there already
/// is taken as it is.
///
/// # Errors
/// Where something is there already, or where nothing can be written. Nothing new remains then.
pub fn create(path: &Path, config: &RunConfig) -> Result<Created, DirectoryError> {
    let unwritable = |source| DirectoryError::Unwritable { path: path.display().to_string(), source };
    match fs::read_dir(path).map(|entries| entries.count()) {
        Ok(1..) => {
            return Err(DirectoryError::Exists(path.display().to_string()));
        }
        Err(error) if error.kind() == ErrorKind::NotADirectory => {
            return Err(DirectoryError::Exists(path.display().to_string()));
        }
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(unwritable(error)),
        _ => {}
    }
    let created = Created {
        path: path.to_owned(),
        first_made: path
            .ancestors()
            .take_while(|ancestor| !ancestor.as_os_str().is_empty() && !ancestor.exists())
            .last()
            .map(Path::to_owned),
    };
    let text = config::to_toml(config);
    let written = fs::create_dir_all(path.join(run_directory::LOGS))
        .and_then(|()| super::write_whole(&path.join(run_directory::CONFIG), text.as_bytes()));
    match written {
        Ok(()) => Ok(created),
        Err(source) => {
            created.remove();
            Err(unwritable(source))
        }
    }
}

impl Created {
    /// Removes what was made, for a run that bad input ended before it began.
    pub fn remove(self) {
        let removed = match &self.first_made {
            Some(first) => fs::remove_dir_all(first),
            None => fs::read_dir(&self.path).and_then(|entries| {
                entries.into_iter().try_for_each(|entry| {
                    let path = entry?.path();
                    if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
                })
            }),
        };
        if let Err(error) = removed
            && error.kind() != ErrorKind::NotFound
        {
            tracing::warn!("cannot remove {}: {error}", self.path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_run_directory_that_is_removed_leaves_nothing_that_was_not_there() {
        let outside = tempfile::tempdir().unwrap();
        let path = outside.path().join("runs/first");
        let created = create(&path, &RunConfig::default()).unwrap();
        assert!(path.join("run.toml").is_file());
        created.remove();
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);

        // A directory that was there stays, and so does what stands beside it.
        fs::create_dir_all(&path).unwrap();
        create(&path, &RunConfig::default()).unwrap().remove();
        assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
    }

    #[test]
    fn a_used_directory_and_one_that_cannot_be_made_are_refused() {
        let outside = tempfile::tempdir().unwrap();
        let path = outside.path().join("run");
        create(&path, &RunConfig::default()).unwrap();
        let message = create(&path, &RunConfig::default()).unwrap_err().to_string();
        assert!(message.contains("--resume") && message.contains("--out"), "{message}");

        let below_a_file = path.join("run.toml/run");
        let message = create(&below_a_file, &RunConfig::default()).unwrap_err().to_string();
        assert!(message.contains("run.toml/run"), "{message}");
        let message = create(&path.join("run.toml"), &RunConfig::default()).unwrap_err().to_string();
        assert!(message.contains("exists"), "{message}");
    }
}
