//! Where checkpoints are kept: a directory, or a prefix in an S3-compatible bucket.
//!
//! 1. [`Storage`] here: what workers and the coordinator do with checkpoints, whatever keeps them.
//! 2. [`Stored`] in `stored`: one committed checkpoint, to read from.
//! 3. `directory` and `bucket`: the two things that keep them.
//! 4. [`StorageError`] in `error`: what went wrong, in one line.
//!
//! | | directory | bucket |
//! |---|---|---|
//! | a file that waits for its manifest | `.step-N.staging/NAME` | `step-N/generation-G/NAME` |
//! | what commits | renaming that directory to `step-N`, which must be free | creating `step-N/manifest.json` |
//! | what is committed | `step-N/` | `step-N/manifest.json` and the generation that it names |
//! | the newest, named after its commit | `latest` | `latest` |
//!
//! In a bucket, where nothing can be renamed, each generation of a job writes under its own name: a worker that was given up
//! and still writes cannot change what was committed.
//!
//! Invariants: what has no manifest is never read; all waits end (a directory's with the system's, a bucket's with the
//! bounds in `bucket`). Functions block; they may be called from any thread, also from one that runs asynchronous code.

mod bucket;
mod directory;
mod error;
mod stored;

pub use error::StorageError;
pub use stored::Stored;

use crate::manifest::{self, Manifest};
use crate::run_directory;
use bucket::Bucket;
use directory::Directory;
use std::path::Path;

/// The file or object that names the newest committed checkpoint, for example `step-600`.
pub const LATEST: &str = "latest";

/// How the place of a bucket begins.
pub const BUCKET_SCHEME: &str = "s3://";

/// A place that keeps the checkpoints of one run.
#[derive(Debug, Clone)]
pub struct Storage {
    name: String,
    backend: Backend,
}

#[derive(Debug, Clone)]
enum Backend {
    Directory(Directory),
    Bucket(Bucket),
}

/// One attempt to write the checkpoint of a step: a generation makes at most one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt {
    /// The step.
    pub step: u64,
    /// The generation whose workers write it.
    pub generation: u64,
}

impl Storage {
    /// The storage that `output.checkpoints` names: empty for the folder `checkpoints` of the run directory, `s3://BUCKET/PREFIX`,
    /// or a directory.
    ///
    /// # Errors
    /// [`StorageError::Invalid`] where the name cannot be one of a place.
    pub fn of_run(run: &Path, checkpoints: &str) -> Result<Self, StorageError> {
        if checkpoints.is_empty() {
            let directory = Directory::new(run.join(run_directory::CHECKPOINTS));
            return Ok(Self { name: run_directory::CHECKPOINTS.into(), backend: Backend::Directory(directory) });
        }
        if checkpoints.starts_with(BUCKET_SCHEME) {
            let bucket = Bucket::open(checkpoints)?;
            return Ok(Self { name: bucket.url().to_owned(), backend: Backend::Bucket(bucket) });
        }
        let path = std::path::absolute(checkpoints)
            .map_err(|error| StorageError::Invalid { place: checkpoints.into(), message: error.to_string() })?;
        Ok(Self { name: path.display().to_string(), backend: Backend::Directory(Directory::new(path)) })
    }

    /// Where a committed checkpoint is: relative to the run directory where that keeps it, else in full.
    pub fn checkpoint(&self, step: u64) -> String {
        format!("{}/step-{step}", self.name)
    }

    /// Where the files of an attempt wait for their manifest, named like [`Storage::checkpoint`].
    pub fn staging(&self, attempt: Attempt) -> String {
        match &self.backend {
            Backend::Directory(_) => format!("{}/{}", self.name, directory::staging_name(attempt.step)),
            Backend::Bucket(_) => format!("{}/{}", self.name, bucket::shards(attempt)),
        }
    }

    /// The whole place, for people.
    pub fn place(&self) -> String {
        match &self.backend {
            Backend::Directory(directory) => directory.root().display().to_string(),
            Backend::Bucket(bucket) => bucket.url().to_owned(),
        }
    }

