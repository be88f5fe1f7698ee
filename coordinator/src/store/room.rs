//! A file that waits for room on a full disk.
//!
//! redb takes every error of its file for the end of it. A full disk is none: somebody makes room, and the job, which waits
//! for its store in any case, goes on.

use redb::StorageBackend;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Between attempts.
const PAUSE: Duration = Duration::from_millis(200);

/// Between warnings.
const REMINDER: Duration = Duration::from_secs(30);

/// A backend whose writes wait for room while `waits` is set.
#[derive(Debug)]
pub struct WaitsForRoom<B> {
    inner: B,
    path: PathBuf,
    waits: Arc<AtomicBool>,
}

impl<B: StorageBackend> WaitsForRoom<B> {
    /// Around another backend; warnings name `path`.
    pub fn new(inner: B, path: &Path, waits: Arc<AtomicBool>) -> Self {
        Self { inner, path: path.to_owned(), waits }
    }

    fn wait(&self, attempt: impl Fn() -> io::Result<()>) -> io::Result<()> {
        let mut warned: Option<Instant> = None;
        loop {
            match attempt() {
                Err(error) if is_full(&error) && self.waits.load(Ordering::Relaxed) => {
                    if warned.is_none_or(|at| at.elapsed() > REMINDER) {
                        tracing::warn!("{}: {error}; the job waits until there is room", self.path.display());
                        warned = Some(Instant::now());
                    }
                    std::thread::sleep(PAUSE);
                }
                done => return done,
            }
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

impl<B: StorageBackend> StorageBackend for WaitsForRoom<B> {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.inner.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.wait(|| self.inner.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        // Not tried again: the system may have dropped what it could not write.
        self.inner.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.wait(|| self.inner.write(offset, data))
    }

    fn close(&self) -> io::Result<()> {
        self.inner.close()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use redb::backends::InMemoryBackend;
    use redb::{Database, ReadableDatabase, TableDefinition};
    use std::sync::atomic::AtomicUsize;

    const TABLE: TableDefinition<'_, &str, u64> = TableDefinition::new("table");

    /// A disk that is full while it is said to be, and counts what it refuses.
    #[derive(Debug)]
    struct Disk {
        memory: InMemoryBackend,
        is_full: Arc<AtomicBool>,
        refused: Arc<AtomicUsize>,
    }

    impl Disk {
        fn check(&self) -> io::Result<()> {
            if self.is_full.load(Ordering::SeqCst) {
                self.refused.fetch_add(1, Ordering::SeqCst);
                return Err(ErrorKind::StorageFull.into());
            }
            Ok(())
        }
    }

    impl StorageBackend for Disk {
        fn len(&self) -> io::Result<u64> {
            self.memory.len()
        }
        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            self.memory.read(offset, out)
        }
        fn set_len(&self, len: u64) -> io::Result<()> {
            self.check().and_then(|()| self.memory.set_len(len))
        }
        fn sync_data(&self) -> io::Result<()> {
            self.memory.sync_data()
        }
        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            self.check().and_then(|()| self.memory.write(offset, data))
        }
    }

    fn put(database: &Database, value: u64) -> Result<(), redb::Error> {
        let write = database.begin_write()?;
        write.open_table(TABLE)?.insert("key", value)?;
        Ok(write.commit()?)
    }

    #[test]
    fn a_write_waits_until_there_is_room_and_one_that_does_not_wait_fails() {
        let (is_full, refused) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let waits = Arc::new(AtomicBool::new(true));
        let disk =
            Disk { memory: InMemoryBackend::new(), is_full: Arc::clone(&is_full), refused: Arc::clone(&refused) };
        let backend = WaitsForRoom::new(disk, Path::new("store"), Arc::clone(&waits));
        let database = Database::builder().create_with_backend(backend).unwrap();
        put(&database, 1).unwrap();
        is_full.store(true, Ordering::SeqCst);
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| put(&database, 2));
            while refused.load(Ordering::SeqCst) < 3 {
                std::thread::sleep(Duration::from_millis(10));
            }
            assert!(!writer.is_finished());
            is_full.store(false, Ordering::SeqCst);
            writer.join().unwrap().unwrap();
        });
        let read = database.begin_read().unwrap();
        assert_eq!(read.open_table(TABLE).unwrap().get("key").unwrap().unwrap().value(), 2);
        is_full.store(true, Ordering::SeqCst);
        waits.store(false, Ordering::SeqCst);
        put(&database, 3).unwrap_err();
    }
}
