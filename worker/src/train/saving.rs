//! Checkpoints of a training, as this worker writes its part of them.

use super::error::TrainError;
use super::trainer::{Reporter, Trainer};
use crate::checkpoint;
use medley_common::manifest::ManifestFile;
use medley_common::proto;
use std::path::Path;

impl Trainer<'_> {
    /// Writes this worker's files of a checkpoint of the committed step, unless there is nothing new to write.
    pub(super) fn save(&mut self, reporter: &mut dyn Reporter) -> Result<(), TrainError> {
        if self.step == 0 || self.saved == Some(self.step) {
            return Ok(());
        }
        let relative = checkpoint::staging(self.step);
        let directory = self.run_directory.join(&relative);
        let files = self.write_files(&directory).map_err(|source| TrainError::Write { path: directory, source })?;
        let state = match self.placement.rank() {
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
        let learner = self.entered_learner();
        let network = &learner.network;
        let mut files = Vec::new();
        if self.placement.rank() == 0 {
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
