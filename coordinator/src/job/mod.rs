//! One job from its configuration to its outcome: everything else in this crate, wired together.
//!
//! 1. [`run()`] here: what is checked before anything is written, and in which order things begin.
//! 2. [`observer`]: what is told everything that happens.
//! 3. `directory`: a run directory that is there whole or not at all.
//! 4. `resume`: which checkpoint an earlier run left, and whether it fits.
//! 5. `driver`: the loop between the cluster's decisions and the world.
//! 6. `assembly`: puts the parts of a running job together; [`lead()`]: a coordinator that is one of several; `taking_up`:
//!    what it does first when it has the lead.
//! 7. `address`: where a running job can be asked something; `committer`: commits checkpoints beside that loop.
//! 8. `stops`: who may ask a job to stop.
//! 9. `security`: the certificates of the job's parties, checked before anything begins.

mod address;
mod assembly;
mod committer;
mod directory;
mod driver;
mod error;
mod lead;
pub mod observer;
mod resume;
mod security;
mod stops;
mod taking_up;

pub use crate::cluster::Outcome;
pub use address::Address;
pub use error::JobError;
pub use lead::{Candidacy, lead};
pub use observer::Observer;
pub use stops::Stops;

use crate::checkpoint::CheckpointError;
use crate::cluster::Cluster;
use crate::launch::{Asked, LaunchPlan, Launcher, Shares, WorkerBinary, cores, preflight};
use crate::random;
use crate::server::Listener;
use crate::store::{JobRecord, Store};
use assembly::{Parts, assemble, settings};
use driver::Driver;
use medley_common::config::{RunConfig, StoreKind};
use medley_common::events::Event as JobEvent;
use medley_common::storage::Storage;
use medley_common::{VERSION, exit};
use resume::{Beginning, Continued};
use std::path::PathBuf;
use std::sync::Arc;

/// What is run.
#[derive(Debug, Clone)]
pub struct JobRequest {
    /// The configuration.
    pub config: RunConfig,
    /// Where everything goes.
    pub run_directory: PathBuf,
    /// Go on with the run that the directory holds.
    pub resume: bool,
}

/// What a job takes from its surroundings.
#[derive(Debug, Default)]
pub struct Surroundings {
    /// The worker binary; `None`: look for it.
    pub worker: Option<WorkerBinary>,
    /// Who may ask the job to stop.
    pub stops: Stops,
}

/// Runs a job to its end, with the worker binary and the signals of this process: SIGINT or SIGTERM stops it with a
/// checkpoint, another one a second later at once. Observers are told of everything from the moment that the run
/// directory exists.
///
/// # Errors
/// [`JobError`] where the job could not begin; nothing was written then where `exit_code()` is 2. A job that began
/// and failed is an [`Outcome`]; where a new job's input turns out to be bad before its first step, the run directory
/// is removed again.
pub async fn run(request: JobRequest, observers: Vec<Box<dyn Observer>>) -> Result<Outcome, JobError> {
    run_in(Surroundings::default(), request, observers).await
}

/// Like [`run()`], in other surroundings.
///
/// # Errors
/// As [`run()`].
pub async fn run_in(
    surroundings: Surroundings,
    request: JobRequest,
    observers: Vec<Box<dyn Observer>>,
) -> Result<Outcome, JobError> {
    let mut stops = surroundings.stops.listen().map_err(JobError::Signals)?;
    let made = (!request.resume).then(|| request.run_directory.clone());
    let begun = tokio::select! {
        begun = begin(surroundings.worker, request, observers) => begun?,
        reason = stops.recv() => return Ok(stopped_before_it_began(reason.as_deref())),
    };
    let outcome = begun.run(stops).await;
    if let Some(directory) = made
        && outcome.exit_code == exit::BAD_INPUT
        && outcome.step == 0
    {
        directory::withdraw(&directory);
    }
    Ok(outcome)
}

fn stopped_before_it_began(reason: Option<&str>) -> Outcome {
    Outcome {
        outcome: "stopped".into(),
        message: format!("stopped ({}) before it began", reason.unwrap_or("asked to")),
        exit_code: exit::INTERRUPTED,
        step: 0,
    }
}

