//! Restoring from a committed checkpoint.

use crate::model::{Network, Parameters};
use crate::train::optimizer::Moments;
use medley_common::manifest::Manifest;
use medley_common::storage::{StorageError, Stored};
use safetensors::SafeTensors;
use safetensors::tensor::Dtype;
use std::path::Path;
use tch::Tensor;

/// Why a checkpoint cannot be used, in one line.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// What keeps it does not give it, or not as it was committed.
    #[error("{0}; take another checkpoint, or mend access to this one")]
    Storage(#[from] StorageError),
    /// A file holds other things than it should.
    #[error("{place}: not a whole file of a checkpoint ({what}); take another checkpoint")]
    Damaged {
        /// The file.
        place: String,
        /// What is wrong with it.
        what: String,
    },
    /// The checkpoint belongs to a network of another shape.
    #[error(
        "{place}: `{tensor}` has shape {found} in the checkpoint but {expected} in this configuration; resume with the configuration that wrote it"
    )]
    Shape {
        /// The file.
        place: String,
        /// The parameter.
        tensor: String,
        /// Its shape in the file.
        found: String,
        /// Its shape here.
        expected: String,
    },
}

impl CheckpointError {
    /// Whether there is nothing of that name, as opposed to something unreachable or damaged.
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Storage(error) if error.is_absent())
    }

    /// Whether it may be there, and readable, a little later.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Storage(error) if error.is_passing())
    }
}

/// A committed checkpoint that is read from.
#[derive(Debug)]
pub struct Checkpoint {
    stored: Stored,
}

impl Checkpoint {
    /// Opens a checkpoint by its place: a directory, or `s3://BUCKET/PREFIX/step-N`.
    ///
    /// # Errors
    /// When its manifest is absent, damaged, or of another layout.
    pub fn open(place: &Path) -> Result<Self, CheckpointError> {
        Ok(Self { stored: Stored::at(place)? })
    }

    /// Opens the checkpoint of another step of the same run.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn sibling(&self, step: u64) -> Result<Self, CheckpointError> {
        Ok(Self { stored: self.stored.sibling(step)? })
    }

    /// What it holds.
    pub fn manifest(&self) -> &Manifest {
        &self.stored.manifest
    }

    /// Where it is, for people.
    pub fn place(&self) -> String {
        self.stored.place()
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
        let bytes = self.stored.read(name)?;
        vectors(&bytes, &self.stored.place_of(name), parameters, prefixes)
    }
}

/// Out of a safetensors file one flat vector for each prefix, in the order of the parameters.
pub(super) fn vectors<const N: usize>(
    bytes: &[u8],
    place: &str,
    parameters: &Parameters,
    prefixes: [&str; N],
) -> Result<[Vec<f32>; N], CheckpointError> {
    let damaged = |what: String| CheckpointError::Damaged { place: place.into(), what };
    let tensors = SafeTensors::deserialize(bytes).map_err(|error| damaged(error.to_string()))?;
    let mut result = [const { Vec::new() }; N];
    for (prefix, values) in prefixes.iter().zip(&mut result) {
        for specification in parameters.specifications() {
            let name = format!("{prefix}{}", specification.name);
            let view = tensors.tensor(&name).map_err(|_| damaged(format!("it has no `{name}`")))?;
            let expected: Vec<usize> = specification.shape.iter().map(|size| *size as usize).collect();
            if view.dtype() != Dtype::F32 || view.shape() != expected {
                return Err(CheckpointError::Shape {
                    place: place.into(),
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

pub(super) fn restore(target: &Tensor, values: &[f32]) {
    let _guard = tch::no_grad_guard();
    target.shallow_clone().copy_(&Tensor::from_slice(values));
}
