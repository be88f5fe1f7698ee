//! Restoring from a committed checkpoint.

use crate::model::{Network, Parameters};
use crate::train::optimizer::Moments;
use medley_common::hash;
use medley_common::manifest::{self, Manifest};
use safetensors::SafeTensors;
use safetensors::tensor::Dtype;
use std::path::{Path, PathBuf};
use tch::Tensor;

/// Why a checkpoint cannot be used, in one line.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// A file is absent or unreadable.
    #[error("{path}: cannot read this part of the checkpoint: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is damaged.
    #[error("{path}: not a whole file of a checkpoint ({what}); take another checkpoint")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The checkpoint belongs to a network of another shape.
    #[error(
        "{path}: `{tensor}` has shape {found} in the checkpoint but {expected} in this configuration; resume with the configuration that wrote it"
    )]
    Shape {
        /// The file.
        path: PathBuf,
        /// The parameter.
        tensor: String,
        /// Its shape in the file.
        found: String,
        /// Its shape here.
        expected: String,
    },
}

/// A committed checkpoint that is read from.
#[derive(Debug)]
pub struct Checkpoint {
    directory: PathBuf,
    /// What it holds.
    pub manifest: Manifest,
}

impl Checkpoint {
    /// Reads the manifest.
    ///
    /// # Errors
    /// When it is absent, damaged, or of another layout.
    pub fn open(directory: &Path) -> Result<Self, CheckpointError> {
        let path = directory.join(manifest::FILE);
        let bytes = read_file(&path)?;
        let manifest: Manifest = serde_json::from_slice(&bytes)
            .map_err(|error| CheckpointError::Damaged { path: path.clone(), what: error.to_string() })?;
        if manifest.format != manifest::FORMAT {
            let what = format!("its layout is version {}, this program reads {}", manifest.format, manifest::FORMAT);
            return Err(CheckpointError::Damaged { path, what });
        }
        Ok(Self { directory: directory.to_owned(), manifest })
    }

    /// Restores the parameters of a network from this checkpoint.
    ///
    /// # Errors
    /// When a file is absent, is not the one that was committed, or is of another shape.
    pub fn restore_network(&self, network: &Network) -> Result<(), CheckpointError> {
        self.read_parameters(super::SHARED, &network.shared.parameters)?;
        let mut peers = network.peers.iter().zip(&network.encoders);
        peers.try_for_each(|(peer, encoder)| self.read_parameters(&super::peer_file(*peer), &encoder.parameters))
    }

    /// Restores parameters.
    ///
    /// # Errors
    /// When the file is absent, is not the one that was committed, or is of another shape; the parameters are then
    /// unchanged.
    pub fn read_parameters(&self, name: &str, parameters: &Parameters) -> Result<(), CheckpointError> {
        let [values] = self.read(name, parameters, [""])?;
        restore(parameters.values(), &values);
        Ok(())
    }

    /// Restores moments.
    ///
    /// # Errors
    /// As [`Checkpoint::read_parameters`].
    pub fn read_moments(
        &self,
        name: &str,
        parameters: &Parameters,
        moments: &mut Moments,
    ) -> Result<(), CheckpointError> {
        let [first, second] = self.read(name, parameters, ["first.", "second."])?;
        restore(&moments.first, &first);
        restore(&moments.second, &second);
        Ok(())
    }

    /// One flat vector for each prefix, in the order of the parameters.
    fn read<const N: usize>(
        &self,
        name: &str,
        parameters: &Parameters,
        prefixes: [&str; N],
    ) -> Result<[Vec<f32>; N], CheckpointError> {
        let path = self.directory.join(name);
        let damaged = |what: String| CheckpointError::Damaged { path: path.clone(), what };
        let bytes = self.read_committed(name)?;
        let tensors = SafeTensors::deserialize(&bytes).map_err(|error| damaged(error.to_string()))?;
        let mut result = [const { Vec::new() }; N];
        for (prefix, values) in prefixes.iter().zip(&mut result) {
            for specification in parameters.specifications() {
                let name = format!("{prefix}{}", specification.name);
                let view = tensors.tensor(&name).map_err(|_| damaged(format!("it has no `{name}`")))?;
                let expected: Vec<usize> = specification.shape.iter().map(|size| *size as usize).collect();
                if view.dtype() != Dtype::F32 || view.shape() != expected {
                    return Err(CheckpointError::Shape {
                        path,
                        tensor: name,
                        found: format!("{:?}", view.shape()),
                        expected: format!("{expected:?}"),
                    });
                }
                let floats = view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
                values.extend(floats);
            }
        }
        Ok(result)
    }

    /// The bytes of a file, which are those that the manifest vouches for.
    fn read_committed(&self, name: &str) -> Result<Vec<u8>, CheckpointError> {
        let path = self.directory.join(name);
        let bytes = read_file(&path)?;
        let Some(file) = self.manifest.files.iter().find(|file| file.name == name) else {
            return Err(CheckpointError::Damaged { path, what: "the manifest does not name it".into() });
        };
        if bytes.len() as u64 != file.bytes {
            let what = format!("it has {} bytes, its manifest says {}", bytes.len(), file.bytes);
            return Err(CheckpointError::Damaged { path, what });
        }
        if hash::sha256(&bytes) != file.sha256 {
            let what = "its hash is not the one in the manifest".into();
            return Err(CheckpointError::Damaged { path, what });
        }
        Ok(bytes)
    }
}

fn restore(target: &Tensor, values: &[f32]) {
    let _guard = tch::no_grad_guard();
    target.shallow_clone().copy_(&Tensor::from_slice(values));
}

fn read_file(path: &Path) -> Result<Vec<u8>, CheckpointError> {
    std::fs::read(path).map_err(|source| CheckpointError::Unreadable { path: path.to_owned(), source })
}
