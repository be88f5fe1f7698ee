//! The manifest of a checkpoint: what its directory holds, with sizes and hashes, and where training stood.
//!
//! A checkpoint directory `checkpoints/step-N/` holds `manifest.json`, `shared.safetensors`, `peer-J.safetensors`
//! and, beside each, the optimiser's state (`shared.optimizer.safetensors`, `peer-J.optimizer.safetensors`). It is
//! written under a temporary name, synced, and renamed once every worker's files are there: a manifest that is
//! visible is complete.

use serde::{Deserialize, Serialize};

/// The name of the manifest's file.
pub const FILE: &str = "manifest.json";

/// The version of the layout described here.
pub const FORMAT: u32 = 1;

/// Contents of `manifest.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: u32,
    /// Version of Medley that wrote the checkpoint.
    pub version: String,
    /// The job.
    pub job: String,
    /// Generation in which it was written.
    pub generation: u64,
    /// Steps that were committed.
    pub step: u64,
    /// Peers of the cohort.
    pub peers: u32,
    /// Hash of the resolved configuration.
    pub config_hash: String,
    /// Hash of the interaction data.
    pub data_hash: String,
    /// What the training loop needs beside the tensors.
    pub state: TrainingState,
    /// Every file of the directory but the manifest.
    pub files: Vec<ManifestFile>,
}

/// One file of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestFile {
    /// Name inside the directory.
    pub name: String,
    /// Size.
    pub bytes: u64,
    /// SHA-256, hexadecimal.
    pub sha256: String,
}

/// What the training loop needs, beside the tensors, to go on as if it had never stopped. Random numbers need no
/// state: they are keyed by seed, epoch, step and peer.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct TrainingState {
    /// Steps that the optimiser has taken since its moments were last cleared (textbook bias correction).
    pub optimizer_steps: u64,
    /// The best validation metric so far, over peers.
    pub best_metric: Option<f64>,
    /// The step at which it was measured.
    pub best_step: u64,
    /// Evaluations since then.
    pub evaluations_without_improvement: u32,
    /// Items of the catalogue: with the network's shape, what makes a checkpoint fit.
    pub items: u64,
    /// Seconds of training so far.
    pub train_seconds: f64,
    /// Masked rows trained on so far.
    pub rows: u64,
    /// Bytes sent so far by the worker of rank 0.
    pub bytes_sent: u64,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn numbers_are_read_to_the_last_bit() {
        for metric in [0.123_456_700_020_734_98, 0.1 + 0.2, 1.0 / 3.0, f64::MIN_POSITIVE, 1e300 / 7.0] {
            let written =
                TrainingState { best_metric: Some(metric), train_seconds: metric, ..TrainingState::default() };
            let text = serde_json::to_string(&written).unwrap();
            assert_eq!(serde_json::from_str::<TrainingState>(&text).unwrap(), written, "{text}");
        }
    }
}
