//! The store of a single coordinator: a redb file in the run directory. redb's transactions survive `kill -9`, and
//! its file lock keeps a second coordinator out. So whatever this process claims it holds until it lets go of it.
//!
//! It holds what lets workers in, so it is readable by its owner alone. On a full disk it waits for room.

use super::room::WaitsForRoom;
use super::watch::View;
use super::{Change, Claim, Entries, Leases, Store, StoreError, Transaction, Watch, Write};
use crate::election::clock;
use redb::backends::FileBackend;
use redb::{Database, DatabaseError, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, TableError};
use std::collections::HashMap;
use std::fs::{OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{broadcast, mpsc};

const TABLE: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("medley");

/// The last term of every key that was ever claimed.
const TERMS: TableDefinition<'_, &str, u64> = TableDefinition::new("terms");

/// Changes that a watch may be behind; beyond them it lists anew.
const BEHIND: usize = 256;

/// One file, one process.
#[derive(Debug)]
pub struct Embedded {
    file: Arc<File>,
}

#[derive(Debug)]
struct File {
    path: PathBuf,
    database: Database,
    /// Whether writes wait for room on a full disk.
    waits: Arc<AtomicBool>,
    /// Locked while something is written and told, so that changes are told in the order in which they happened.
    order: Mutex<Order>,
}

#[derive(Debug)]
struct Order {
    changes: broadcast::Sender<Change>,
    /// Terms of the keys that are claimed.
    held: HashMap<String, u64>,
}

impl Embedded {
    /// Opens the store, creating it where there is none.
    ///
    /// # Errors
    /// [`StoreError::InUse`] while another coordinator has it open; [`StoreError::Broken`].
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let waits = Arc::new(AtomicBool::new(false));
        let open = || {
            let backend = WaitsForRoom::new(FileBackend::new(open_private(path)?)?, path, Arc::clone(&waits));
            Database::builder().create_with_backend(backend)
        };
        let database = open().map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => StoreError::InUse { path: path.into() },
            other => broken(path, other),
        })?;
        // A job that has not begun is better refused; one that has waits.
        waits.store(true, Ordering::Relaxed);
        let order = Mutex::new(Order { changes: broadcast::Sender::new(BEHIND), held: HashMap::new() });
        Ok(Self { file: Arc::new(File { path: path.into(), database, waits, order }) })
    }

    /// Does something that waits for the disk on a thread that may wait.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&File) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let file = self.file.clone();
        let done = tokio::task::spawn_blocking(move || work(&file)).await;
        done.unwrap_or_else(|panic| Err(broken(&self.file.path, panic)))
    }
}

/// A file that nobody else can read, whoever made it.
fn open_private(path: &Path) -> io::Result<std::fs::File> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    file.set_permissions(Permissions::from_mode(0o600))?;
    Ok(file)
}

impl Drop for File {
    fn drop(&mut self) {
        // What redb still writes when it closes is not worth waiting for: without it the next opening repairs.
        self.waits.store(false, Ordering::Relaxed);
    }
}

fn broken(path: &Path, error: impl std::error::Error + Send + Sync + 'static) -> StoreError {
    StoreError::Broken { path: path.into(), source: Box::new(error) }
}

impl File {
    fn broken(&self, error: impl Into<redb::Error>) -> StoreError {
        broken(&self.path, error.into())
    }

    /// A panic elsewhere left what it guards as it was or not written at all.
    fn lock(&self) -> MutexGuard<'_, Order> {
        self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The table of keys; `None` before the first write.
    fn table(
        &self,
        read: &ReadTransaction,
    ) -> Result<Option<redb::ReadOnlyTable<&'static str, &'static [u8]>>, StoreError> {
        match read.open_table(TABLE) {
            Err(TableError::TableDoesNotExist(_)) => Ok(None),
            table => table.map(Some).map_err(|e| self.broken(e)),
        }
    }

