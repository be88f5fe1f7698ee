//! Restoring from a committed checkpoint.

use crate::model::Parameters;
use crate::train::optimizer::Moments;
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

/// Reads a checkpoint's manifest.
///
/// # Errors
/// When it is absent, damaged, or of another layout.
pub fn open(directory: &Path) -> Result<Manifest, CheckpointError> {
    let path = directory.join(manifest::FILE);
    let bytes = read_file(&path)?;
    let manifest: Manifest = serde_json::from_slice(&bytes)
        .map_err(|error| CheckpointError::Damaged { path: path.clone(), what: error.to_string() })?;
    if manifest.format != manifest::FORMAT {
        let what = format!("its layout is version {}, this program reads {}", manifest.format, manifest::FORMAT);
        return Err(CheckpointError::Damaged { path, what });
    }
    Ok(manifest)
}

/// Restores parameters.
///
/// # Errors
/// When the file is absent, damaged, or of another shape; the parameters are then unchanged.
pub fn read_parameters(directory: &Path, name: &str, parameters: &Parameters) -> Result<(), CheckpointError> {
    let [values] = read(&directory.join(name), parameters, [""])?;
    restore(parameters.values(), &values);
    Ok(())
}

/// Restores moments.
///
/// # Errors
/// As [`read_parameters`].
pub fn read_moments(
    directory: &Path,
    name: &str,
    parameters: &Parameters,
    moments: &mut Moments,
) -> Result<(), CheckpointError> {
    let [first, second] = read(&directory.join(name), parameters, ["first.", "second."])?;
    restore(&moments.first, &first);
    restore(&moments.second, &second);
    Ok(())
}

fn restore(target: &Tensor, values: &[f32]) {
    let _guard = tch::no_grad_guard();
    target.shallow_clone().copy_(&Tensor::from_slice(values));
}

/// One flat vector for each prefix, in the order of the parameters.
fn read<const N: usize>(
    path: &Path,
    parameters: &Parameters,
    prefixes: [&str; N],
) -> Result<[Vec<f32>; N], CheckpointError> {
    let damaged = |what: String| CheckpointError::Damaged { path: path.to_owned(), what };
    let bytes = read_file(path)?;
    let tensors = SafeTensors::deserialize(&bytes).map_err(|error| damaged(error.to_string()))?;
    let mut result = [const { Vec::new() }; N];
    for (prefix, values) in prefixes.iter().zip(&mut result) {
        for specification in parameters.specifications() {
            let name = format!("{prefix}{}", specification.name);
            let view = tensors.tensor(&name).map_err(|_| damaged(format!("it has no `{name}`")))?;
            let expected: Vec<usize> = specification.shape.iter().map(|size| *size as usize).collect();
            if view.dtype() != Dtype::F32 || view.shape() != expected {
                return Err(CheckpointError::Shape {
                    path: path.to_owned(),
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

fn read_file(path: &Path) -> Result<Vec<u8>, CheckpointError> {
    std::fs::read(path).map_err(|source| CheckpointError::Unreadable { path: path.to_owned(), source })
}
