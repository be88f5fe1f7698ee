//! Finding `medley-worker`, and asking it things.

use super::LaunchError;
use medley_common::config::{self, RunConfig};
use medley_common::{VERSION, environment, exit};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const NAME: &str = "medley-worker";

/// The worker binary: the one that `MEDLEY_WORKER` names, else beside this program, else on `PATH`.
///
/// # Errors
/// When there is none.
pub fn worker_binary() -> Result<PathBuf, LaunchError> {
    if let Some(named) = std::env::var_os(environment::WORKER_BINARY) {
        let path = PathBuf::from(named);
        return match path.is_file() {
            true => Ok(path),
            false => Err(LaunchError::Missing {
                places: format!("at {} (from {})", path.display(), environment::WORKER_BINARY),
            }),
        };
    }
    let mut places = Vec::new();
    if let Ok(own) = std::env::current_exe() {
        places.extend(own.parent().map(Path::to_owned));
    }
    let beside = places.first().map_or_else(String::new, |place| format!("in {} and ", place.display()));
    places.extend(std::env::var_os("PATH").iter().flat_map(std::env::split_paths));
    let found = places.into_iter().map(|place| place.join(NAME)).find(|path| path.is_file());
    found.ok_or(LaunchError::Missing { places: format!("{beside}on PATH") })
}

/// Asks a worker binary for its version.
///
/// # Errors
/// When it cannot be run or is not ours.
pub fn check_version(binary: &Path) -> Result<(), LaunchError> {
    let output = Command::new(binary)
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .map_err(|source| LaunchError::NotRunnable { path: binary.to_owned(), source })?;
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if output.status.success() && said == format!("{NAME} {VERSION}") {
        return Ok(());
    }
    let found = match said.lines().next() {
        Some(line) => line.to_owned(),
        None => format!("something that says: {}", last_line(&output.stderr)),
    };
    Err(LaunchError::Version { path: binary.to_owned(), found, expected: VERSION })
}

/// What a worker found when it checked a configuration.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
pub struct Preflight {
    /// Hash of the interaction data.
    pub data_hash: String,
    /// Steps to train.
    pub total_steps: u64,
}

/// Has a worker check a configuration and its data; nothing is written.
///
/// # Errors
/// The worker's own line when it refuses.
pub fn preflight(binary: &Path, config: &RunConfig) -> Result<Preflight, LaunchError> {
    let not_runnable = |source| LaunchError::NotRunnable { path: binary.to_owned(), source };
    let mut child = Command::new(binary)
        .args(["check", "--config", "-"])
        .env(environment::LOG_FILTER, "error")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(not_runnable)?;
    if let Some(mut input) = child.stdin.take() {
        // A worker that ends before it has read all says why on standard error.
        let _ = input.write_all(config::to_toml(config).as_bytes());
    }
    let output = child.wait_with_output().map_err(not_runnable)?;
    if output.status.success() {
        return serde_json::from_slice(&output.stdout)
            .map_err(|error| LaunchError::Refused(format!("{}: cannot read its check: {error}", binary.display())));
    }
    let line = last_line(&output.stderr);
    let line = line.strip_prefix("error: ").unwrap_or(&line).to_owned();
    if output.status.code() == Some(exit::BAD_INPUT) {
        return Err(LaunchError::Refused(line));
    }
    Err(LaunchError::Refused(format!("{}: its check ended with {}: {line}", binary.display(), output.status)))
}

fn last_line(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or("nothing").to_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn script(directory: &Path, body: &str) -> PathBuf {
        let path = directory.join("worker");
        std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn another_version_is_named_beside_ours() {
        let directory = tempfile::tempdir().unwrap();
        assert!(check_version(&script(directory.path(), &format!("echo {NAME} {VERSION}"))).is_ok());
        let error = check_version(&script(directory.path(), "echo medley-worker 0.0.1")).unwrap_err().to_string();
        assert!(error.contains("0.0.1") && error.contains(VERSION), "{error}");
        let error = check_version(&script(directory.path(), "echo no library >&2; exit 127")).unwrap_err().to_string();
        assert!(error.contains("no library"), "{error}");
    }

    #[test]
    fn a_refusal_is_passed_on_word_for_word() {
        let directory = tempfile::tempdir().unwrap();
        let config = RunConfig::default();
        let worker = script(directory.path(), "cat >/dev/null; echo 'error: data.txt:3: no such thing' >&2; exit 2");
        let error = preflight(&worker, &config).unwrap_err().to_string();
        assert_eq!(error, "data.txt:3: no such thing");
        let worker =
            script(directory.path(), "cat >/dev/null; echo '{\"data_hash\": \"h\", \"total_steps\": 7, \"x\": 1}'");
        assert_eq!(preflight(&worker, &config).unwrap().total_steps, 7);
    }
}
