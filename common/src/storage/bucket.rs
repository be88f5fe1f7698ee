//! Checkpoints in an S3-compatible bucket.
//!
//! Requests are asynchronous and run on one thread of their own. Each is bounded: [`CONNECT`] for the connection, [`REQUEST`]
//! for one attempt, [`RETRIES`] within [`RETRY`] after the first; transfers are cut into parts of [`PART`] bytes, so that
//! these bounds hold for files of any size.

use super::{Attempt, BUCKET_SCHEME, StorageError};
use crate::{hash, manifest, run_directory};
use futures_util::TryStreamExt;
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::path::Path;
use object_store::{
    BackoffConfig, ClientConfigKey, ObjectStore, ObjectStoreExt, PutMode, PutPayload, RetryConfig, WriteMultipart,
};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;

/// Longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(5);

/// Longest attempt at one request: a part at 140 kB a second.
const REQUEST: Duration = Duration::from_secs(60);

/// Attempts after the first.
const RETRIES: usize = 5;

/// After this long no attempt begins.
const RETRY: Duration = Duration::from_secs(60);

/// Bytes of one request; S3 takes no smaller parts than 5 MiB.
const PART: usize = 8 << 20;

/// Parts of one file that are under way at once.
const PARTS_AT_ONCE: usize = 4;

/// A prefix in a bucket.
#[derive(Debug, Clone)]
pub struct Bucket {
    client: Arc<AmazonS3>,
    runtime: Arc<Requests>,
    prefix: Path,
    url: String,
}

/// The key, after the prefix, under which the files of an attempt are put.
pub fn shards(attempt: Attempt) -> String {
    format!("step-{}/{}", attempt.step, generation(attempt.generation))
}

/// The folder of a checkpoint that holds the files of a generation.
pub fn generation(number: u64) -> String {
    format!("generation-{number}")
}

/// The key, after the prefix, of a checkpoint's manifest.
pub fn manifest(step: u64) -> String {
    format!("step-{step}/{}", manifest::FILE)
}

impl Bucket {
    /// A bucket by its URL; who asks it, and where, is in the environment (AWS_*).
    pub fn open(url: &str) -> Result<Self, StorageError> {
        let invalid = |message: String| StorageError::Invalid { place: url.into(), message };
        let rest = url.strip_prefix(BUCKET_SCHEME).unwrap_or_default().trim_end_matches('/');
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() {
            return Err(invalid("names no bucket; write s3://BUCKET/PREFIX".into()));
        }
        let prefix = Path::parse(prefix).map_err(|error| invalid(one_line(&error.to_string())))?;
        // Whoever came first has installed one that serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = |key| AmazonS3ConfigKey::Client(key);
        let builder = AmazonS3Builder::from_env()
            .with_bucket_name(bucket)
            .with_config(client(ClientConfigKey::ConnectTimeout), format!("{}s", CONNECT.as_secs()))
            .with_config(client(ClientConfigKey::Timeout), format!("{}s", REQUEST.as_secs()))
            .with_retry(RetryConfig {
                backoff: BackoffConfig { max_backoff: Duration::from_secs(5), ..BackoffConfig::default() },
                max_retries: RETRIES,
                retry_timeout: RETRY,
            });
        let client = builder.build().map_err(|error| invalid(one_line(&error.to_string())))?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("medley-bucket")
            .enable_all()
            .build()
            .map_err(|error| invalid(format!("cannot start its thread: {error}")))?;
        Ok(Self {
            client: Arc::new(client),
            runtime: Arc::new(Requests(Some(runtime))),
            prefix,
            url: format!("{BUCKET_SCHEME}{rest}"),
        })
    }

    /// The bucket and prefix, without a slash at the end.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What a key after the prefix is called in full.
    pub fn place(&self, key: &str) -> String {
        format!("{}/{key}", self.url)
    }

    fn path(&self, key: &str) -> Path {
        key.split('/').fold(self.prefix.clone(), |path, part| path.join(part))
    }

