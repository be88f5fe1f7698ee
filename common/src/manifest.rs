//! The manifest of a checkpoint: what its directory holds, with sizes and hashes, and where training stood.
//!
//! A checkpoint directory `checkpoints/step-N/` holds `manifest.json`, `shared.safetensors`, `peer-J.safetensors`
//! and, beside each, the optimiser's state (`shared.optimizer.safetensors`, `peer-J.optimizer.safetensors`). Where training
//! may go back to the best validation, and that was at another step, the parameters of then are there too
//! (`shared.best.safetensors`, `peer-J.best.safetensors`): that step's own checkpoint may never have come about. It is
//! written under a temporary name, synced, and renamed once every worker's files are there: a manifest that is
//! visible is complete. `storage` says what stands for the renaming where checkpoints are kept elsewhere.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::Path;

/// The name of the manifest's file.
pub const FILE: &str = "manifest.json";

/// The version of the layout described here.
pub const FORMAT: u32 = 1;

/// The file of the shared parameters.
pub const SHARED: &str = "shared.safetensors";

/// The file of what the parameters of a file were at the best validation: of `peer-J.safetensors`, `peer-J.best.safetensors`.
pub fn best_file(file: &str) -> String {
    format!("{}.best.safetensors", file.strip_suffix(".safetensors").unwrap_or(file))
}

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

impl Manifest {
    /// Whether a file of this name belongs to the checkpoint.
    pub fn names(&self, file: &str) -> bool {
        self.files.iter().any(|other| other.name == file)
    }

    /// Whether the parameters of the best validation are among the files; else they are in the checkpoint of its step.
    pub fn keeps_best(&self) -> bool {
        self.names(&best_file(SHARED))
    }

    /// The peers whose parameters are among the files, ascending. After a loss they need not be the first ones.
    pub fn held_peers(&self) -> Vec<u32> {
        let peers: BTreeSet<u32> = self.files.iter().filter_map(|file| peer_of(&file.name)).collect();
        peers.into_iter().collect()
    }
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
    /// The step of the last validation, which a generation that goes on from memory neither skips nor repeats. A checkpoint
    /// of a step at which one was due is written after it; where an older version kept none here, that step counts as
    /// validated.
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
    fn every_file_has_its_kind() {
        let names =
            ["shared", "shared.best", "shared.optimizer", "peer-2", "peer-2.best", "peer-2.optimizer", "peer-0"];
        let files =
            names.map(|name| ManifestFile { name: format!("{name}.safetensors"), bytes: 0, sha256: String::new() });
        assert_eq!(fault_of_names(&files), None);
        let mut manifest = Manifest {
            format: FORMAT,
            version: String::new(),
            job: String::new(),
            generation: 1,
            step: 4,
            peers: 2,
            config_hash: String::new(),
            data_hash: String::new(),
            state: TrainingState::default(),
            files: files.to_vec(),
        };
        assert_eq!(manifest.held_peers(), [0, 2], "each once, by its parameters of now");
        assert_eq!(best_file("peer-2.safetensors"), "peer-2.best.safetensors");
        assert!(manifest.keeps_best() && manifest.names("peer-2.best.safetensors"));
        manifest.files.retain(|file| file.name != best_file(SHARED));
        assert!(!manifest.keeps_best());
    }

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
