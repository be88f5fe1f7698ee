//! Where the worker binary is, and whether it is of our version.

use super::LaunchError;
use medley_common::environment;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const NAME: &str = "medley-worker";

/// Turns of a waiting thread's loop before it sleeps, some microseconds. Measured with the quickstart's cohort in one worker
/// on two cores: alone within a tenth of 100,000 turns, beside another such job twelve times as fast.
const SPIN_COUNT: &str = "1000";

/// A worker binary that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerBinary {
    path: PathBuf,
}

impl WorkerBinary {
    /// Looks where the environment says, else beside this program, else on `PATH`.
    ///
    /// # Errors
    /// [`LaunchError::Named`], or [`LaunchError::Missing`] with all places.
    pub fn find() -> Result<Self, LaunchError> {
        Self::find_in(
            std::env::var_os(environment::WORKER_BINARY).map(PathBuf::from),
            std::env::current_exe().ok().as_deref().and_then(Path::parent),
            &std::env::var_os("PATH").unwrap_or_default(),
        )
    }

    fn find_in(
        named: Option<PathBuf>,
        beside: Option<&Path>,
        search_path: &std::ffi::OsStr,
    ) -> Result<Self, LaunchError> {
        if let Some(path) = named {
            return if path.is_file() {
                Ok(Self { path })
            } else {
                let variable = environment::WORKER_BINARY;
                Err(LaunchError::Named { variable, path })
            };
        }
        let beside = beside.map(|directory| directory.join(NAME));
        let mut candidates =
            beside.iter().cloned().chain(std::env::split_paths(search_path).map(|directory| directory.join(NAME)));
        match candidates.find(|path| path.is_file()) {
            Some(path) => Ok(Self { path }),
            None => {
                let beside = beside.map(|path| format!("{}, ", path.display()));
                let looked = format!("{}every directory of PATH", beside.unwrap_or_default());
                Err(LaunchError::Missing { looked })
            }
        }
    }

    /// A binary at a known place.
    pub fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// A command that runs it. Unless the caller's own environment says otherwise, threads that wait for one another
    /// inside a product soon sleep: by OpenMP's default they spin for milliseconds, and processes that share cores so
    /// take the time that the others need.
    pub fn command(&self) -> Command {
        self.command_in(|variable| std::env::var_os(variable).is_some())
    }

    fn command_in(&self, is_set: impl Fn(&str) -> bool) -> Command {
        let mut command = Command::new(&self.path);
        if !is_set(environment::OPENMP_SPIN_COUNT) && !is_set(environment::OPENMP_WAIT_POLICY) {
            command.env(environment::OPENMP_SPIN_COUNT, SPIN_COUNT);
        }
        command
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Asks the binary for its version. Blocks until it answers.
    ///
    /// # Errors
    /// [`LaunchError::Version`] where it is another than ours, [`LaunchError::Unusable`] where it has none.
    pub fn check_version(&self) -> Result<(), LaunchError> {
        let unusable = |message: String| LaunchError::Unusable { path: self.path.clone(), message };
        let output = self
            .command()
            .arg("--version")
            .stdin(Stdio::null())
            .output()
            .map_err(|error| unusable(error.to_string()))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let ours = medley_common::VERSION;
        match text.trim().strip_prefix(NAME).map(str::trim) {
            Some(found) if found == ours => Ok(()),
            Some(found) if !found.is_empty() => Err(LaunchError::Version {
                path: self.path.clone(),
                found: found.lines().next().unwrap_or_default().to_owned(),
                ours,
            }),
            _ => {
                let complaint = String::from_utf8_lossy(&output.stderr);
                let message = super::process::last_line(&complaint)
                    .unwrap_or_else(|| format!("--version did not print `{NAME} {ours}`"));
                Err(unusable(message))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::process::tests::script;
    use super::*;
    use medley_common::exit;

    #[test]
    fn waiting_threads_soon_sleep_unless_the_caller_says_otherwise() {
        let count = |is_set: fn(&str) -> bool| {
            let command = WorkerBinary::at(NAME.into()).command_in(is_set);
            command.get_envs().map(|(_, value)| value.unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(count(|_| false), [SPIN_COUNT]);
        assert!(count(|variable| variable == "GOMP_SPINCOUNT").is_empty());
        assert!(count(|variable| variable == "OMP_WAIT_POLICY").is_empty());
    }

    #[test]
    fn the_environment_comes_first_then_beside_then_path() {
        let directory = tempfile::tempdir().unwrap();
        let place = |name: &str| {
            let folder = directory.path().join(name);
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join(NAME), "").unwrap();
            folder
        };
        let (named, beside, on_path) = (place("named").join(NAME), place("beside"), place("path"));
        let found = |named: Option<PathBuf>, beside: &Path| {
            WorkerBinary::find_in(named, Some(beside), on_path.as_os_str()).unwrap().path
        };
        let empty = tempfile::tempdir().unwrap();
        assert_eq!(found(Some(named.clone()), &beside), named);
        assert_eq!(found(None, &beside), beside.join(NAME));
        assert_eq!(found(None, empty.path()), on_path.join(NAME));

        let error = WorkerBinary::find_in(None, Some(empty.path()), "".as_ref()).unwrap_err();
        assert_eq!(error.exit_code(), exit::BAD_INPUT);
        let message = error.to_string();
        assert!(message.contains("make build") && message.contains("PATH"), "{message}");
        let error = WorkerBinary::find_in(Some("/nowhere/w".into()), None, "".as_ref()).unwrap_err();
        assert!(error.to_string().contains("MEDLEY_WORKER"), "{error}");
    }

    #[test]
    fn a_worker_of_another_version_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let version = |text: &str| {
            let path = script(directory.path(), "worker", &format!("echo '{text}'"));
            WorkerBinary::at(path).check_version()
        };
        version(&format!("medley-worker {}", medley_common::VERSION)).unwrap();
        let error = version("medley-worker 99.1.2").unwrap_err();
        assert_eq!(error.exit_code(), exit::BAD_INPUT);
        assert!(error.to_string().contains("99.1.2"), "{error}");
        let error = version("something else").unwrap_err();
        assert!(matches!(error, LaunchError::Unusable { .. }), "{error}");
        let path = script(directory.path(), "worker", "echo no libtorch >&2; exit 127");
        let error = WorkerBinary::at(path).check_version().unwrap_err();
        assert!(error.to_string().contains("no libtorch"), "{error}");
    }
}
