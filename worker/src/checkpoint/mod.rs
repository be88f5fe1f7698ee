//! A worker's part of a checkpoint: safetensors files of shared parameters, peers and optimiser moments.
//!
//! [`write_parameters`] and [`write_moments`] put this worker's files into the staging directory and sync them; the
//! coordinator verifies everybody's, writes the manifest and renames the directory (see `medley_common::manifest`).
//! A [`Checkpoint`] restores from a committed one and refuses what is damaged or does not fit.

mod read;
mod write;

pub use read::{Checkpoint, CheckpointError};
pub use write::{write_moments, write_parameters};

use std::path::{Path, PathBuf};

/// File of the shared parameters.
pub const SHARED: &str = "shared.safetensors";
/// File of their moments.
pub const SHARED_OPTIMIZER: &str = "shared.optimizer.safetensors";

/// File of a peer's encoder.
pub fn peer_file(peer: u32) -> String {
    format!("peer-{peer}.safetensors")
}

/// File of its moments.
pub fn peer_optimizer_file(peer: u32) -> String {
    format!("peer-{peer}.optimizer.safetensors")
}

/// Where the files of a checkpoint wait for their manifest, relative to the run directory.
pub fn staging(step: u64) -> PathBuf {
    Path::new(medley_common::run_directory::CHECKPOINTS).join(format!(".step-{step}.staging"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::model::{Parameters, Specification};
    use crate::train::optimizer::Moments;
    use medley_common::config::{Initialization, OptimizerConfig};
    use medley_common::manifest::{self, Manifest, ManifestFile, TrainingState};
    use tch::Device;

    fn parameters(columns: i64) -> Parameters {
        let mut all = vec![Specification::matrix("weight", 4, columns), Specification::bias("bias", 4)];
        all.extend(Specification::norm("norm", 4));
        Parameters::draw(all, Initialization::Xavier, 5, Device::Cpu)
    }

    /// What a coordinator makes of the files that a worker wrote.
    fn committed(directory: &Path, files: Vec<ManifestFile>) -> Checkpoint {
        let manifest = Manifest {
            format: manifest::FORMAT,
            version: String::new(),
            job: String::new(),
            generation: 1,
            step: 1,
            peers: 1,
            config_hash: String::new(),
            data_hash: String::new(),
            state: TrainingState::default(),
            files,
        };
        std::fs::write(directory.join(manifest::FILE), serde_json::to_vec(&manifest).unwrap()).unwrap();
        Checkpoint::open(directory).unwrap()
    }

    #[test]
    fn what_is_written_comes_back_bit_for_bit() {
        let directory = tempfile::tempdir().unwrap();
        let written = parameters(3);
        let config = OptimizerConfig::default();
        let mut moments = Moments::new(&written, &config);
        moments.update(&written, &written.values().copy(), 1.0, 0.1, 1, &config);
        let files = vec![
            write_parameters(directory.path(), SHARED, &written).unwrap(),
            write_moments(directory.path(), SHARED_OPTIMIZER, &written, &moments).unwrap(),
        ];
        assert_eq!(files[0].bytes, std::fs::metadata(directory.path().join(SHARED)).unwrap().len());
        let checkpoint = committed(directory.path(), files);
        let restored = parameters(3);
        let _ = restored.values().shallow_clone().zero_();
        checkpoint.read_parameters(SHARED, &restored).unwrap();
        assert!(restored.values().equal(written.values()));
        let mut others = Moments::new(&restored, &config);
        checkpoint.read_moments(SHARED_OPTIMIZER, &restored, &mut others).unwrap();
        assert!(others.first.equal(&moments.first) && others.second.equal(&moments.second));
    }

    #[test]
    fn another_shape_is_refused_with_both_shapes_named() {
        let directory = tempfile::tempdir().unwrap();
        let file = write_parameters(directory.path(), SHARED, &parameters(3)).unwrap();
        let checkpoint = committed(directory.path(), vec![file]);
        let error = checkpoint.read_parameters(SHARED, &parameters(5)).unwrap_err().to_string();
        assert!(error.contains("weight") && error.contains("[4, 3]") && error.contains("[4, 5]"), "{error}");
    }

    #[test]
    fn a_file_that_is_cut_short_or_changed_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(SHARED);
        let file = write_parameters(directory.path(), SHARED, &parameters(3)).unwrap();
        let checkpoint = committed(directory.path(), vec![file]);
        let bytes = std::fs::read(&path).unwrap();
        let mut flipped = bytes.clone();
        *flipped.last_mut().unwrap() ^= 1;
        let cut = [0, 4, 30, bytes.len() - 1].map(|length| bytes[..length].to_vec());
        for changed in cut.into_iter().chain([flipped]) {
            std::fs::write(&path, &changed).unwrap();
            let error = checkpoint.read_parameters(SHARED, &parameters(3)).unwrap_err().to_string();
            assert!(error.contains(SHARED) && error.lines().count() == 1, "{error}");
        }
    }

    #[test]
    fn an_absent_manifest_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let error = Checkpoint::open(directory.path()).unwrap_err().to_string();
        assert!(error.contains("manifest.json"), "{error}");
    }
}
