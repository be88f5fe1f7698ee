//! The store of a single coordinator: a redb file in the run directory. redb's transactions survive `kill -9`, and
//! its file lock keeps a second coordinator out.

use super::{Store, StoreError};
use redb::{Database, DatabaseError, ReadableDatabase, TableDefinition, TableError};
use std::path::{Path, PathBuf};

const TABLE: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("medley");

/// One file, one process.
#[derive(Debug)]
pub struct Embedded {
    path: PathBuf,
    database: Database,
}

impl Embedded {
    /// Opens the store, creating it where there is none.
    ///
    /// # Errors
    /// [`StoreError::InUse`] while another coordinator has it open; [`StoreError::Broken`].
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let database = Database::create(path).map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => StoreError::InUse { path: path.into() },
            other => broken(path, other),
        })?;
        Ok(Self { path: path.into(), database })
    }

    fn broken(&self, error: impl Into<redb::Error>) -> StoreError {
        broken(&self.path, error.into())
    }
}

fn broken(path: &Path, error: impl std::error::Error + Send + Sync + 'static) -> StoreError {
    StoreError::Broken { path: path.into(), source: Box::new(error) }
}

impl Store for Embedded {
    fn get(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let read = self.database.begin_read().map_err(|e| self.broken(e))?;
        let table = match read.open_table(TABLE) {
            Err(TableError::TableDoesNotExist(_)) => return Ok(None),
            table => table.map_err(|e| self.broken(e))?,
        };
        let value = table.get(key).map_err(|e| self.broken(e))?;
        Ok(value.map(|value| value.value().to_vec()))
    }

    fn put(&self, key: &str, value: &[u8]) -> Result<(), StoreError> {
        let write = self.database.begin_write().map_err(|e| self.broken(e))?;
        {
            let mut table = write.open_table(TABLE).map_err(|e| self.broken(e))?;
            table.insert(key, value).map_err(|e| self.broken(e))?;
        }
        write.commit().map_err(|e| self.broken(e))
    }

    fn list(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        let read = self.database.begin_read().map_err(|e| self.broken(e))?;
        let table = match read.open_table(TABLE) {
            Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
            table => table.map_err(|e| self.broken(e))?,
        };
        let mut found = Vec::new();
        for entry in table.range(prefix..).map_err(|e| self.broken(e))? {
            let (key, value) = entry.map_err(|e| self.broken(e))?;
            if !key.value().starts_with(prefix) {
                break;
            }
            found.push((key.value().to_owned(), value.value().to_vec()));
        }
        Ok(found)
    }

    fn place(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn values_survive_reopening_and_are_listed_by_prefix() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store.redb");
        let store = Embedded::open(&path).unwrap();
        assert_eq!(store.get("job").unwrap(), None);
        assert!(store.list("").unwrap().is_empty());
        for (key, value) in [("worker/1", "b"), ("job", "x"), ("worker/0", "a"), ("job", "y")] {
            store.put(key, value.as_bytes()).unwrap();
        }
        drop(store);
        let store = Embedded::open(&path).unwrap();
        assert_eq!(store.get("job").unwrap().unwrap(), b"y");
        let workers = store.list("worker/").unwrap();
        assert_eq!(workers, [("worker/0".into(), b"a".to_vec()), ("worker/1".into(), b"b".to_vec())]);
    }

    #[test]
    fn a_second_coordinator_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store.redb");
        let _first = Embedded::open(&path).unwrap();
        let error = Embedded::open(&path).unwrap_err();
        assert!(matches!(error, StoreError::InUse { .. }), "{error}");
        assert!(error.to_string().contains("another coordinator"));
    }

    #[test]
    fn a_file_that_is_no_store_is_one_clear_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store.redb");
        std::fs::write(&path, "not a database, and long enough to be read as one".repeat(99)).unwrap();
        let error = Embedded::open(&path).unwrap_err().to_string();
        assert!(error.contains("store.redb") && !error.contains('\n'), "{error}");
    }
}
