//! Checkpoints of a training, as this worker writes its part of them.

use super::error::TrainError;
use super::trainer::{Reporter, Trainer};
use crate::checkpoint::{self, Staged, Writer, Written};
use crate::collective::AbortHandle;
use medley_common::manifest::ManifestFile;
use medley_common::proto;
use medley_common::storage::{Attempt, Storage};
use std::path::Path;
use std::time::{Duration, Instant};

/// Longest wait for the last checkpoint of a run. After a request to stop, the coordinator's own bound is shorter.
const LAST_WRITE: Duration = Duration::from_secs(600);

/// How long an abort may go unnoticed by whoever waits for a checkpoint.
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);

/// What a training keeps for its checkpoints.
#[derive(Default)]
pub(super) struct Saving {
    /// The step of the last checkpoint that was begun or restored.
    pub(super) saved: Option<u64>,
    /// The generation that this worker is in. What was written for another counts for nothing.
    pub(super) generation: u64,
    /// Where they go, and who writes them; nobody before the first.
    storage: Option<Storage>,
    writer: Option<Writer>,
}

impl Trainer<'_> {
    /// Copies this worker's part of a checkpoint of the committed step and has it written while training goes on, unless
    /// there is nothing new. Waits for the checkpoint before this one where it is still being written. What cannot be
    /// written is reported and ends nothing.
    ///
    /// # Errors
    /// When the generation is abandoned meanwhile.
    pub(super) fn save(&mut self, reporter: &mut dyn Reporter) -> Result<(), TrainError> {
        // The others wait in the next step for no longer than their deadline.
        self.save_within(Duration::from_secs_f64(self.config.exchange.deadline_seconds / 2.0), reporter)
    }

    /// Saves the last step, and waits until it is written or cannot be.
    ///
    /// # Errors
    /// As [`Trainer::save`].
    pub(super) fn save_last(&mut self, reporter: &mut dyn Reporter) -> Result<(), TrainError> {
        let until = Instant::now() + LAST_WRITE;
        self.save_within(LAST_WRITE, reporter)?;
        let Some(writer) = &mut self.saving.writer else {
            return Ok(());
        };
        let longest = until.saturating_duration_since(Instant::now());
        if let Some(written) = wait_for(writer, longest, &self.abort)? {
            self.saving.report(written, reporter);
        } else if let Some(attempt) = writer.in_flight() {
            let message = format!("it was not written within {} s", LAST_WRITE.as_secs());
            reporter.shards_failed(proto::ShardsFailed { step: attempt.step, message });
        }
        Ok(())
    }

    /// [`Trainer::save`], waiting for the checkpoint before this one for no longer than `longest`.
    fn save_within(&mut self, longest: Duration, reporter: &mut dyn Reporter) -> Result<(), TrainError> {
        if self.step == 0 || self.saving.saved == Some(self.step) {
            return Ok(());
        }
        self.saving.saved = Some(self.step);
        if let Err(message) = self.submit(longest, reporter)? {
            reporter.shards_failed(proto::ShardsFailed { step: self.step, message });
        }
        Ok(())
    }

    /// Reports what the writer has finished since it was last asked.
    pub(super) fn report_written(&mut self, reporter: &mut dyn Reporter) {
        if let Some(written) = self.saving.writer.as_mut().and_then(Writer::poll) {
            self.saving.report(written, reporter);
        }
    }

    /// Copies and hands over; inside, why that cannot be, in one line.
    fn submit(&mut self, longest: Duration, reporter: &mut dyn Reporter) -> Result<Result<(), String>, TrainError> {
        let start = Instant::now();
        if self.saving.writer.is_none() {
            match start_writer(&self.run_directory, &self.config.output.checkpoints) {
                Ok((storage, writer)) => {
                    self.saving.writer = Some(writer);
                    self.saving.storage = Some(storage);
                }
                Err(message) => return Ok(Err(message)),
            }
        }
        let rank = self.placement.rank();
        let generation = self.saving.generation;
        let state = match rank {
            0 => serde_json::to_string(&self.state).map_err(|error| TrainError::Input(error.to_string()))?,
            _ => String::new(),
        };
        let Some(writer) = &mut self.saving.writer else {
            return Ok(Ok(()));
        };
        let written = wait_for(writer, longest, &self.abort)?;
        if let Some(before) = writer.in_flight() {
            return Ok(Err(format!(
                "the checkpoint of step {} is still being written after {} s (during training half of exchange.deadline_seconds); write fewer (train.checkpoint_every) or to a faster place (output.checkpoints)",
                before.step,
                longest.as_secs_f64()
            )));
        }
        let mut staged = writer.take_memory();
        if let Some(written) = written {
            self.saving.report(written, reporter);
        }
        let waited = start.elapsed();
        self.stage(rank, &mut staged);
        let seconds = (start.elapsed() - waited).as_secs_f64();
        tracing::debug!(
            step = self.step,
            waited = waited.as_secs_f64(),
            seconds,
            bytes = staged.bytes(),
            "checkpoint staged"
        );
        if let Some(writer) = &mut self.saving.writer {
            writer.submit(Attempt { step: self.step, generation }, state, staged);
        }
        Ok(Ok(()))
    }

    fn stage(&self, rank: usize, staged: &mut Staged) {
        let learner = self.entered_learner();
        let network = &learner.network;
        // The checkpoint of the best step may never have come about: each has what training goes back to.
        let best = self.best.as_ref().filter(|_| self.has_best(&self.state, self.step));
        if rank == 0 {
            let shared = &network.shared.parameters;
            staged.add_parameters(checkpoint::SHARED, "", shared);
            staged.add_moments(checkpoint::SHARED_OPTIMIZER, shared, &learner.shared_moments);
            if let Some(best) = best {
                staged.add_values(&checkpoint::best_file(checkpoint::SHARED), shared, &best.shared);
            }
        }
        let hosted = network.peers.iter().zip(&network.encoders).zip(&learner.peer_moments).enumerate();
        for (place, ((peer, encoder), moments)) in hosted {
            let (own, file) = (&encoder.parameters, checkpoint::peer_file(*peer));
            staged.add_parameters(&file, "", own);
            staged.add_moments(&checkpoint::peer_optimizer_file(*peer), own, moments);
            if let Some(best) = best {
                staged.add_values(&checkpoint::best_file(&file), own, &best.encoders[place]);
            }
        }
    }
}