/// Everything up to the started workers. First all that may be refused, cheapest first, then all that writes.
async fn begin(
    worker: Option<WorkerBinary>,
    request: JobRequest,
    mut observers: Vec<Box<dyn Observer>>,
) -> Result<Driver, JobError> {
    let JobRequest { config, run_directory, resume } = request;
    if config.store.kind == StoreKind::Etcd {
        return Err(JobError::Shared);
    }
    let run_directory =
        std::path::absolute(&run_directory).map_err(|source| JobError::Unwritable { path: run_directory, source })?;
    let binary = worker.map_or_else(WorkerBinary::find, Ok)?;
    binary.check_version()?;
    let (certificates, mut of_certificates) = security::certificates(&config.security)?;
    of_certificates.extend(security::check_workers(&config.security)?);
    let storage = Storage::of_run(&run_directory, &config.output.checkpoints).map_err(CheckpointError::from)?;
    let resumed = if resume {
        Some(resume::open(&run_directory, &config, &storage).await?)
    } else {
        directory::check_absent(&run_directory)?;
        check_free(&storage)?;
        None
    };
    let checked = preflight(&binary, &config).await?;
    let asked = Asked { workers: config.cohort.workers, threads: config.train.threads };
    let peers = resumed.as_ref().map_or(config.cohort.peers, |resumed| resumed.peers() as usize);
    let shares = Shares::choose(cores(), checked.gpus, peers, asked);
    let listener = Listener::bind(&config.launch.listen).await?.secure(certificates.clone())?;
    let beginning = match resumed {
        Some(resumed) => resumed.begin(&run_directory, &config, &storage)?,
        None => {
            let record = JobRecord::new(random::hex(4).map_err(JobError::Random)?);
            let store = directory::create(&run_directory, &config, &record).await?;
            Beginning { store, record, continued: Continued::with(&config, None), warnings: Vec::new() }
        }
    };
    let Beginning { store, mut record, continued, warnings } = beginning;
    let Continued { checkpoint, cohort, parked, trained } = continued;
    let generation = record.generation + 1;
    record.status = "running".into();
    // Those of an earlier invocation are of no use to anybody any more.
    record.renew_secrets().map_err(JobError::Random)?;
    record.save(store.as_ref()).await?;

    let mut settings = settings(&config, shares.workers, generation, checkpoint);
    settings.cohort = cohort;
    let started = JobEvent::JobStarted {
        job: record.id.clone(),
        version: VERSION.into(),
        method: config.method.name.to_string(),
        peers: shares.peers,
        workers: settings.workers,
        threads: shares.threads,
        cores: shares.cores,
        gpus: shares.gpus,
        resumed_from: settings.resume.as_ref().map(|resume| resume.step),
        trained_before: trained,
    };
    let warnings = shares
        .warning()
        .into_iter()
        .chain(of_certificates)
        .chain(warnings)
        .map(|message| JobEvent::Warning { message });
    for event in std::iter::once(started).chain(warnings) {
        driver::tell(&mut observers, &event);
    }

    let coordinator = listener.local_url();
    let token = record.token.clone();
    let plan = LaunchPlan {
        binary,
        workers: settings.workers + settings.spares,
        coordinator: coordinator.clone(),
        job: record.id.clone(),
        token,
        threads: shares.threads,
        run_directory: run_directory.clone(),
        certificates: certificates.map(|own| own.directory().to_owned()),
    };
    let cluster = Cluster::resumed(settings, parked);
    let parts = Parts { config, run_directory, url: coordinator, record, store, storage, cluster, observers };
    let (mut driver, exits) = assemble(parts, listener)?;
    let launcher = Launcher::start(plan, move |exit| {
        // Nobody listens any more once the job has ended.
        let _ = exits.blocking_send(crate::cluster::Event::Exited {
            slot: exit.slot,
            process_id: exit.process_id,
            status: exit.status,
            last_words: exit.last_words,
        });
    });
    match launcher {
        Ok(launcher) => driver.launcher = Some(launcher),
        // The run directory is there, so this is a job that began and failed, and its record says so.
        Err(error) => driver.doom(error.to_string()),
    }
    Ok(driver)
}

/// Refuses a place where another run keeps its checkpoints: one would take them for its own.
fn check_free(storage: &Storage) -> Result<(), CheckpointError> {
    if storage.steps()?.is_empty() {
        return Ok(());
    }
    Err(CheckpointError::Occupied { place: storage.place() })
}

/// A store that several threads may hold.
type SharedStore = Arc<dyn Store>;
