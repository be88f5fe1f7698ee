//! The manifest of a checkpoint: what its directory holds, with sizes and hashes, and where training stood.
//!
//! A checkpoint directory `checkpoints/step-N/` holds `manifest.json`, `shared.safetensors`, `peer-J.safetensors`
//! and, beside each, the optimiser's state (`shared.optimizer.safetensors`, `peer-J.optimizer.safetensors`). It is
//! written under a temporary name, synced, and renamed once every worker's files are there: a manifest that is
//! visible is complete. `storage` says what stands for the renaming where checkpoints are kept elsewhere.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::Path;

/// The name of the manifest's file.
pub const FILE: &str = "manifest.json";

/// The version of the layout described here.
pub const FORMAT: u32 = 1;

/// The peer whose parameters a file of a checkpoint holds: `peer-J.safetensors`.
pub fn peer_of(file: &str) -> Option<u32> {
    file.strip_prefix("peer-")?.strip_suffix(".safetensors")?.parse().ok()
}

/// What is wrong with the names of a checkpoint's files: each must be there once, and lie inside its directory.
pub fn fault_of_names(files: &[ManifestFile]) -> Option<String> {
    let mut seen = BTreeSet::new();
    for ManifestFile { name, .. } in files {
        let is_plain = Path::new(name).file_name().is_some_and(|plain| plain == name.as_str());
        if !is_plain || name.starts_with('.') || name == FILE || name.contains(char::is_control) {
            return Some(format!("a file named {name:?}"));
        }
        if !seen.insert(name) {
            return Some(format!("{name} twice"));
        }
    }
    files.is_empty().then(|| "no files".into())
}

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
    /// The step of the last validation, which a recovery neither skips nor repeats. A checkpoint without it was validated
    /// at its own step where that was due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validated_step: Option<u64>,
    /// The metric of the last validation, the best over peers; absent before the first, and in older checkpoints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<f64>,
    /// The step of that validation.
    #[serde(default)]
    pub metric_step: u64,
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
