//! Commits checkpoints one after the other on a thread of its own: hashing and syncing take long and block.

use crate::checkpoint::{self, CheckpointError, Committed};
use crate::cluster::{Commit, Event};
use medley_common::config::RunConfig;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use tokio::sync::mpsc;

/// Starts the thread. It reports every commit, and ends when the sender is dropped and all is committed.
pub fn start(run: PathBuf, job: String, config: RunConfig, events: mpsc::Sender<Event>) -> Sender<Commit> {
    let (commits, requests) = channel::<Commit>();
    std::thread::spawn(move || {
        for request in requests {
            let step = request.step;
            let event = match commit(&run, &job, &config, &request) {
                Ok(committed) => {
                    Event::CheckpointCommitted { step, directory: committed.directory, bytes: committed.bytes }
                }
                Err(error) => Event::CheckpointFailed { step, message: error.to_string() },
            };
            if events.blocking_send(event).is_err() {
                return;
            }
        }
    });
    commits
}

fn commit(run: &Path, job: &str, config: &RunConfig, request: &Commit) -> Result<Committed, CheckpointError> {
    let committed = checkpoint::commit(run, job, config, request)?;
    let keep = config.output.keep_checkpoints;
    if let Err(error) = checkpoint::retain(run, keep) {
        // The new checkpoint stands; that an old one could not be removed is no reason to end a job.
        tracing::warn!("an old checkpoint stays: {error}");
    }
    Ok(committed)
}
