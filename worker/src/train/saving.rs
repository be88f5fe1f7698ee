//! Checkpoints of a training: written, restored, and the best parameters kept at hand.

use super::error::TrainError;
use super::trainer::{Reporter, Trainer};
use crate::checkpoint::{self, Checkpoint};
use medley_common::manifest::ManifestFile;
use medley_common::{proto, run_directory};
use std::path::Path;
use tch::Tensor;

/// Flat values of the shared parameters and the hosted encoders.
pub(super) struct Snapshot {
    shared: Tensor,
    encoders: Vec<Tensor>,
}

impl Trainer<'_> {
    /// Goes on from a committed checkpoint, as if training had never stopped.
    ///
    /// # Errors
    /// When the checkpoint is damaged or does not fit.
    pub fn restore(&mut self, directory: &Path) -> Result<(), TrainError> {
        let checkpoint = Checkpoint::open(directory)?;
        if checkpoint.manifest.data_hash != self.dataset.hash {
            return Err(TrainError::Input(format!(
                "{}: the checkpoint was trained on other data than {}; resume with the data that it was trained on",
                directory.display(),
                self.config.data.path.display()
            )));
        }
        let learner = &mut self.learner;
        let network = &learner.network;
        checkpoint.restore_network(network)?;
        let shared = &network.shared.parameters;
        checkpoint.read_moments(checkpoint::SHARED_OPTIMIZER, shared, &mut learner.shared_moments)?;
        let hosted = network.peers.iter().zip(&network.encoders).zip(&mut learner.peer_moments);
        for ((peer, encoder), moments) in hosted {
            checkpoint.read_moments(&checkpoint::peer_optimizer_file(*peer), &encoder.parameters, moments)?;
        }
        self.step = checkpoint.manifest.step;
        self.saved = Some(self.step);
        self.learner.updates = checkpoint.manifest.state.optimizer_steps;
        self.state = checkpoint.manifest.state.clone();
        if self.config.train.patience > 0 && self.state.best_metric.is_some() {
            self.restore_best(&checkpoint)?;
        }
        Ok(())
    }

    /// Parameters of the best validation so far come from its own checkpoint.
    fn restore_best(&mut self, current: &Checkpoint) -> Result<(), TrainError> {
        let best = run_directory::checkpoint(&self.run_directory, self.state.best_step);
        Checkpoint::open(&best)?.restore_network(&self.learner.network)?;
        self.best = Some(self.snapshot());
        Ok(current.restore_network(&self.learner.network)?)
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let network = &self.learner.network;
        Snapshot {
            shared: network.shared.parameters.values().copy(),
            encoders: network.encoders.iter().map(|encoder| encoder.parameters.values().copy()).collect(),
        }
    }

    /// Takes the parameters of the best validation, where they were kept; returns the step that the parameters are of.
    pub(super) fn return_to_best(&self) -> u64 {
        let Some(best) = &self.best else {
            return self.step;
        };
        let _guard = tch::no_grad_guard();
        let network = &self.learner.network;
        network.shared.parameters.values().shallow_clone().copy_(&best.shared);
        for (encoder, values) in network.encoders.iter().zip(&best.encoders) {
            encoder.parameters.values().shallow_clone().copy_(values);
        }
        self.state.best_step
    }

    /// Writes this worker's files of a checkpoint of the committed step, unless there is nothing new to write.
    pub(super) fn save(&mut self, reporter: &mut dyn Reporter) -> Result<(), TrainError> {
        if self.step == 0 || self.saved == Some(self.step) {
            return Ok(());
        }
        let relative = checkpoint::staging(self.step);
        let directory = self.run_directory.join(&relative);
        let files = self.write_files(&directory).map_err(|source| TrainError::Write { path: directory, source })?;
        let state = match self.exchange.placement().rank() {
            0 => serde_json::to_string(&self.state).map_err(|error| TrainError::Input(error.to_string()))?,
            _ => String::new(),
        };
        reporter.shards(proto::ShardsWritten {
            step: self.step,
            staging: relative.display().to_string(),
            files,
            state,
        });
        self.saved = Some(self.step);
        Ok(())
    }

    fn write_files(&self, directory: &Path) -> std::io::Result<Vec<proto::ShardFile>> {
        std::fs::create_dir_all(directory)?;
        let learner = &self.learner;
        let network = &learner.network;
        let mut files = Vec::new();
        if self.exchange.placement().rank() == 0 {
            let shared = &network.shared.parameters;
            files.push(checkpoint::write_parameters(directory, checkpoint::SHARED, shared)?);
            let moments = &learner.shared_moments;
            files.push(checkpoint::write_moments(directory, checkpoint::SHARED_OPTIMIZER, shared, moments)?);
        }
        for ((peer, encoder), moments) in network.peers.iter().zip(&network.encoders).zip(&learner.peer_moments) {
            let own = &encoder.parameters;
            files.push(checkpoint::write_parameters(directory, &checkpoint::peer_file(*peer), own)?);
            files.push(checkpoint::write_moments(directory, &checkpoint::peer_optimizer_file(*peer), own, moments)?);
        }
        let report = |file: ManifestFile| proto::ShardFile { name: file.name, bytes: file.bytes, sha256: file.sha256 };
        Ok(files.into_iter().map(report).collect())
    }
}
