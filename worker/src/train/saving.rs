//! Checkpoints of a training, as this worker writes its part of them.

use super::error::TrainError;
use super::trainer::{Reporter, Trainer};
use crate::checkpoint::{self, Staged, Writer, Written};
use medley_common::manifest::ManifestFile;
use medley_common::proto;
use medley_common::storage::{Attempt, Storage};
use std::path::Path;
use std::time::{Duration, Instant};

/// Longest wait for the last checkpoint of a run. After a request to stop, the coordinator's own bound is shorter.
const LAST_WRITE: Duration = Duration::from_secs(600);

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
    pub(super) fn save(&mut self, reporter: &mut dyn Reporter) -> Result<(), TrainError> {
        if self.step == 0 || self.saving.saved == Some(self.step) {
            return Ok(());
        }
        self.saving.saved = Some(self.step);
        if let Err(message) = self.submit(reporter)? {
            reporter.shards_failed(proto::ShardsFailed { step: self.step, message });
        }
        Ok(())
    }

    /// Saves the last step, and waits until it is written or cannot be.
    pub(super) fn save_last(&mut self, reporter: &mut dyn Reporter) -> Result<(), TrainError> {
        self.save(reporter)?;
        let Some(writer) = &mut self.saving.writer else {
            return Ok(());
        };
        if let Some(written) = writer.wait(LAST_WRITE) {
            self.saving.report(written, reporter);
        } else if let Some(attempt) = writer.in_flight() {
            let message = format!("it was not written within {} s", LAST_WRITE.as_secs());
            reporter.shards_failed(proto::ShardsFailed { step: attempt.step, message });
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
    fn submit(&mut self, reporter: &mut dyn Reporter) -> Result<Result<(), String>, TrainError> {
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
        let Some(mut writer) = self.saving.writer.take() else {
            return Ok(Ok(()));
        };
        // The others wait in the next step for no longer than their deadline.
        let longest = Duration::from_secs_f64(self.config.exchange.deadline_seconds / 2.0);
        if let Some(written) = writer.wait(longest) {
            self.saving.report(written, reporter);
        }
        let waited = start.elapsed();
        let outcome = match writer.in_flight() {
            Some(before) => Err(format!(
                "the checkpoint of step {} is still being written after {} s (half of exchange.deadline_seconds); write fewer (train.checkpoint_every) or to a faster place (output.checkpoints)",
                before.step,
                longest.as_secs_f64()
            )),
            None => {
                let mut staged = writer.take_memory();
                self.stage(rank, &mut staged);
                let seconds = (start.elapsed() - waited).as_secs_f64();
                tracing::debug!(
                    step = self.step,
                    waited = waited.as_secs_f64(),
                    seconds,
                    bytes = staged.bytes(),
                    "checkpoint staged"
                );
                writer.submit(Attempt { step: self.step, generation }, state, staged);
                Ok(())
            }
        };
        self.saving.writer = Some(writer);
        Ok(outcome)
    }

    fn stage(&self, rank: usize, staged: &mut Staged) {
        let learner = self.entered_learner();
        let network = &learner.network;
        if rank == 0 {
            let shared = &network.shared.parameters;
            staged.add_parameters(checkpoint::SHARED, "", shared);
            staged.add_moments(checkpoint::SHARED_OPTIMIZER, shared, &learner.shared_moments);
        }
        for ((peer, encoder), moments) in network.peers.iter().zip(&network.encoders).zip(&learner.peer_moments) {
            let own = &encoder.parameters;
            staged.add_parameters(&checkpoint::peer_file(*peer), "", own);
            staged.add_moments(&checkpoint::peer_optimizer_file(*peer), own, moments);
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

fn start_writer(run: &Path, checkpoints: &str) -> Result<(Storage, Writer), String> {
    let storage = Storage::of_run(run, checkpoints).map_err(|error| error.to_string())?;
    let writer =
        Writer::start(storage.clone()).map_err(|error| format!("cannot start a thread to write it: {error}"))?;
    Ok((storage, writer))
}
