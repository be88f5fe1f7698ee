//! The worker's own check of configuration and data, before anything is written.

use super::process::last_line;
use super::{LaunchError, WorkerBinary};
use medley_common::config::{self, RunConfig};
use medley_common::exit;
use serde::Deserialize;
use std::process::Stdio;
use tokio::io::AsyncWriteExt;

/// What the worker found in the data, as the one JSON line that `medley-worker check` prints.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Preflight {
    /// Hash of the interaction data.
    pub data_hash: String,
    /// Users.
    pub users: u64,
    /// Items of the catalogue.
    pub items: u64,
    /// Interactions.
    pub interactions: u64,
    /// Training samples of one epoch.
    pub samples: u64,
    /// Steps of one epoch.
    pub steps_per_epoch: u64,
    /// Steps to train.
    pub total_steps: u64,
    /// Parameters that all peers share.
    pub shared_parameters: u64,
    /// Parameters of one peer's encoder.
    pub private_parameters: u64,
    /// GPUs of this machine that the job may use.
    pub gpus: usize,
}

/// Runs `medley-worker check --config -` on a configuration. Dropping the future kills the process.
///
/// # Errors
/// [`LaunchError::BadInput`] in the worker's own words where it exits with 2; otherwise
/// [`LaunchError::CheckFailed`] or [`LaunchError::Unusable`].
pub async fn preflight(binary: &WorkerBinary, config: &RunConfig) -> Result<Preflight, LaunchError> {
    let unusable = |message: String| LaunchError::Unusable { path: binary.path().to_owned(), message };
    let mut child = tokio::process::Command::from(binary.command())
        .args(["check", "--config", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| unusable(error.to_string()))?;
    let stdin = child.stdin.take();
    let text = config::to_toml(config);
    let write = async move {
        if let Some(mut stdin) = stdin {
            // A worker that ends before it has read everything says why on its standard error.
            let _ = stdin.write_all(text.as_bytes()).await;
        }
    };
    let ((), output) = tokio::join!(write, child.wait_with_output());
    let output = output.map_err(|error| unusable(error.to_string()))?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    // Whoever prints the complaint marks it as an error; the worker has done so too.
    let complaint = last_line(&complaint).map(|line| line.strip_prefix("error: ").unwrap_or(&line).to_owned());
    match output.status.code() {
        Some(exit::SUCCESS) => {
            let text = String::from_utf8_lossy(&output.stdout);
            let line = last_line(&text).unwrap_or_default();
            serde_json::from_str(&line).map_err(|error| unusable(format!("`check` printed no result: {error}")))
        }
        Some(exit::BAD_INPUT) => {
            Err(LaunchError::BadInput(complaint.unwrap_or_else(|| "the worker refused the configuration".into())))
        }
        _ => Err(LaunchError::CheckFailed {
            path: binary.path().to_owned(),
            status: super::process::describe(output.status),
            message: complaint.unwrap_or_else(|| "it wrote nothing".into()),
        }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::process::tests::script;
    use super::*;

    async fn check(body: &str) -> Result<Preflight, LaunchError> {
        let directory = tempfile::tempdir().unwrap();
        let path = script(directory.path(), "worker", body);
        preflight(&WorkerBinary::at(path), &RunConfig::default()).await
    }

    #[tokio::test]
    async fn the_worker_gets_the_configuration_and_its_line_is_read() {
        let body =
            r#"test "$*" = "check --config -" && grep -q '^name = "run"$' && echo '{"users":3,"items":7,"more":1}'"#;
        let found = check(body).await.unwrap();
        assert_eq!((found.users, found.items), (3, 7));
    }

    #[tokio::test]
    async fn refusals_are_passed_on_word_for_word() {
        let error = check("echo 'error: data.txt:3: empty line; remove it' >&2; exit 2").await.unwrap_err();
        assert_eq!(error.exit_code(), exit::BAD_INPUT);
        assert_eq!(error.to_string(), "data.txt:3: empty line; remove it");
        let error = check("echo 'out of memory' >&2; exit 1").await.unwrap_err();
        assert_eq!(error.exit_code(), exit::FAILURE);
        assert!(error.to_string().contains("status 1: out of memory"), "{error}");
        let error = check("kill -9 $$").await.unwrap_err();
        assert!(error.to_string().contains("signal 9"), "{error}");
    }
}
