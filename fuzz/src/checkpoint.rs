//! A checkpoint as the worker reads it. The first byte chooses what the rest is: a manifest, a safetensors file of
//! parameters, or one of moments, which an honest manifest vouches for.

use crate::one_line::assert_one_line;
use medley_common::config::{Initialization, OptimizerConfig};
use medley_common::hash;
use medley_common::manifest::{self, Manifest, ManifestFile, TrainingState};
use medley_worker::checkpoint::{Checkpoint, SHARED, SHARED_OPTIMIZER};
use medley_worker::model::{Parameters, Specification};
use medley_worker::train::optimizer::Moments;
use std::fs;
use std::path::Path;
use tch::Device;

/// The parameters that a file is read into.
pub fn parameters() -> Parameters {
    let mut all = vec![Specification::matrix("weight", 2, 3), Specification::bias("bias", 2)];
    all.extend(Specification::norm("norm", 2));
    Parameters::draw(all, Initialization::Xavier, 5, Device::Cpu)
}

/// Reads the input; what is refused changes nothing.
pub fn check(input: &[u8]) -> bool {
    let [kind, bytes @ ..] = input else { return false };
    let directory = tempfile::tempdir().expect("a directory");
    let directory = directory.path();
    match kind % 3 {
        0 => {
            fs::write(directory.join(SHARED), b"").expect("a file");
            fs::write(directory.join(manifest::FILE), bytes).expect("a file");
            read_parameters(directory)
        }
        1 => {
            vouch(directory, SHARED, bytes);
            read_parameters(directory)
        }
        _ => {
            vouch(directory, SHARED_OPTIMIZER, bytes);
            read_moments(directory)
        }
    }
}

fn vouch(directory: &Path, name: &str, bytes: &[u8]) {
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
        files: vec![ManifestFile { name: name.into(), bytes: bytes.len() as u64, sha256: hash::sha256(bytes) }],
    };
    fs::write(directory.join(name), bytes).expect("a file");
    let text = serde_json::to_vec(&manifest).expect("a manifest has string keys only");
    fs::write(directory.join(manifest::FILE), text).expect("a file");
}

fn read_parameters(directory: &Path) -> bool {
    let parameters = parameters();
    let before = parameters.values().copy();
    let read = Checkpoint::open(directory).and_then(|checkpoint| checkpoint.read_parameters(SHARED, &parameters));
    if let Err(error) = &read {
        assert_one_line(error);
        assert!(parameters.values().equal(&before), "a refused file changed parameters");
    }
    read.is_ok()
}

fn read_moments(directory: &Path) -> bool {
    let parameters = parameters();
    let mut moments = Moments::new(&parameters, &OptimizerConfig::default());
    let before = [moments.first.copy(), moments.second.copy()];
    let read = Checkpoint::open(directory)
        .and_then(|checkpoint| checkpoint.read_moments(SHARED_OPTIMIZER, &parameters, &mut moments));
    if let Err(error) = &read {
        assert_one_line(error);
        let is_unchanged = moments.first.equal(&before[0]) && moments.second.equal(&before[1]);
        assert!(is_unchanged, "a refused file changed moments");
    }
    read.is_ok()
}
