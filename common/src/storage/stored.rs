//! A committed checkpoint, to read from.

use super::bucket::{self, Bucket};
use super::{BUCKET_SCHEME, StorageError, directory};
use crate::hash;
use crate::manifest::{self, Manifest};
use std::path::{Path, PathBuf};

/// A committed checkpoint, wherever it is kept.
#[derive(Debug)]
pub struct Stored {
    /// What it holds.
    pub manifest: Manifest,
    folder: Folder,
}

#[derive(Debug)]
enum Folder {
    Directory(PathBuf),
    /// The bucket, and the key of the checkpoint after its prefix.
    Bucket(Bucket, String),
}

impl Stored {
    /// Opens a checkpoint by its place: a directory, or `s3://BUCKET/PREFIX/step-N`.
    ///
    /// # Errors
    /// Where there is none, or its manifest cannot be read.
    pub fn at(place: &Path) -> Result<Self, StorageError> {
        let text = place.display().to_string();
        match text.trim_end_matches('/').rsplit_once('/') {
            Some((parent, name)) if text.starts_with(BUCKET_SCHEME) => {
                Self::in_bucket(Bucket::open(parent)?, name.to_owned())
            }
            _ => Self::in_directory(place.to_owned()),
        }
    }

    pub(super) fn in_directory(path: PathBuf) -> Result<Self, StorageError> {
        Self::open(Folder::Directory(path))
    }

    pub(super) fn in_bucket(bucket: Bucket, key: String) -> Result<Self, StorageError> {
        Self::open(Folder::Bucket(bucket, key))
    }

    fn open(folder: Folder) -> Result<Self, StorageError> {
        let (place, text) = match &folder {
            Folder::Directory(path) => {
                let path = path.join(manifest::FILE);
                (path.display().to_string(), directory::read(&path)?)
            }
            Folder::Bucket(bucket, key) => {
                let key = format!("{key}/{}", manifest::FILE);
                (bucket.place(&key), bucket.read(&key)?)
            }
        };
        let damaged = |error: serde_json::Error| StorageError::Damaged {
            place: place.clone(),
            what: format!("it is no manifest: {error}"),
        };
        let value: serde_json::Value = serde_json::from_slice(&text).map_err(damaged)?;
        let found = value["format"].as_u64().unwrap_or(0);
        if value["format"].is_u64() && found != u64::from(manifest::FORMAT) {
            let version = value["version"].as_str().unwrap_or("that wrote it").to_owned();
            return Err(StorageError::Format { place, found: u32::try_from(found).unwrap_or(u32::MAX), version });
        }
        let manifest: Manifest = serde_json::from_value(value).map_err(damaged)?;
        if let Some(fault) = manifest::fault_of_names(&manifest.files) {
            return Err(StorageError::Damaged { place, what: format!("it names {fault}") });
        }
        Ok(Self { manifest, folder })
    }

    /// The whole place of the checkpoint, for people.
    pub fn place(&self) -> String {
        match &self.folder {
            Folder::Directory(path) => path.display().to_string(),
            Folder::Bucket(bucket, key) => bucket.place(key),
        }
    }

    /// The whole place of a file of it, for people.
    pub fn place_of(&self, name: &str) -> String {
        match &self.folder {
            Folder::Directory(path) => path.join(name).display().to_string(),
            Folder::Bucket(bucket, key) => bucket.place(&self.key(key, name)),
        }
    }

    /// The place of another step's checkpoint in the same storage.
    pub fn sibling(&self, step: u64) -> Result<Self, StorageError> {
        let name = format!("step-{step}");
        match &self.folder {
            Folder::Directory(path) => Self::in_directory(path.parent().unwrap_or(Path::new("")).join(name)),
            Folder::Bucket(bucket, _) => Self::in_bucket(bucket.clone(), name),
        }
    }

    fn key(&self, key: &str, name: &str) -> String {
        format!("{key}/{}/{name}", bucket::generation(self.manifest.generation))
    }

    /// The bytes of a file, which are those that the manifest vouches for.
    ///
    /// # Errors
    /// Where it is not there, cannot be read, or has other bytes.
    pub fn read(&self, name: &str) -> Result<Vec<u8>, StorageError> {
        let bytes = match &self.folder {
            Folder::Directory(path) => directory::read(&path.join(name))?,
            Folder::Bucket(bucket, key) => bucket.read(&self.key(key, name))?,
        };
        self.compare(name, bytes.len() as u64, || hash::sha256(&bytes))?;
        Ok(bytes)
    }

    /// Reads a file of the manifest and says whether it is what the manifest says.
    ///
    /// # Errors
    /// As [`Stored::read`].
    pub fn check(&self, name: &str) -> Result<(), StorageError> {
        let (bytes, sha256) = match &self.folder {
            Folder::Directory(path) => directory::measure(&path.join(name))?,
            Folder::Bucket(bucket, key) => bucket.measure(&self.key(key, name))?,
        };
        self.compare(name, bytes, || sha256)
    }

    fn compare(&self, name: &str, bytes: u64, sha256: impl FnOnce() -> String) -> Result<(), StorageError> {
        let damaged = |what: String| Err(StorageError::Damaged { place: self.place_of(name), what });
        let Some(file) = self.manifest.files.iter().find(|file| file.name == name) else {
            return damaged("the manifest does not name it".into());
        };
        if bytes != file.bytes {
            return damaged(format!("it has {bytes} bytes, its manifest says {}", file.bytes));
        }
        if sha256() != file.sha256 {
            return damaged("its hash is not the one in the manifest".into());
        }
        Ok(())
    }
}