    fn get(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let read = self.database.begin_read().map_err(|e| self.broken(e))?;
        let Some(table) = self.table(&read)? else {
            return Ok(None);
        };
        let value = table.get(key).map_err(|e| self.broken(e))?;
        Ok(value.map(|value| value.value().to_vec()))
    }

    fn list(&self, prefix: &str) -> Result<Entries, StoreError> {
        let read = self.database.begin_read().map_err(|e| self.broken(e))?;
        let Some(table) = self.table(&read)? else {
            return Ok(Vec::new());
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

    /// Writes, then tells the watches. The caller holds the lock.
    fn write(&self, order: &Order, transaction: Transaction) -> Result<bool, StoreError> {
        let write = self.database.begin_write().map_err(|e| self.broken(e))?;
        {
            let mut table = write.open_table(TABLE).map_err(|e| self.broken(e))?;
            for condition in &transaction.conditions {
                let found = table.get(condition.key()).map_err(|e| self.broken(e))?;
                if !condition.holds(found.as_ref().map(|found| found.value())) {
                    // What was begun is undone when it is dropped.
                    return Ok(false);
                }
            }
            for change in &transaction.writes {
                match change {
                    Write::Put { key, value } => table.insert(key.as_str(), value.as_slice()),
                    Write::Delete { key } => table.remove(key.as_str()),
                }
                .map_err(|e| self.broken(e))?;
            }
        }
        write.commit().map_err(|e| self.broken(e))?;
        for write in transaction.writes {
            // That nobody listens is no fault.
            let _ = order.changes.send(match write {
                Write::Put { key, value } => Change::Put { key, value },
                Write::Delete { key } => Change::Deleted { key },
            });
        }
        Ok(true)
    }

    fn next_term(&self, key: &str) -> Result<u64, StoreError> {
        let write = self.database.begin_write().map_err(|e| self.broken(e))?;
        let term = {
            let mut terms = write.open_table(TERMS).map_err(|e| self.broken(e))?;
            let term = terms.get(key).map_err(|e| self.broken(e))?.map_or(0, |term| term.value()) + 1;
            terms.insert(key, term).map_err(|e| self.broken(e))?;
            term
        };
        write.commit().map_err(|e| self.broken(e))?;
        Ok(term)
    }

    /// What is there, and a receiver of all that changes after that.
    fn listen(&self, prefix: &str) -> Result<(Entries, broadcast::Receiver<Change>), StoreError> {
        let order = self.lock();
        Ok((self.list(prefix)?, order.changes.subscribe()))
    }
}

#[tonic::async_trait]
impl Store for Embedded {
    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let key = key.to_owned();
        self.blocking(move |file| file.get(&key)).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        let prefix = prefix.to_owned();
        self.blocking(move |file| file.list(&prefix)).await
    }

    async fn transact(&self, transaction: Transaction) -> Result<bool, StoreError> {
        self.blocking(move |file| file.write(&file.lock(), transaction)).await
    }

    async fn watch(&self, prefix: &str) -> Result<Watch, StoreError> {
        let prefix = prefix.to_owned();
        let below = prefix.clone();
        let (present, changes) = self.blocking(move |file| file.listen(&below)).await?;
        // Held by the file alone, so that the file's end is the watch's.
        let file = Arc::downgrade(&self.file);
        Ok(Watch::start(move |told| async move {
            let (mut view, mut present, mut changes) = (View::default(), present, changes);
            loop {
                for change in view.replace(present) {
                    if told.send(change).await.is_err() {
                        return;
                    }
                }
                if !pass_on(&prefix, &mut view, &mut changes, &told).await {
                    return;
                }
                // It fell behind.
                let Some(file) = file.upgrade() else {
                    return;
                };
                let below = prefix.clone();
                let listed = tokio::task::spawn_blocking(move || file.listen(&below)).await;
                (present, changes) = match listed {
                    Ok(Ok(listed)) => listed,
                    // A medium that cannot be read fails whoever uses the store next.
                    _ => return,
                };
            }
        }))
    }

    fn place(&self) -> String {
        self.file.path.display().to_string()
    }
}

/// Tells changes until some were missed (true), or nobody listens or changes any more.
async fn pass_on(
    prefix: &str,
    view: &mut View,
    changes: &mut broadcast::Receiver<Change>,
    told: &mpsc::Sender<Change>,
) -> bool {
    loop {
        match changes.recv().await {
            Ok(change) => {
                let (Change::Put { key, .. } | Change::Deleted { key }) = &change;
                if key.starts_with(prefix) && view.apply(&change) && told.send(change).await.is_err() {
                    return false;
                }
            }
            Err(broadcast::error::RecvError::Lagged(_)) => return true,
            Err(broadcast::error::RecvError::Closed) => return false,
        }
    }
}

#[tonic::async_trait]
impl Leases for Embedded {
    async fn claim(&self, key: &str, value: &[u8], _lease: Duration) -> Result<Option<Claim>, StoreError> {
        let (key, value, since) = (key.to_owned(), value.to_owned(), clock::now());
        self.blocking(move |file| {
            let mut order = file.lock();
            if order.held.contains_key(&key) {
                return Ok(None);
            }
            let term = file.next_term(&key)?;
            // A key that is there was left by a process that has ended: otherwise the file would be locked.
            file.write(&order, Transaction::new().put(&key, value.as_slice()))?;
            order.held.insert(key.clone(), term);
            Ok(Some(Claim { key, value, term, lease: None, since, id: 0 }))
        })
        .await
    }

