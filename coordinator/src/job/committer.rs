//! Commits checkpoints one after the other on a thread of its own: hashing and syncing take long and block.
//!
//! The thread may be in the middle of a request when its coordinator loses the lead. What it was asked by one that leads no
//! more it does not do: it asks before every change whether the driver is still there.

use crate::checkpoint::{self, CheckpointError};
use crate::cluster::{Commit, Event};
use medley_common::config::RunConfig;
use medley_common::storage::{Attempt, Storage, StorageError};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::mpsc;

/// How long a job that has ended waits for its last checkpoints to be tidied up.
const TIDYING: Duration = Duration::from_secs(30);

/// What the thread is asked for.
#[derive(Debug)]
pub enum Request {
    /// To make files a checkpoint.
    Commit(Commit),
    /// To remove files that will be none.
    Discard(Attempt),
}

/// The thread has ended, and does nothing that it is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended;

/// The driver's side of the thread. Once it is dropped, the thread changes nothing any more.
#[derive(Debug)]
pub struct Commits {
    requests: Option<Sender<Request>>,
    is_dropped: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Commits {
    /// Asks for something.
    ///
    /// # Errors
    /// Where the thread has ended.
    pub fn send(&self, request: Request) -> Result<(), Ended> {
        self.requests.as_ref().ok_or(Ended)?.send(request).map_err(|_| Ended)
    }

    /// Lets the thread do what it was asked for, within [`TIDYING`].
    pub async fn finish(mut self) {
        drop(self.requests.take());
        let Some(thread) = self.thread.take() else { return };
        let ended = tokio::task::spawn_blocking(move || thread.join());
        // A panic of the thread has been reported by its message; what it left undone the next resumption does.
        let _ = tokio::time::timeout(TIDYING, ended).await;
    }
}

impl Drop for Commits {
    fn drop(&mut self) {
        self.is_dropped.store(true, Ordering::SeqCst);
    }
}

/// Starts the thread. It reports every commit.
pub fn start(storage: Storage, job: String, config: RunConfig, events: mpsc::Sender<Event>) -> Commits {
    let (requests, received) = channel::<Request>();
    let is_dropped = Arc::new(AtomicBool::new(false));
    let committer = Committer { storage, job, config, events, is_dropped: Arc::clone(&is_dropped) };
    let thread = std::thread::spawn(move || {
        for request in received {
            if !committer.is_wanted() {
                return;
            }
            match request {
                Request::Commit(commit) => committer.commit(&commit),
                Request::Discard(attempt) => committer.discard(attempt),
            }
        }
    });
    Commits { requests: Some(requests), is_dropped, thread: Some(thread) }
}

struct Committer {
    storage: Storage,
    job: String,
    config: RunConfig,
    events: mpsc::Sender<Event>,
    is_dropped: Arc<AtomicBool>,
}

impl Committer {
    fn is_wanted(&self) -> bool {
        !self.is_dropped.load(Ordering::SeqCst)
    }

    fn commit(&self, request: &Commit) {
        let step = request.step;
        match checkpoint::commit(&self.storage, &self.job, &self.config, request, &|| self.is_wanted()) {
            Ok(committed) => {
                let (directory, bytes) = (committed.directory, committed.bytes);
                // A recovery may be waiting for this; what follows may take long.
                self.report(Event::CheckpointCommitted { step, directory, bytes });
                self.tidy(request);
            }
            Err(CheckpointError::Storage(StorageError::Unwanted { .. })) => {}
            Err(error) => {
                self.discard(Attempt { step, generation: request.generation });
                self.report(Event::CheckpointFailed { step, message: error.to_string() });
            }
        }
    }

    fn report(&self, event: Event) {
        // Where the job has ended nobody needs to know.
        let _ = self.events.blocking_send(event);
    }

    fn tidy(&self, committed: &Commit) {
        // Workers write one checkpoint after the other: what is left of an older one was given up when a worker was lost.
        if self.is_wanted()
            && let Err(error) = remove_given_up(&self.storage, committed.step)
        {
            tracing::warn!("what was written of an older checkpoint stays: {error}");
        }
        let keep = self.config.output.keep_checkpoints;
        if self.is_wanted()
            && let Err(error) = checkpoint::retain(&self.storage, keep, &committed.spared)
        {
            // The new checkpoint stands; that an old one could not be removed is no reason to end a job.
            tracing::warn!("an old checkpoint stays: {error}");
        }
    }

    fn discard(&self, attempt: Attempt) {
        if self.is_wanted()
            && let Err(error) = self.storage.discard(attempt)
        {
            // Nothing reads it, and the next resumption removes it.
            tracing::warn!("what was written of the checkpoint of step {} stays: {error}", attempt.step);
        }
    }
}

fn remove_given_up(storage: &Storage, committed: u64) -> Result<(), StorageError> {
    let given_up = storage.partial()?.into_iter().filter(|step| *step < committed);
    given_up.into_iter().try_for_each(|step| storage.clear(step))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use medley_common::hash;
    use medley_common::manifest::{ManifestFile, TrainingState};

    fn staged(storage: &Storage, step: u64) -> Commit {
        let attempt = Attempt { step, generation: 1 };
        storage.put(attempt, "shared.safetensors", b"tensors").unwrap();
        let file = ManifestFile { name: "shared.safetensors".into(), bytes: 7, sha256: hash::sha256(b"tensors") };
        Commit {
            step,
            generation: 1,
            staging: storage.staging(attempt),
            files: vec![file],
            peers: 1,
            spared: Default::default(),
            state: serde_json::to_string(&TrainingState::default()).unwrap(),
            data_hash: String::new(),
        }
    }

    #[tokio::test]
    async fn a_finished_job_keeps_as_many_as_it_should_and_a_dropped_one_commits_no_more() {
        let run = tempfile::tempdir().unwrap();
        let storage = Storage::of_run(run.path(), "").unwrap();
        let mut config = RunConfig::default();
        config.output.keep_checkpoints = 1;
        let (events, mut told) = mpsc::channel(8);
        let commits = start(storage.clone(), "job".into(), config.clone(), events.clone());
        for step in [1, 2] {
            commits.send(Request::Commit(staged(&storage, step))).unwrap();
            assert!(matches!(told.recv().await.unwrap(), Event::CheckpointCommitted { step: of, .. } if of == step));
        }
        commits.finish().await;
        assert_eq!(storage.steps().unwrap(), [2]);

        let commits = start(storage.clone(), "job".into(), config, events);
        let (requests, is_dropped) = (commits.requests.clone().unwrap(), Arc::clone(&commits.is_dropped));
        drop(commits);
        assert!(is_dropped.load(Ordering::SeqCst));
        // As if it had been under way to the thread when the lead was lost. The thread ends without doing it.
        let _ = requests.send(Request::Commit(staged(&storage, 3)));
        while told.recv().await.is_some() {}
        assert_eq!((storage.steps().unwrap(), storage.partial().unwrap()), (vec![2], vec![3]));
    }
}
