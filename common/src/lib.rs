//! What every part of Medley agrees on, and nothing else: no libtorch, no clock, and no sockets but those of a bucket.
//!
//! Read in this order:
//! 1. [`config`]: one TOML file describes a job; parsed once into types that cannot be wrong afterwards.
//! 2. [`method`]: the names of the training methods and of the evaluation protocols.
//! 3. [`proto`]: the messages between the coordinator and its workers.
//! 4. [`events`] and [`summary`]: what a run directory holds for people and programs.
//! 5. [`manifest`]: what makes a checkpoint complete; `storage` (a feature): the places that keep them.
//! 6. [`exit`]: what the exit codes mean.
//! 7. [`environment`]: every environment variable that Medley reads.
//! 8. [`certificates`]: who is who in a cluster, and TLS that checks it.
//! 9. [`faults`]: what can be done to a job on purpose.

pub mod certificates;
pub mod config;
pub mod environment;
pub mod events;
pub mod exit;
pub mod faults;
pub mod hash;
mod json;
pub mod manifest;
pub mod method;
pub mod proto;
pub mod run_directory;
#[cfg(feature = "storage")]
pub mod storage;
pub mod summary;

/// The version that coordinator and workers must share.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// A coordinator may pause (Ctrl-Z, a slow disk) and go on: it has so many times as long to answer as a worker, which counts
/// as dead after `launch.death_ms`.
pub const COORDINATOR_PATIENCE: u32 = 5;