    /// Writes a file of an attempt; it is durable on return.
    ///
    /// # Errors
    /// Where it cannot be written whole.
    pub fn put(&self, attempt: Attempt, name: &str, bytes: &[u8]) -> Result<(), StorageError> {
        match &self.backend {
            Backend::Directory(directory) => directory.put(attempt.step, name, bytes),
            Backend::Bucket(bucket) => bucket.write(&format!("{}/{name}", bucket::shards(attempt)), bytes),
        }
    }

    /// Size in bytes and hash of a file of an attempt, as the storage has it: all of it is read.
    ///
    /// # Errors
    /// Where it is not there or cannot be read.
    pub fn measure(&self, attempt: Attempt, name: &str) -> Result<(u64, String), StorageError> {
        match &self.backend {
            Backend::Directory(directory) => directory::measure(&directory.staging(attempt.step).join(name)),
            Backend::Bucket(bucket) => bucket.measure(&format!("{}/{name}", bucket::shards(attempt))),
        }
    }

    /// Makes the files of an attempt a checkpoint. Those files must all be there, and no checkpoint of the step.
    ///
    /// # Errors
    /// [`StorageError::Exists`] where the step has one; others where it cannot be written. No checkpoint changes then.
    pub fn commit(&self, attempt: Attempt, manifest: &Manifest) -> Result<(), StorageError> {
        self.commit_while(attempt, manifest, &|| true)
    }

    /// Like [`Storage::commit`], unless `is_wanted` says no right before the checkpoint would appear.
    ///
    /// # Errors
    /// As [`Storage::commit`]; [`StorageError::Unwanted`].
    pub fn commit_while(
        &self,
        attempt: Attempt,
        manifest: &Manifest,
        is_wanted: &dyn Fn() -> bool,
    ) -> Result<(), StorageError> {
        let text = serde_json::to_vec_pretty(manifest).expect("a manifest has string keys only");
        match &self.backend {
            Backend::Directory(directory) => directory.commit(attempt.step, &text, is_wanted),
            Backend::Bucket(_) if !is_wanted() => Err(StorageError::Unwanted { place: self.checkpoint(attempt.step) }),
            Backend::Bucket(bucket) => bucket.create(&bucket::manifest(attempt.step), &text),
        }
    }

    /// Lets a step whose checkpoint is damaged have none, so that another attempt can take its place.
    ///
    /// # Errors
    /// Where it stays.
    pub fn set_aside(&self, step: u64) -> Result<(), StorageError> {
        match &self.backend {
            Backend::Directory(directory) => directory.remove(step),
            Backend::Bucket(bucket) => bucket.delete(&bucket::manifest(step)),
        }
    }

    /// Names the newest checkpoint for readers, all at once. A committed one of a later step stays named.
    ///
    /// # Errors
    /// Where it cannot be read or written; the old name stays then.
    pub fn set_latest(&self, step: u64) -> Result<(), StorageError> {
        if let Some(named) = self.named()?.filter(|named| *named > step)
            && self.is_committed(named)?
        {
            return Ok(());
        }
        let text = format!("step-{step}\n");
        match &self.backend {
            Backend::Directory(directory) => directory.replace(LATEST, text.as_bytes()),
            Backend::Bucket(bucket) => bucket.write(LATEST, text.as_bytes()),
        }
    }

    fn named(&self) -> Result<Option<u64>, StorageError> {
        let text = match &self.backend {
            Backend::Directory(directory) => directory::read(&directory.root().join(LATEST)),
            Backend::Bucket(bucket) => bucket.read(LATEST),
        };
        let text = match text {
            Err(error) if !error.is_absent() => return Err(error),
            text => text.unwrap_or_default(),
        };
        Ok(std::str::from_utf8(&text).ok().and_then(|text| run_directory::checkpoint_step(text.trim())))
    }

