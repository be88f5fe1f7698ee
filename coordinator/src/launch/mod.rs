//! STAND-IN, thrown away at merge: finds the worker binary.

use medley_common::environment;
use std::path::{Path, PathBuf};

/// The worker binary was not found.
#[derive(Debug, thiserror::Error)]
pub enum WorkerBinaryError {
    /// The environment names something that is no file.
    #[error("{variable}={path}: no such file; point it at the medley-worker binary or unset it")]
    Named {
        /// The variable.
        variable: &'static str,
        /// What it says.
        path: PathBuf,
    },
    /// Nowhere.
    #[error(
        "medley-worker is neither beside medley nor on PATH; build it with `cargo build -p medley-worker` or set {0}"
    )]
    Missing(&'static str),
}

/// The worker binary: named by the environment, else beside this program, else on `PATH`.
///
/// # Errors
/// Where it is in none of these places.
pub fn worker_binary() -> Result<PathBuf, WorkerBinaryError> {
    let variable = environment::WORKER_BINARY;
    if let Some(path) = std::env::var_os(variable).map(PathBuf::from) {
        return if path.is_file() {
            Ok(path)
        } else {
            Err(WorkerBinaryError::Named { variable, path })
        };
    }
    let name = Path::new("medley-worker");
    let beside = std::env::current_exe()
        .ok()
        .and_then(|path| Some(path.parent()?.join(name)));
    let on_path = std::env::var_os("PATH").unwrap_or_default();
    beside
        .into_iter()
        .chain(std::env::split_paths(&on_path).map(|directory| directory.join(name)))
        .find(|path| path.is_file())
        .ok_or(WorkerBinaryError::Missing(variable))
}
