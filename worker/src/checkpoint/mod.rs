//! A worker's part of a checkpoint: safetensors files of shared parameters, peers and optimiser moments.
//!
//! 1. [`Staged`]: a copy in memory of what belongs into this worker's files.
//! 2. [`Writer`]: the thread that makes files of a copy and writes them, while training goes on; the coordinator verifies
//!    everybody's files and commits them (`medley_common::storage`).
//! 3. [`Checkpoint`]: restores from a committed one and refuses what is damaged or does not fit.
//! 4. [`Exported`]: one peer of a checkpoint, for use elsewhere.

mod exported;
mod read;
mod staged;
mod writer;

pub use exported::{ChosenBy, Exported, ExportedModel};
pub use medley_common::manifest::{SHARED, best_file};
pub use read::{Checkpoint, CheckpointError};
pub use staged::Staged;
pub use writer::{Writer, Written};

/// File of the shared parameters' moments.
pub const SHARED_OPTIMIZER: &str = "shared.optimizer.safetensors";

/// File of a peer's encoder.
pub fn peer_file(peer: u32) -> String {
    format!("peer-{peer}.safetensors")
}

/// File of its moments.
pub fn peer_optimizer_file(peer: u32) -> String {
    format!("peer-{peer}.optimizer.safetensors")
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::model::{Parameters, Specification};
    use crate::train::optimizer::Moments;
    use medley_common::config::{Initialization, OptimizerConfig};
    use medley_common::manifest::{self, Manifest, ManifestFile, TrainingState};
    use std::path::Path;
    use tch::Device;

    /// Writes what `stage` copies into a directory, as a writer does.
    fn write(directory: &Path, stage: impl Fn(&mut Staged)) -> Vec<ManifestFile> {
        let mut staged = Staged::default();
        // Memory of an earlier copy with other contents must not show.
        staged.add_parameters("other", "", &parameters(9));
        staged.clear();
        stage(&mut staged);
        staged.each(|name, bytes| std::fs::write(directory.join(name), bytes)).unwrap()
    }

    pub fn parameters(columns: i64) -> Parameters {
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
        let files = write(directory.path(), |staged| {
            staged.add_parameters(SHARED, "", &written);
            staged.add_moments(SHARED_OPTIMIZER, &written, &moments);
        });
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
        let files = write(directory.path(), |staged| staged.add_parameters(SHARED, "", &parameters(3)));
        let checkpoint = committed(directory.path(), files);
        let error = checkpoint.read_parameters(SHARED, &parameters(5)).unwrap_err().to_string();
        assert!(error.contains("weight") && error.contains("[4, 3]") && error.contains("[4, 5]"), "{error}");
    }

    #[test]
    fn a_file_that_is_cut_short_or_changed_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(SHARED);
        let files = write(directory.path(), |staged| staged.add_parameters(SHARED, "", &parameters(3)));
        let checkpoint = committed(directory.path(), files);
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