    /// Runs a request on the bucket's thread and waits for it.
    fn ask<T: Send + 'static>(
        &self,
        key: &str,
        doing: &'static str,
        request: impl Future<Output = object_store::Result<T>> + Send + 'static,
    ) -> Result<T, StorageError> {
        let (sender, receiver) = std::sync::mpsc::channel();
        self.runtime.handle().spawn(async move {
            // The caller waits until this is answered.
            let _ = sender.send(request.await);
        });
        let place = self.place(key);
        match receiver.recv() {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(object_store::Error::NotFound { .. })) => Err(StorageError::Absent { place }),
            Ok(Err(object_store::Error::AlreadyExists { .. })) => Err(StorageError::Exists { place }),
            Ok(Err(error)) => Err(StorageError::Bucket { place, doing, message: one_line(&error.to_string()) }),
            Err(_) => Err(StorageError::Bucket { place, doing, message: "the request broke off".into() }),
        }
    }

    pub fn write(&self, key: &str, bytes: &[u8]) -> Result<(), StorageError> {
        let (client, path, bytes) = (Arc::clone(&self.client), self.path(key), bytes.to_vec());
        self.ask(key, "write", async move {
            if bytes.len() <= PART {
                return client.put(&path, PutPayload::from(bytes)).await.map(drop);
            }
            let mut upload = WriteMultipart::new_with_chunk_size(client.put_multipart(&path).await?, PART);
            for part in bytes.chunks(PART) {
                if let Err(error) = upload.wait_for_capacity(PARTS_AT_ONCE).await {
                    // Its parts would be kept, and paid for. Where not even this succeeds, the bucket's lifecycle rule is left.
                    let _ = upload.abort().await;
                    return Err(error);
                }
                upload.write(part);
            }
            // This aborts what it cannot finish.
            upload.finish().await.map(drop)
        })
    }

    /// Writes a small object that is not there yet.
    pub fn create(&self, key: &str, bytes: &[u8]) -> Result<(), StorageError> {
        let (client, path, payload) = (Arc::clone(&self.client), self.path(key), PutPayload::from(bytes.to_vec()));
        self.ask(key, "write", async move {
            // Some servers know no conditional writes, and some of those do not even say so. A look beforehand leaves a moment
            // to two coordinators of which one does not know yet that it is deposed.
            match client.head(&path).await {
                Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(error),
                Ok(_) => {
                    let source = "it was found there".into();
                    return Err(object_store::Error::AlreadyExists { path: path.to_string(), source });
                }
            }
            match client.put_opts(&path, payload.clone(), PutMode::Create.into()).await {
                Err(object_store::Error::NotImplemented { .. }) => client.put(&path, payload).await.map(drop),
                written => written.map(drop),
            }
        })
    }

    /// Removes an object; none is fine.
    pub fn delete(&self, key: &str) -> Result<(), StorageError> {
        let (client, path) = (Arc::clone(&self.client), self.path(key));
        match self.ask(key, "remove", async move { client.delete(&path).await }) {
            Err(error) if error.is_absent() => Ok(()),
            removed => removed,
        }
    }

    pub fn read(&self, key: &str) -> Result<Vec<u8>, StorageError> {
        let mut bytes = Vec::new();
        self.read_parts(key, |part| bytes.extend_from_slice(part))?;
        Ok(bytes)
    }

    /// Size and hash of an object as the server has it.
    pub fn measure(&self, key: &str) -> Result<(u64, String), StorageError> {
        let mut hasher = hash::Hasher::default();
        let size = self.read_parts(key, |part| hasher.update(part))?;
        Ok((size, hasher.finish()))
    }

    fn read_parts(&self, key: &str, mut take: impl FnMut(&[u8])) -> Result<u64, StorageError> {
        let (client, path) = (Arc::clone(&self.client), self.path(key));
        let size = self.ask(key, "read", async move { client.head(&path).await })?.size;
        for start in (0..size).step_by(PART) {
            let (client, path) = (Arc::clone(&self.client), self.path(key));
            let range = start..size.min(start + PART as u64);
            take(&self.ask(key, "read", async move { client.get_range(&path, range).await })?);
        }
        Ok(size)
    }

    pub fn exists(&self, key: &str) -> Result<bool, StorageError> {
        let (client, path) = (Arc::clone(&self.client), self.path(key));
        match self.ask(key, "look for it", async move { client.head(&path).await }) {
            Err(error) if !error.is_absent() => Err(error),
            found => Ok(found.is_ok()),
        }
    }

    /// The steps of committed checkpoints, or of those that were begun and have no manifest.
    pub fn steps(&self, committed: bool) -> Result<Vec<u64>, StorageError> {
        let (client, prefix) = (Arc::clone(&self.client), self.prefix.clone());
        let names: Vec<Path> = self.ask("", "list", async move {
            client.list(Some(&prefix)).map_ok(|object| object.location).try_collect().await
        })?;
        let (mut begun, mut whole) = (BTreeSet::new(), BTreeSet::new());
        for name in &names {
            let Some(mut parts) = name.prefix_match(&self.prefix) else { continue };
            let step = parts.next().and_then(|part| run_directory::checkpoint_step(part.as_ref()));
            let Some(step) = step else { continue };
            begun.insert(step);
            if parts.next().is_some_and(|part| part.as_ref() == manifest::FILE) {
                whole.insert(step);
            }
        }
        Ok(if committed { whole.into_iter().collect() } else { begun.difference(&whole).copied().collect() })
    }

    /// Removes all objects whose keys begin with a folder's.
    pub fn remove(&self, folder: &str) -> Result<(), StorageError> {
        let (client, path) = (Arc::clone(&self.client), self.path(folder));
        self.ask(folder, "remove", async move {
            let objects: Vec<Path> = client.list(Some(&path)).map_ok(|object| object.location).try_collect().await?;
            for object in objects {
                client.delete(&object).await?;
            }
            Ok(())
        })
    }

    pub fn remove_checkpoint(&self, step: u64) -> Result<(), StorageError> {
        self.delete(&manifest(step))?;
        self.remove(&format!("step-{step}"))
    }
}

/// The thread that runs requests.
#[derive(Debug)]
struct Requests(Option<Runtime>);

impl Requests {
    fn handle(&self) -> &Runtime {
        self.0.as_ref().expect("the runtime is there until the drop")
    }
}

impl Drop for Requests {
    fn drop(&mut self) {
        // Waiting for it, as its own drop does, is not allowed on threads that run asynchronous code.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}
