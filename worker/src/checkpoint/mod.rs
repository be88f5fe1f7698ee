//! A worker's part of a checkpoint: safetensors files of shared parameters, peers and optimiser moments.
//!
//! [`write_parameters`] and [`write_moments`] put this worker's files into the staging directory and syncs them; the coordinator verifies everybody's,
//! writes the manifest and renames the directory (see `medley_common::manifest`). [`read_parameters`] and [`read_moments`] restore from a committed
//! one and refuses what does not fit.

mod read;
mod write;

pub use read::{CheckpointError, open, read_moments, read_parameters};
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
    use tch::Device;

    fn parameters(columns: i64) -> Parameters {
        let mut all = vec![Specification::matrix("weight", 4, columns), Specification::bias("bias", 4)];
        all.extend(Specification::norm("norm", 4));
        Parameters::draw(all, Initialization::Xavier, 5, Device::Cpu)
    }

    #[test]
    fn what_is_written_comes_back_bit_for_bit() {
        let directory = tempfile::tempdir().unwrap();
        let written = parameters(3);
        let file = write_parameters(directory.path(), SHARED, &written).unwrap();
        assert_eq!(file.bytes, std::fs::metadata(directory.path().join(SHARED)).unwrap().len());
        let restored = parameters(3);
        let _ = restored.values().shallow_clone().zero_();
        read_parameters(directory.path(), SHARED, &restored).unwrap();
        assert!(restored.values().equal(written.values()));

        let config = OptimizerConfig::default();
        let mut moments = Moments::new(&written, &config);
        moments.update(&written, written.values(), 0.1, 1, &config);
        write_moments(directory.path(), SHARED_OPTIMIZER, &written, &moments).unwrap();
        let mut others = Moments::new(&restored, &config);
        read_moments(directory.path(), SHARED_OPTIMIZER, &restored, &mut others).unwrap();
        assert!(others.first.equal(&moments.first) && others.second.equal(&moments.second));
    }

    #[test]
    fn another_shape_is_refused_with_both_shapes_named() {
        let directory = tempfile::tempdir().unwrap();
        write_parameters(directory.path(), SHARED, &parameters(3)).unwrap();
        let error = read_parameters(directory.path(), SHARED, &parameters(5)).unwrap_err().to_string();
        assert!(error.contains("weight") && error.contains("[4, 3]") && error.contains("[4, 5]"), "{error}");
    }

    #[test]
    fn a_truncated_file_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(SHARED);
        write_parameters(directory.path(), SHARED, &parameters(3)).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        for length in [0, 4, 30, bytes.len() - 1] {
            std::fs::write(&path, &bytes[..length]).unwrap();
            let error = read_parameters(directory.path(), SHARED, &parameters(3)).unwrap_err().to_string();
            assert!(error.contains(SHARED) && error.lines().count() == 1, "{error}");
        }
    }

    #[test]
    fn an_absent_manifest_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let error = open(directory.path()).unwrap_err().to_string();
        assert!(error.contains("manifest.json"), "{error}");
    }
}
