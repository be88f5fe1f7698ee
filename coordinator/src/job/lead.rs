//! A coordinator that is one of several: it leads a job while it has the lead, and hands it on when it loses it.
//!
//! Training does not depend on who leads, nor on whether anybody does: workers go on, keep what they have to report, and
//! return to whoever leads next. What that one must know is in the store ([`JobRecord`]); what happened is in the run
//! directory, which all coordinators of a job share.

use super::assembly::{Parts, assemble, settings};
use super::driver::{Driver, tell};
use super::stops::{StopRequests, Stops, TERMINATED};
use super::{JobError, Observer, Outcome, directory, resume};
use crate::checkpoint::CheckpointError;
use crate::cluster::Cluster;
use crate::election::{Candidate, Leadership};
use crate::server::Listener;
use crate::store::{self, JobRecord};
use medley_common::config::{self, RunConfig, StoreKind};
use medley_common::events::{Event as JobEvent, Trained};
use medley_common::storage::Storage;
use medley_common::{VERSION, exit, run_directory};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::mpsc;

/// Workers look for the next leader every second at least; they have this long beyond `launch.death_ms` to find it.
const RETURN: Duration = Duration::from_secs(5);

/// A coordinator's part in a job that several coordinate.
#[derive(Debug, Clone)]
pub struct Candidacy {
    /// The configuration; the same for all coordinators of the job but for `launch.listen`.
    pub config: RunConfig,
    /// Where everything goes; shared by all coordinators and workers of the job.
    pub run_directory: PathBuf,
    /// The job.
    pub job: String,
    /// This coordinator, for people.
    pub name: String,
    /// Where workers and people reach it; `None`: at the address that it listens on.
    pub url: Option<String>,
    /// What workers must show; `None`: drawn by the first leader.
    pub token: Option<String>,
}

/// Runs for the lead of a job, and leads it, until the job has ended or this coordinator is asked to leave: SIGTERM hands
/// the job on, Ctrl-C stops it with a checkpoint. `observers` makes those of a time in the lead.
///
/// # Errors
/// [`JobError`] where the job could not begin or be taken over.
pub async fn lead(
    candidacy: Candidacy,
    stops: Stops,
    mut observers: impl FnMut(&Path) -> Vec<Box<dyn Observer>>,
) -> Result<Outcome, JobError> {
    if candidacy.config.store.kind != StoreKind::Etcd {
        return Err(JobError::NotShared);
    }
    let run = std::path::absolute(&candidacy.run_directory)
        .map_err(|source| JobError::Unwritable { path: candidacy.run_directory.clone(), source })?;
    let candidacy = Candidacy { run_directory: run, ..candidacy };
    let mut stops = stops.listen().map_err(JobError::Signals)?;
    let config = &candidacy.config;
    let (certificates, warnings) = super::security::certificates(&config.security)?;
    warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    // Not kept: one that does not lead refuses connections, so that workers go on looking.
    let url = match &candidacy.url {
        Some(url) => url.clone(),
        None => Listener::bind(&config.launch.listen).await?.secure(certificates)?.local_url(),
    };
    let leases = store::open(&config.store, Path::new(""), &candidacy.job).await?;
    let lease = Duration::from_millis(config.store.lease_ms);
    let candidate = Candidate::new(leases, &candidacy.name, &url, lease);
    loop {
        let leadership = tokio::select! {
            won = candidate.campaign() => won?,
            Some(reason) = stops.recv() => return Ok(left(&reason)),
        };
        tracing::info!(term = leadership.term(), "{} leads job {}", candidacy.name, candidacy.job);
        match reign(&candidacy, &url, leadership, &mut stops, &mut observers).await? {
            Reign::Ended(outcome) => return Ok(outcome),
            Reign::Lost(reason) => tracing::warn!("{} leads no more: {reason}", candidacy.name),
        }
    }
}

fn left(reason: &str) -> Outcome {
    let message = format!("left ({reason}); another coordinator goes on with the job");
    Outcome { outcome: "left".into(), message, exit_code: exit::SUCCESS, step: 0 }
}

/// How a time in the lead ended.
enum Reign {
    Ended(Outcome),
    Lost(String),
}