    /// The newest checkpoint. A listing, and not what `latest` names: between a commit and the new name a coordinator may have
    /// died, or the write have failed.
    ///
    /// # Errors
    /// Where the storage cannot be listed.
    pub fn latest(&self) -> Result<Option<u64>, StorageError> {
        Ok(self.steps()?.last().copied())
    }

    /// Whether a step has a checkpoint.
    ///
    /// # Errors
    /// Where the storage cannot be read.
    pub fn is_committed(&self, step: u64) -> Result<bool, StorageError> {
        match &self.backend {
            Backend::Directory(directory) => Ok(directory.checkpoint(step).join(manifest::FILE).is_file()),
            Backend::Bucket(bucket) => bucket.exists(&bucket::manifest(step)),
        }
    }

    /// The steps that have a checkpoint, ascending.
    ///
    /// # Errors
    /// Where the storage cannot be listed. One that is not there holds none.
    pub fn steps(&self) -> Result<Vec<u64>, StorageError> {
        self.select(true)
    }

    /// The steps of which there is something that is no checkpoint, ascending.
    ///
    /// # Errors
    /// As [`Storage::steps`].
    pub fn partial(&self) -> Result<Vec<u64>, StorageError> {
        self.select(false)
    }

    fn select(&self, committed: bool) -> Result<Vec<u64>, StorageError> {
        let mut steps: Vec<u64> = match &self.backend {
            Backend::Directory(directory) => directory.steps(committed)?,
            Backend::Bucket(bucket) => bucket.steps(committed)?,
        };
        steps.sort_unstable();
        steps.dedup();
        Ok(steps)
    }

    /// Opens the checkpoint of a step.
    ///
    /// # Errors
    /// Where it has none, or its manifest cannot be read.
    pub fn open(&self, step: u64) -> Result<Stored, StorageError> {
        match &self.backend {
            Backend::Directory(directory) => Stored::in_directory(directory.checkpoint(step)),
            Backend::Bucket(bucket) => Stored::in_bucket(bucket.clone(), format!("step-{step}")),
        }
    }

    /// Removes the files of an attempt that comes to nothing; none is fine.
    ///
    /// # Errors
    /// Where something of it stays.
    pub fn discard(&self, attempt: Attempt) -> Result<(), StorageError> {
        match &self.backend {
            Backend::Directory(directory) => directory.discard(attempt.step),
            Backend::Bucket(bucket) => {
                let is_committed =
                    self.open(attempt.step).is_ok_and(|stored| stored.manifest.generation == attempt.generation);
                if is_committed { Ok(()) } else { bucket.remove(&bucket::shards(attempt)) }
            }
        }
    }

    /// Removes all that there is of a step that is no checkpoint. Must not run while workers write of that step.
    ///
    /// # Errors
    /// Where something of it stays.
    pub fn clear(&self, step: u64) -> Result<(), StorageError> {
        match &self.backend {
            Backend::Directory(directory) => directory.discard(step),
            Backend::Bucket(bucket) => bucket.remove(&format!("step-{step}")),
        }
    }

    /// Removes a checkpoint. It stops being one before its files go, so that one that is visible is whole.
    ///
    /// # Errors
    /// Where something of it stays.
    pub fn remove(&self, step: u64) -> Result<(), StorageError> {
        match &self.backend {
            Backend::Directory(directory) => directory.remove(step),
            Backend::Bucket(bucket) => bucket.remove_checkpoint(step),
        }
    }

    /// Removes what killed processes left half-written or half-removed. Must not run while workers write.
    ///
    /// # Errors
    /// Where something of it stays.
    pub fn sweep(&self) -> Result<(), StorageError> {
        match &self.backend {
            Backend::Directory(directory) => directory.sweep(),
            Backend::Bucket(bucket) => {
                let partial = bucket.steps(false)?;
                partial.into_iter().try_for_each(|step| bucket.remove(&format!("step-{step}")))
            }
        }
    }
}

#[cfg(test)]
mod tests;