    async fn renew(&self, claim: &Claim) -> Result<bool, StoreError> {
        Ok(self.file.lock().held.get(&claim.key) == Some(&claim.term))
    }

    async fn release(&self, claim: &Claim) -> Result<(), StoreError> {
        let claim = claim.clone();
        self.blocking(move |file| {
            let mut order = file.lock();
            if order.held.get(&claim.key) == Some(&claim.term) {
                file.write(&order, Transaction::new().equals(&claim.key, claim.value).delete(&claim.key))?;
                order.held.remove(&claim.key);
            }
            Ok(())
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[tokio::test]
    async fn values_and_terms_survive_reopening() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store.redb");
        let store = Embedded::open(&path).unwrap();
        store.put("job", b"x").await.unwrap();
        let first = store.claim("leader", b"one", Duration::ZERO).await.unwrap().unwrap();
        drop(store);
        let store = Embedded::open(&path).unwrap();
        assert_eq!(store.get("job").await.unwrap().unwrap(), b"x");
        // Its holder died with the process that had the file.
        let second = store.claim("leader", b"two", Duration::ZERO).await.unwrap().unwrap();
        assert!(second.term > first.term);
    }

    #[tokio::test]
    async fn a_watch_that_fell_behind_is_told_how_things_are_in_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let store = Embedded::open(&directory.path().join("store.redb")).unwrap();
        let mut watch = store.watch("n/").await.unwrap();
        let mut transaction = Transaction::new();
        for number in 0..2 * BEHIND {
            transaction = transaction.put(format!("n/{number:04}"), "x");
        }
        // More in one go than the watch can be told of.
        store.transact(transaction).await.unwrap();
        store.delete("n/0007").await.unwrap();
        let mut view = View::default();
        while view != store.list("n/").await.unwrap() {
            let change = tokio::time::timeout(Duration::from_secs(30), watch.next()).await.unwrap().unwrap();
            view.apply(&change);
        }
        drop(store);
        assert_eq!(watch.next().await, None, "the store is closed");
    }

    #[test]
    fn nobody_else_can_read_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store.redb");
        let mode = || std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        drop(Embedded::open(&path).unwrap());
        assert_eq!(mode(), 0o600);
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        drop(Embedded::open(&path).unwrap());
        assert_eq!(mode(), 0o600, "that of an earlier version too");
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
