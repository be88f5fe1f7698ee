//! Commits checkpoints one after the other on a thread of its own: hashing and syncing take long and block.

use crate::checkpoint::{self, CheckpointError, Committed};
use crate::cluster::{Commit, Event};
use medley_common::config::RunConfig;
use medley_common::storage::{Attempt, Storage, StorageError};
use std::sync::mpsc::{Sender, channel};
use tokio::sync::mpsc;

/// What the thread is asked for.
#[derive(Debug)]
pub enum Request {
    /// To make files a checkpoint.
    Commit(Commit),
    /// To remove files that will be none.
    Discard(Attempt),
}

/// Starts the thread. It reports every commit, and ends when the sender is dropped and all is done.
pub fn start(storage: Storage, job: String, config: RunConfig, events: mpsc::Sender<Event>) -> Sender<Request> {
    let (requests, received) = channel::<Request>();
    std::thread::spawn(move || {
        for request in received {
            let request = match request {
                Request::Commit(commit) => commit,
                Request::Discard(attempt) => {
                    discard(&storage, attempt);
                    continue;
                }
            };
            let step = request.step;
            let event = match commit(&storage, &job, &config, &request) {
                Ok(committed) => {
                    Event::CheckpointCommitted { step, directory: committed.directory, bytes: committed.bytes }
                }
                Err(error) => {
                    discard(&storage, Attempt { step, generation: request.generation });
                    Event::CheckpointFailed { step, message: error.to_string() }
                }
            };
            if events.blocking_send(event).is_err() {
                return;
            }
        }
    });
    requests
}

fn commit(storage: &Storage, job: &str, config: &RunConfig, request: &Commit) -> Result<Committed, CheckpointError> {
    let committed = checkpoint::commit(storage, job, config, request)?;
    // Workers write one checkpoint after the other: what is left of an older one was given up when a worker was lost.
    if let Err(error) = remove_given_up(storage, committed.step) {
        tracing::warn!("what was written of an older checkpoint stays: {error}");
    }
    let keep = config.output.keep_checkpoints;
    if let Err(error) = checkpoint::retain(storage, keep, &request.spared) {
        // The new checkpoint stands; that an old one could not be removed is no reason to end a job.
        tracing::warn!("an old checkpoint stays: {error}");
    }
    Ok(committed)
}

fn remove_given_up(storage: &Storage, committed: u64) -> Result<(), StorageError> {
    let given_up = storage.partial()?.into_iter().filter(|step| *step < committed);
    given_up.into_iter().try_for_each(|step| storage.clear(step))
}

fn discard(storage: &Storage, attempt: Attempt) {
    if let Err(error) = storage.discard(attempt) {
        // Nothing reads it, and the next resumption removes it.
        tracing::warn!("what was written of the checkpoint of step {} stays: {error}", attempt.step);
    }
}
