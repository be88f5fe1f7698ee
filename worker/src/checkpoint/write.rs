//! Writing files of a checkpoint, each synced before it is reported.

use crate::faults;
use crate::model::Parameters;
use crate::train::optimizer::Moments;
use medley_common::hash;
use medley_common::manifest::ManifestFile;
use safetensors::tensor::{Dtype, TensorView};
use std::fs::File;
use std::io;
use std::path::Path;
use tch::{Device, Tensor};

/// Writes parameters, each under its name.
///
/// # Errors
/// Those of the file system.
pub fn write_parameters(directory: &Path, name: &str, parameters: &Parameters) -> io::Result<ManifestFile> {
    write(directory, name, parameters, &[("", parameters.values())])
}

/// Writes moments, each under its parameter's name with `first.` or `second.` before it.
///
/// # Errors
/// Those of the file system.
pub fn write_moments(
    directory: &Path,
    name: &str,
    parameters: &Parameters,
    moments: &Moments,
) -> io::Result<ManifestFile> {
    write(directory, name, parameters, &[("first.", &moments.first), ("second.", &moments.second)])
}

fn write(
    directory: &Path,
    name: &str,
    parameters: &Parameters,
    vectors: &[(&str, &Tensor)],
) -> io::Result<ManifestFile> {
    let flat: Vec<Vec<u8>> = vectors.iter().map(|(_, values)| little_endian(values)).collect();
    let mut views = Vec::new();
    for ((prefix, _), bytes) in vectors.iter().zip(&flat) {
        let mut rest = bytes.as_slice();
        for specification in parameters.specifications() {
            let (mine, others) = rest.split_at(4 * specification.len() as usize);
            rest = others;
            let shape = specification.shape.iter().map(|size| *size as usize).collect();
            let view = TensorView::new(Dtype::F32, shape, mine).map_err(io::Error::other)?;
            views.push((format!("{prefix}{}", specification.name), view));
        }
    }
    let bytes = safetensors::serialize(views, None).map_err(io::Error::other)?;
    let mut file = File::create(directory.join(name))?;
    faults::write(&mut file, &bytes, directory)?;
    file.sync_all()?;
    Ok(ManifestFile { name: name.into(), bytes: bytes.len() as u64, sha256: hash::sha256(&bytes) })
}

fn little_endian(values: &Tensor) -> Vec<u8> {
    let mut floats = vec![0.0f32; values.numel()];
    values.to_device(Device::Cpu).copy_data(&mut floats, values.numel());
    floats.iter().flat_map(|value| value.to_le_bytes()).collect()
}