impl Saving {
    fn report(&self, written: Written, reporter: &mut dyn Reporter) {
        let Written { attempt, state, outcome } = written;
        if attempt.generation != self.generation {
            return;
        }
        match outcome {
            Ok(files) => {
                let file =
                    |file: ManifestFile| proto::ShardFile { name: file.name, bytes: file.bytes, sha256: file.sha256 };
                reporter.shards(proto::ShardsWritten {
                    step: attempt.step,
                    staging: self.storage.as_ref().map(|storage| storage.staging(attempt)).unwrap_or_default(),
                    files: files.into_iter().map(file).collect(),
                    state,
                });
            }
            Err(message) => reporter.shards_failed(proto::ShardsFailed { step: attempt.step, message }),
        }
    }
}

/// Waits for what is being written, if anything is; nothing where `longest` passes.
///
/// # Errors
/// When the group is aborted: its members are to leave at once, however slow the storage is. What is being written goes on.
fn wait_for(writer: &mut Writer, longest: Duration, abort: &AbortHandle) -> Result<Option<Written>, TrainError> {
    let until = Instant::now() + longest;
    loop {
        let remaining = until.saturating_duration_since(Instant::now());
        let written = writer.wait(remaining.min(BETWEEN_LOOKS));
        if written.is_some() || writer.in_flight().is_none() || remaining.is_zero() {
            return Ok(written);
        }
        abort.check()?;
    }
}

fn start_writer(run: &Path, checkpoints: &str) -> Result<(Storage, Writer), String> {
    let storage = Storage::of_run(run, checkpoints).map_err(|error| error.to_string())?;
    let writer =
        Writer::start(storage.clone()).map_err(|error| format!("cannot start a thread to write it: {error}"))?;
    Ok((storage, writer))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::collective::CollectiveError;
    use std::io::Read;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn an_abort_ends_the_wait_for_a_storage_that_hangs_and_nothing_of_the_writing() {
        let run = tempfile::tempdir().unwrap();
        let storage = Storage::of_run(run.path(), "").unwrap();
        let attempt = Attempt { step: 3, generation: 1 };
        // Whoever writes to a pipe that nobody reads waits.
        let staging = run.path().join(storage.staging(attempt));
        std::fs::create_dir_all(&staging).unwrap();
        let pipe = staging.join(checkpoint::SHARED);
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
        assert!(made.success());
        let mut writer = Writer::start(storage).unwrap();
        let abort = AbortHandle::new();
        assert!(wait_for(&mut writer, LONG, &abort).unwrap().is_none(), "nothing is written");
        let mut staged = writer.take_memory();
        let parameters = crate::checkpoint::tests::parameters(3);
        staged.add_parameters(checkpoint::SHARED, "", &parameters);
        writer.submit(attempt, String::new(), staged);
        assert!(wait_for(&mut writer, Duration::from_millis(120), &abort).unwrap().is_none(), "it takes longer");

        let aborting = abort.clone();
        let soon = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            aborting.abort("rank 1 died");
        });
        let begun = Instant::now();
        let error = wait_for(&mut writer, LONG, &abort).unwrap_err();
        assert!(matches!(error, TrainError::Collective(CollectiveError::Aborted { .. })), "{error}");
        assert!(begun.elapsed() < LONG / 2);
        soon.join().unwrap();
        assert_eq!(writer.in_flight(), Some(attempt), "the next generation finds it as it is");

        let reading = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            std::fs::File::open(pipe).unwrap().read_to_end(&mut bytes).unwrap();
            bytes.len()
        });
        let written = wait_for(&mut writer, LONG, &AbortHandle::new()).unwrap().unwrap();
        assert_eq!(written.attempt, attempt);
        assert!(reading.join().unwrap() > 0);
    }
}
