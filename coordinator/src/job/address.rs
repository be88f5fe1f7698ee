//! Where a running job can be asked something: a file in its run directory, for its owner's eyes.

use medley_common::run_directory;
use serde::{Deserialize, Serialize};
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Where a running job's coordinator listens, and what it wants to see.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// `http://host:port`.
    pub url: String,
    /// The job.
    pub job: String,
    /// Proof of being the job's owner.
    pub token: String,
}

/// The file of an address. Dropping it removes the file, unless another coordinator has put its own there.
#[derive(Debug)]
pub struct Published {
    path: PathBuf,
    text: Vec<u8>,
}

impl Address {
    /// The address of the job that runs in a directory; `None` where none does.
    ///
    /// # Errors
    /// Where the file cannot be read, or holds something else.
    pub fn read(run: &Path) -> io::Result<Option<Self>> {
        match fs::read(run.join(run_directory::COORDINATOR)) {
            Ok(text) => serde_json::from_slice(&text).map(Some).map_err(io::Error::other),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes the address into a run directory: whole or not at all, and readable by its owner alone.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn publish(&self, run: &Path) -> io::Result<Published> {
        let temporary = run.join(format!(".{}.{}", run_directory::COORDINATOR, std::process::id()));
        let _ = fs::remove_file(&temporary);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        let text = serde_json::to_vec(self).expect("an address has string keys only");
        file.write_all(&text)?;
        let path = run.join(run_directory::COORDINATOR);
        fs::rename(&temporary, &path)?;
        Ok(Published { path, text })
    }
}

impl Drop for Published {
    fn drop(&mut self) {
        // Nobody is there to be told, and whoever finds a stale address finds nobody at it.
        if fs::read(&self.path).is_ok_and(|text| text == self.text) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn an_address_is_its_owners_and_goes_with_the_job() {
        let run = tempfile::tempdir().unwrap();
        assert_eq!(Address::read(run.path()).unwrap(), None);
        let address = Address { url: "http://127.0.0.1:9".into(), job: "j".into(), token: "t".into() };
        let published = address.publish(run.path()).unwrap();
        let other = Address { url: "http://127.0.0.1:10".into(), ..address };
        let published_by_another = other.publish(run.path()).unwrap();
        drop(published);
        assert_eq!(Address::read(run.path()).unwrap(), Some(other));
        let published = published_by_another;
        let mode = fs::metadata(run.path().join(run_directory::COORDINATOR)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(published);
        assert_eq!(fs::read_dir(run.path()).unwrap().count(), 0);
    }
}
