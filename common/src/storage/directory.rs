//! Checkpoints in a directory: written beside, synced, renamed into place. A rename never takes the place of a checkpoint.

use super::StorageError;
use crate::{hash, manifest, run_directory};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// A directory of checkpoints.
#[derive(Debug, Clone)]
pub struct Directory {
    root: PathBuf,
}

/// Where the files of a checkpoint wait for their manifest.
pub fn staging_name(step: u64) -> String {
    format!(".step-{step}.staging")
}

impl Directory {
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn checkpoint(&self, step: u64) -> PathBuf {
        self.root.join(format!("step-{step}"))
    }

    pub fn staging(&self, step: u64) -> PathBuf {
        self.root.join(staging_name(step))
    }

    pub fn put(&self, step: u64, name: &str, bytes: &[u8]) -> Result<(), StorageError> {
        let directory = self.staging(step);
        fs::create_dir_all(&directory).map_err(failed(&directory, "make the directory"))?;
        let path = directory.join(name);
        write_synced(&path, bytes).map_err(failed(&path, "write"))
    }

    /// `is_wanted` is asked right before the checkpoint appears.
    pub fn commit(&self, step: u64, manifest: &[u8], is_wanted: &dyn Fn() -> bool) -> Result<(), StorageError> {
        let (staged, directory) = (self.staging(step), self.checkpoint(step));
        let path = staged.join(manifest::FILE);
        // Another coordinator may be renaming the staging directory: what it makes a checkpoint has a whole manifest.
        let temporary = self.root.join(format!(".step-{step}.manifest-{}", unique()));
        let written = write_synced(&temporary, manifest).and_then(|()| fs::rename(&temporary, &path));
        if let Err(error) = written.and_then(|()| sync(&staged)) {
            // The first error is the one to report.
            let _ = fs::remove_file(&temporary);
            return Err(failed(&path, "write")(error));
        }
        if directory.exists() && !directory.join(manifest::FILE).exists() {
            self.remove(step)?;
        }
        if !is_wanted() {
            return Err(StorageError::Unwanted { place: directory.display().to_string() });
        }
        match rename_to_free(&staged, &directory) {
            Err(error) if matches!(error.kind(), ErrorKind::AlreadyExists | ErrorKind::DirectoryNotEmpty) => {
                return Err(StorageError::Exists { place: directory.display().to_string() });
            }
            renamed => renamed.map_err(failed(&directory, "rename the staging directory to it"))?,
        }
        sync(&self.root).map_err(failed(&self.root, "sync"))
    }

    /// Writes a small file of the root: the old one stays until the new one is whole.
    pub fn replace(&self, name: &str, contents: &[u8]) -> Result<(), StorageError> {
        let (path, temporary) = (self.root.join(name), self.root.join(format!(".{name}.new")));
        let written = write_synced(&temporary, contents).and_then(|()| fs::rename(&temporary, &path));
        written.and_then(|()| sync(&self.root)).map_err(failed(&path, "write"))
    }

    pub fn discard(&self, step: u64) -> Result<(), StorageError> {
        remove_all(&self.staging(step))
    }

    pub fn remove(&self, step: u64) -> Result<(), StorageError> {
        let (path, hidden) = (self.checkpoint(step), self.root.join(format!(".step-{step}.removed")));
        // A removal that was interrupted left it.
        remove_all(&hidden)?;
        fs::rename(&path, &hidden).map_err(failed(&path, "remove"))?;
        remove_all(&hidden)
    }

    pub fn sweep(&self) -> Result<(), StorageError> {
        let stale = self.names()?.into_iter().filter(|name| name.starts_with(".step-"));
        stale.map(|name| self.root.join(name)).try_for_each(|path| remove_all(&path))
    }

    /// The steps of committed checkpoints, or those of everything else that bears a step's name.
    pub fn steps(&self, committed: bool) -> Result<Vec<u64>, StorageError> {
        let is_wanted = |name: &String| {
            let step = run_directory::checkpoint_step(name);
            let staged = || run_directory::checkpoint_step(name.strip_prefix('.')?.strip_suffix(".staging")?);
            match step {
                Some(step) => (self.checkpoint(step).join(manifest::FILE).is_file() == committed).then_some(step),
                None if committed => None,
                None => staged(),
            }
        };
        Ok(self.names()?.iter().filter_map(is_wanted).collect())
    }

    fn names(&self) -> Result<Vec<String>, StorageError> {
        let listing = match fs::read_dir(&self.root) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            listing => listing.map_err(failed(&self.root, "list"))?,
        };
        let name = |entry: io::Result<fs::DirEntry>| Ok(entry?.file_name().to_string_lossy().into_owned());
        listing.map(name).collect::<io::Result<_>>().map_err(failed(&self.root, "list"))
    }
}

/// Size and hash of a file as it is on the disk.
pub fn measure(path: &Path) -> Result<(u64, String), StorageError> {
    let file = File::open(path).map_err(failed(path, "read"))?;
    let bytes = file.metadata().map_err(failed(path, "read"))?.len();
    let sha256 = hash::sha256_reader(file).map_err(failed(path, "read"))?;
    Ok((bytes, sha256))
}

pub fn read(path: &Path) -> Result<Vec<u8>, StorageError> {
    fs::read(path).map_err(failed(path, "read"))
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Renames a directory to a name that nobody has.
fn rename_to_free(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // File systems that do not know the flag, NFS among them, still refuse to replace a directory that is not empty.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => fs::rename(from, to),
        renamed => Ok(renamed?),
    }
}

/// A part of a name that no other process or machine takes.
fn unique() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{}-{}", std::process::id(), since.as_nanos())
}

/// Makes renames in a directory durable.
fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

fn remove_all(path: &Path) -> Result<(), StorageError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(failed(path, "remove")),
    }
}

fn failed(path: &Path, doing: &'static str) -> impl FnOnce(io::Error) -> StorageError {
    move |source| match source.kind() {
        ErrorKind::NotFound if doing == "read" => StorageError::Absent { place: path.display().to_string() },
        _ => StorageError::Directory { place: path.display().to_string(), doing, source },
    }
}
