//! The thread that writes checkpoints while training goes on.

use super::Staged;
use crate::faults;
use medley_common::manifest::ManifestFile;
use medley_common::storage::{Attempt, Storage, StorageError};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::time::{Duration, Instant};

/// What became of a staged copy.
#[derive(Debug)]
pub struct Written {
    /// What was to be written.
    pub attempt: Attempt,
    /// What goes with the files into the manifest, as it was submitted.
    pub state: String,
    /// The files, all durable; or why they are not, in one line.
    pub outcome: Result<Vec<ManifestFile>, String>,
}

/// Writes one staged copy at a time on a thread of its own. Whoever submits one while another is written waits for that one
/// first, so that there are never two copies.
#[derive(Debug)]
pub struct Writer {
    jobs: Sender<Job>,
    done: Receiver<Done>,
    in_flight: Option<Attempt>,
    spare: Staged,
}

#[derive(Debug)]
struct Job {
    attempt: Attempt,
    state: String,
    staged: Staged,
}

#[derive(Debug)]
struct Done {
    written: Written,
    staged: Staged,
}

impl Writer {
    /// Starts the thread, which ends with this value once it has written what it has.
    ///
    /// # Errors
    /// Where the system gives no thread.
    pub fn start(storage: Storage) -> std::io::Result<Self> {
        let (jobs, submitted) = channel::<Job>();
        let (finished, done) = channel();
        std::thread::Builder::new().name("medley-checkpoint".into()).spawn(move || {
            for Job { attempt, state, staged } in submitted {
                let start = Instant::now();
                let outcome = write(&storage, attempt, &staged).map_err(|error| error.to_string());
                let (seconds, bytes) = (start.elapsed().as_secs_f64(), staged.bytes());
                tracing::debug!(
                    step = attempt.step,
                    seconds,
                    bytes,
                    is_written = outcome.is_ok(),
                    "checkpoint written"
                );
                if finished.send(Done { written: Written { attempt, state, outcome }, staged }).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { jobs, done, in_flight: None, spare: Staged::default() })
    }

    /// The attempt that is being written.
    pub fn in_flight(&self) -> Option<Attempt> {
        self.in_flight
    }

    /// Memory for the next copy, that of the last one where there was one.
    pub fn take_memory(&mut self) -> Staged {
        let mut staged = std::mem::take(&mut self.spare);
        staged.clear();
        staged
    }

    /// Hands a copy to the thread. Nothing may be in flight.
    pub fn submit(&mut self, attempt: Attempt, state: String, staged: Staged) {
        assert!(self.in_flight.is_none(), "one checkpoint is written at a time");
        self.in_flight = Some(attempt);
        // A thread that is gone is noticed by whoever asks for the outcome.
        let _ = self.jobs.send(Job { attempt, state, staged });
    }

    /// The outcome of what was in flight, once it is there.
    pub fn poll(&mut self) -> Option<Written> {
        self.in_flight?;
        match self.done.try_recv() {
            Ok(done) => Some(self.take(done)),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => self.broken(),
        }
    }

    /// Waits for the outcome of what is in flight; nothing where nothing is, or `longest` passes.
    pub fn wait(&mut self, longest: Duration) -> Option<Written> {
        self.in_flight?;
        match self.done.recv_timeout(longest) {
            Ok(done) => Some(self.take(done)),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => self.broken(),
        }
    }

    fn take(&mut self, done: Done) -> Written {
        self.in_flight = None;
        self.spare = done.staged;
        done.written
    }

    fn broken(&mut self) -> Option<Written> {
        let outcome = Err("the thread that writes checkpoints has ended".into());
        self.in_flight.take().map(|attempt| Written { attempt, state: String::new(), outcome })
    }
}

fn write(storage: &Storage, attempt: Attempt, staged: &Staged) -> Result<Vec<ManifestFile>, StorageError> {
    staged.each(|name, bytes| faults::write(attempt.step, bytes, |bytes| storage.put(attempt, name, bytes)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::tests::parameters;
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    fn attempt(step: u64) -> Attempt {
        Attempt { step, generation: 1 }
    }

    fn submit(writer: &mut Writer, step: u64) {
        let mut staged = writer.take_memory();
        staged.add_parameters("shared.safetensors", "", &parameters(3));
        writer.submit(attempt(step), "state".into(), staged);
    }

    #[test]
    fn copies_are_written_one_after_the_other_in_the_same_memory() {
        let run = tempfile::tempdir().unwrap();
        let storage = Storage::of_run(run.path(), "").unwrap();
        let mut writer = Writer::start(storage.clone()).unwrap();
        assert!(writer.poll().is_none() && writer.wait(PATIENCE).is_none(), "nothing is in flight");
        let mut memory = None;
        for step in [1, 2] {
            submit(&mut writer, step);
            assert_eq!(writer.in_flight(), Some(attempt(step)));
            let written = writer.wait(PATIENCE).unwrap();
            assert_eq!((written.attempt, written.state.as_str()), (attempt(step), "state"));
            let file = &written.outcome.unwrap()[0];
            assert_eq!(storage.measure(attempt(step), &file.name).unwrap(), (file.bytes, file.sha256.clone()));
            let address = writer.spare.address();
            assert_eq!(*memory.get_or_insert(address), address);
        }
    }

    #[test]
    fn what_cannot_be_written_is_one_line_and_the_next_one_is_tried() {
        let run = tempfile::tempdir().unwrap();
        let checkpoints = run.path().join("checkpoints");
        std::fs::write(&checkpoints, "in the way").unwrap();
        let mut writer = Writer::start(Storage::of_run(run.path(), "").unwrap()).unwrap();
        submit(&mut writer, 1);
        let message = writer.wait(PATIENCE).unwrap().outcome.unwrap_err();
        assert!(message.contains(".step-1.staging") && !message.contains('\n'), "{message}");
        std::fs::remove_file(&checkpoints).unwrap();
        submit(&mut writer, 2);
        assert!(writer.wait(PATIENCE).unwrap().outcome.is_ok());
    }
}
