//! Puts the parts of a running job together.

use super::address::Address;
use super::driver::Driver;
use super::{JobError, Observer, SharedStore, committer, directory};
use crate::cluster::{Cluster, CohortPlan, Event, Recovery, Resume, Settings};
use crate::server::{Admission, Listener, Server};
use crate::store::JobRecord;
use medley_common::config::{self, RunConfig};
use medley_common::proto;
use medley_common::storage::Storage;
use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::mpsc;

/// How long the true cause of a failure is waited for once its consequences are seen.
const VERDICT: Duration = Duration::from_secs(2);

/// Requests of people that may wait.
const REQUESTS: usize = 16;

/// Places for workers that a job can have at all; how many it does is the cluster's to say.
const MOST_SLOTS: u32 = 65_536;

/// A small job may be asked to grow to so many workers: their connections are allowed from the beginning.
const ROOM: u32 = 256;

/// Messages of workers that may wait for the cluster; beyond them the workers wait.
const EVENTS: usize = 4096;

/// What a running job is made of, beside its workers.
pub struct Parts {
    pub config: RunConfig,
    pub run_directory: PathBuf,
    /// Where people reach this coordinator.
    pub url: String,
    pub record: JobRecord,
    pub store: SharedStore,
    /// Where checkpoints are kept.
    pub storage: Storage,
    pub cluster: Cluster,
    pub observers: Vec<Box<dyn Observer>>,
}

/// Begins to serve and to commit. What happens elsewhere, such as the ends of processes, is sent to the second value.
///
/// # Errors
/// [`JobError::Unwritable`].
pub fn assemble(parts: Parts, listener: Listener) -> Result<(Driver, mpsc::Sender<Event>), JobError> {
    let Parts { config, run_directory, url, record, store, storage, cluster, observers } = parts;
    let (events, incoming) = mpsc::channel(EVENTS);
    let (requests, asked) = mpsc::channel(REQUESTS);
    let (job, token) = (record.id.clone(), record.token.clone());
    let address = Address { url, job: job.clone(), token: token.clone() };
    let address = address.publish(&run_directory).map_err(directory::unwritable(&run_directory))?;
    let admission = Admission {
        job: job.clone(),
        token,
        slots: MOST_SLOTS,
        workers: cluster.slots().max(ROOM),
        heartbeat: Duration::from_millis(config.launch.heartbeat_ms),
        death: Duration::from_millis(config.launch.death_ms),
    };
    let server = Server::start(listener, admission, events.clone(), requests);
    let job_part = proto::Assignment {
        job: job.clone(),
        config: config::to_toml(&config),
        run_directory: run_directory.display().to_string(),
        ..proto::Assignment::default()
    };
    let commits = committer::start(storage, job, config, events.clone());
    let driver = Driver {
        cluster,
        server,
        launcher: None,
        commits,
        store,
        record,
        observers,
        job_part,
        acknowledged: HashMap::new(),
        address,
        requests: asked,
        incoming,
    };
    Ok((driver, events))
}

/// What the cluster needs to know of a job on so many workers.
pub fn settings(config: &RunConfig, workers: u32, generation: u64, resume: Option<Resume>) -> Settings {
    let milliseconds = Duration::from_millis;
    let join = milliseconds(config.launch.join_ms);
    Settings {
        cohort: CohortPlan::new(&config.cohort),
        workers,
        spares: u32::try_from(config.recovery.spares).unwrap_or(u32::MAX),
        generation,
        resume,
        log_every: config.output.log_every,
        join,
        death: milliseconds(config.launch.death_ms),
        verdict: VERDICT,
        // A worker may be in the middle of an exchange when it is asked, and of another when it writes.
        stop: join.max(2 * Duration::from_secs_f64(config.exchange.deadline_seconds)),
        recovery: Recovery {
            mode: config.recovery.mode,
            replace: milliseconds(config.recovery.replace_ms),
            reform: milliseconds(config.recovery.reform_ms),
            attempts: config.recovery.attempts,
        },
    }
}
