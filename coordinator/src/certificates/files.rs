//! Writing certificates and keys: all of them or none, and never over others.

use super::MakeError;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A file to be made.
pub struct NewFile {
    path: PathBuf,
    contents: String,
    mode: u32,
}

impl NewFile {
    /// Readable for everybody.
    pub fn public(path: PathBuf, contents: String) -> Self {
        Self { path, contents, mode: 0o644 }
    }

    /// Readable for its owner alone.
    pub fn private(path: PathBuf, contents: String) -> Self {
        Self { path, contents, mode: 0o600 }
    }
}

/// Makes the directory where it is missing, and all files in it. Returns their paths.
///
/// # Errors
/// [`MakeError::Exists`] where one is there, before any is written; [`MakeError::Unwritable`], after those that were
/// written are removed again.
pub fn write_all(directory: &Path, files: &[NewFile]) -> Result<Vec<PathBuf>, MakeError> {
    if let Some(there) = files.iter().find(|file| file.path.symlink_metadata().is_ok()) {
        return Err(MakeError::Exists(there.path.clone()));
    }
    let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.map_err(|source| MakeError::Unwritable { path: directory.to_owned(), source })?;
    let mut written: Vec<PathBuf> = Vec::new();
    for file in files {
        if let Err(source) = write(file) {
            // Created by this call: `create_new` never takes what was there.
            let fresh = (source.kind() != std::io::ErrorKind::AlreadyExists).then_some(&file.path);
            for path in written.iter().chain(fresh) {
                let _ = std::fs::remove_file(path);
            }
            return Err(MakeError::Unwritable { path: file.path.clone(), source });
        }
        written.push(file.path.clone());
    }
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(|source| MakeError::Unwritable { path: directory.to_owned(), source })?;
    Ok(written)
}

fn write(file: &NewFile) -> std::io::Result<()> {
    let mut to = OpenOptions::new().write(true).create_new(true).mode(file.mode).open(&file.path)?;
    to.write_all(file.contents.as_bytes())?;
    to.sync_all()
}
