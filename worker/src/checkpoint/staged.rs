//! A copy in memory of what a worker puts into a checkpoint, and its form as safetensors files.

use crate::model::Parameters;
use crate::train::optimizer::Moments;
use medley_common::hash;
use medley_common::manifest::ManifestFile;
use safetensors::tensor::{Dtype, View};
use std::borrow::Cow;
use std::io;
use tch::{Device, Tensor};

/// Files of a checkpoint, copied out of the networks, which go on training. Its memory serves the next copy.
#[derive(Debug, Default)]
pub struct Staged {
    pub(super) files: Vec<StagedFile>,
    /// The first so many of `files` belong to this copy; the others are memory of an earlier one.
    used: usize,
}

#[derive(Debug, Default)]
pub(super) struct StagedFile {
    name: String,
    /// Names and shapes, in the order of their values.
    tensors: Vec<(String, Vec<usize>)>,
    pub(super) values: Vec<f32>,
}

impl Staged {
    /// Forgets the copies and keeps their memory.
    pub fn clear(&mut self) {
        self.used = 0;
    }

    /// Copies parameters for a file, each under its name after `prefix`.
    pub fn add_parameters(&mut self, file: &str, prefix: &str, parameters: &Parameters) {
        self.begin(file);
        self.copy(prefix, parameters, parameters.values());
    }

    /// Copies other values of parameters for a file, each under its parameter's name.
    pub fn add_values(&mut self, file: &str, parameters: &Parameters, values: &Tensor) {
        self.begin(file);
        self.copy("", parameters, values);
    }

    /// Copies moments for a file, each under its parameter's name with `first.` or `second.` before it.
    pub fn add_moments(&mut self, file: &str, parameters: &Parameters, moments: &Moments) {
        self.begin(file);
        self.copy("first.", parameters, &moments.first);
        self.copy("second.", parameters, &moments.second);
    }

    /// Copies more parameters for the file that was added last.
    pub fn append_parameters(&mut self, prefix: &str, parameters: &Parameters) {
        self.copy(prefix, parameters, parameters.values());
    }

    fn begin(&mut self, name: &str) {
        if self.used == self.files.len() {
            self.files.push(StagedFile::default());
        }
        let file = &mut self.files[self.used];
        self.used += 1;
        file.name = name.into();
        file.tensors.clear();
        file.values.clear();
    }

    fn copy(&mut self, prefix: &str, parameters: &Parameters, values: &Tensor) {
        let file = &mut self.files[self.used - 1];
        let tensors = parameters.specifications().iter().map(|specification| {
            let shape = specification.shape.iter().map(|size| *size as usize).collect();
            (format!("{prefix}{}", specification.name), shape)
        });
        file.tensors.extend(tensors);
        let (start, count) = (file.values.len(), values.numel());
        file.values.resize(start + count, 0.0);
        values.to_device(Device::Cpu).copy_data(&mut file.values[start..], count);
    }

    /// Where the first copy lies.
    #[cfg(test)]
    pub fn address(&self) -> *const f32 {
        self.files[0].values.as_ptr()
    }

    /// Bytes of the copies.
    pub fn bytes(&self) -> usize {
        self.files[..self.used].iter().map(|file| 4 * file.values.len()).sum()
    }

    /// Makes the files one after the other, with what a manifest says of each. `take` has one at a time, so that no more
    /// than one is in memory beside the copies.
    ///
    /// # Errors
    /// The first of `take`.
    pub fn each<E: From<io::Error>>(
        &self,
        mut take: impl FnMut(&str, &[u8]) -> Result<(), E>,
    ) -> Result<Vec<ManifestFile>, E> {
        let mut described = Vec::new();
        for file in &self.files[..self.used] {
            let bytes = file.serialize().map_err(E::from)?;
            take(&file.name, &bytes)?;
            let sha256 = hash::sha256(&bytes);
            described.push(ManifestFile { name: file.name.clone(), bytes: bytes.len() as u64, sha256 });
        }
        Ok(described)
    }
}

impl StagedFile {
    fn serialize(&self) -> io::Result<Vec<u8>> {
        let mut rest = self.values.as_slice();
        let views = self.tensors.iter().map(|(name, shape)| {
            let (values, others) = rest.split_at(shape.iter().product());
            rest = others;
            (name, Floats { shape, values })
        });
        safetensors::serialize(views, None).map_err(io::Error::other)
    }
}

/// A tensor of a file: its bytes are made when it is its turn.
struct Floats<'a> {
    shape: &'a [usize],
    values: &'a [f32],
}

impl View for Floats<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Owned(self.values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }

    fn data_len(&self) -> usize {
        size_of_val(self.values)
    }
}