async fn reign(
    candidacy: &Candidacy,
    url: &str,
    leadership: Leadership,
    stops: &mut StopRequests,
    observers: &mut impl FnMut(&Path) -> Vec<Box<dyn Observer>>,
) -> Result<Reign, JobError> {
    let lost = leadership.lost();
    tokio::pin!(lost);
    let begun = tokio::select! {
        begun = take_up(candidacy, url, &leadership, observers) => begun?,
        reason = &mut lost => return Ok(Reign::Lost(reason)),
    };
    let driver = match begun {
        Begun::Running(driver) => driver,
        Begun::Over(outcome) => return Ok(Reign::Ended(outcome)),
    };
    let (stop, requests) = mpsc::channel(4);
    let running = driver.run(StopRequests::from(requests));
    tokio::pin!(running);
    let outcome = loop {
        tokio::select! {
            outcome = &mut running => break outcome,
            reason = &mut lost => return Ok(Reign::Lost(reason)),
            Some(reason) = stops.recv() => match reason.as_str() {
                TERMINATED => break left(&reason),
                _ => _ = stop.try_send(reason),
            },
        }
    };
    if let Err(error) = leadership.resign().await {
        tracing::debug!("the lead is free once its lease has run out: {error}");
    }
    Ok(Reign::Ended(outcome))
}

/// What a leader finds.
enum Begun {
    Running(Box<Driver>),
    Over(Outcome),
}

/// Begins the job, or takes it over from another leader.
async fn take_up(
    candidacy: &Candidacy,
    url: &str,
    leadership: &Leadership,
    observers: &mut impl FnMut(&Path) -> Vec<Box<dyn Observer>>,
) -> Result<Begun, JobError> {
    let Candidacy { config, run_directory: run, job, name, token, .. } = candidacy;
    let store = leadership.store();
    let found = JobRecord::load(store.as_ref()).await?;
    if let Some(record) = found.as_ref().filter(|record| !matches!(record.status.as_str(), "created" | "running")) {
        return Ok(Begun::Over(ended(record)));
    }
    let (certificates, _) = super::security::certificates(&config.security)?;
    let listener = Listener::bind(&config.launch.listen).await?.secure(certificates)?;
    let mut record = match found {
        Some(record) => record,
        None => {
            let mut record = JobRecord::new(job.clone());
            record.renew_secrets().map_err(JobError::Random)?;
            record.token = token.clone().unwrap_or(record.token);
            record.save(store.as_ref()).await?;
            record
        }
    };
    let storage = Storage::of_run(run, &config.output.checkpoints).map_err(CheckpointError::from)?;
    let checkpoint = resume::latest(&storage)?;
    prepare(run, config, record.kept.is_none() && checkpoint.is_some())?;
    let workers = match config.cohort.workers {
        0 => config.cohort.peers,
        asked => asked,
    };
    let settings = settings(config, u32::try_from(workers).unwrap_or(u32::MAX), record.generation + 1, checkpoint);
    let mut told = observers(run);
    let cluster = match &record.kept {
        Some(kept) => Cluster::adopt(settings, kept, RETURN),
        None => {
            record.status = "running".into();
            record.save(store.as_ref()).await?;
            tell(
                &mut told,
                &JobEvent::JobStarted {
                    job: job.clone(),
                    version: VERSION.into(),
                    method: config.method.name.to_string(),
                    peers: settings.cohort.peers,
                    workers: settings.workers,
                    threads: 0,
                    cores: 0,
                    gpus: 0,
                    resumed_from: None,
                    trained_before: Trained::default(),
                },
            );
            Cluster::new(settings)
        }
    };
    tell(&mut told, &JobEvent::Led { coordinator: name.clone(), term: leadership.term() });
    let parts = Parts {
        config: config.clone(),
        run_directory: run.clone(),
        url: url.to_owned(),
        record,
        store,
        storage,
        cluster,
        observers: told,
    };
    let (driver, _) = assemble(parts, listener)?;
    Ok(Begun::Running(Box::new(driver)))
}

fn ended(record: &JobRecord) -> Outcome {
    let exit_code = match record.status.as_str() {
        "failed" => exit::FAILURE,
        "stopped" => exit::INTERRUPTED,
        _ => exit::SUCCESS,
    };
    let step = record.checkpoint.unwrap_or(0);
    Outcome { outcome: record.status.clone(), message: record.message.clone(), exit_code, step }
}

/// Makes the run directory, unless an earlier leader of this job has.
fn prepare(run: &Path, config: &RunConfig, is_taken: bool) -> Result<(), JobError> {
    let kept = run.join(run_directory::CONFIG);
    if kept.is_file() {
        let is_ours = config::load(&kept, &[]).is_ok_and(|other| config::identity(&other) == config::identity(config));
        return if is_ours && !is_taken { Ok(()) } else { Err(JobError::OtherRun(run.to_owned())) };
    }
    let make = || {
        std::fs::create_dir_all(run.join(run_directory::LOGS))?;
        std::fs::create_dir_all(run.join(run_directory::CHECKPOINTS))?;
        directory::write_config(run, config)
    };
    make().map_err(directory::unwritable(run))
}
