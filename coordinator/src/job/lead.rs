//! A coordinator that is one of several: it leads a job while it has the lead, and hands it on when it loses it.
//!
//! Training does not depend on who leads, nor on whether anybody does: workers go on, keep what they have to report, and
//! return to whoever leads next. What that one must know is in the store ([`JobRecord`]); what happened is in the run
//! directory, which all coordinators of a job share.

use super::stops::{StopRequests, Stops, TERMINATED};
use super::taking_up::{Begun, Trouble, check_directory, take_up};
use super::{JobError, Observer, Outcome};
use crate::election::{Candidate, Leadership};
use crate::server::Listener;
use crate::store::{self, JobRecord};
use medley_common::config::{self, RunConfig, StoreKind};
use medley_common::exit;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::mpsc;

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
    /// Go on with the job where it has ended, once.
    pub resume: bool,
}

/// What a candidate found before it ran for the lead.
#[derive(Debug, Clone, Copy)]
pub struct Ahead {
    /// The job has ended so many times and is to be gone on with; another coordinator that did so has counted on.
    pub resume_after: Option<u64>,
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
    if config.launch.listen.parse::<SocketAddr>().is_ok_and(|address| address.port() == 0) {
        return Err(JobError::AnyPort(config.launch.listen.clone()));
    }
    check_directory(&candidacy.run_directory, config)?;
    let (certificates, warnings) = super::security::certificates(&config.security)?;
    warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    // Not kept: one that does not lead refuses connections, so that workers go on looking.
    let listened_at = Listener::bind(&config.launch.listen).await?.secure(certificates)?.local_url();
    let url = candidacy.url.clone().unwrap_or(listened_at);
    let leases = store::open(&config.store, Path::new(""), &candidacy.job).await?;
    let found = JobRecord::load(leases.as_ref()).await?;
    if let Some(record) = &found {
        check_identity(record, config)?;
    }
    let ended = found.filter(|record| candidacy.resume && record.has_ended());
    let ahead = Ahead { resume_after: ended.map(|record| record.resumptions) };
    let lease = Duration::from_millis(config.store.lease_ms);
    let candidate = Candidate::new(leases, &candidacy.name, &url, lease);
    loop {
        let leadership = tokio::select! {
            won = candidate.campaign() => won?,
            Some(reason) = stops.recv() => return Ok(left(&reason)),
        };
        tracing::info!(term = leadership.term(), "{} leads job {}", candidacy.name, candidacy.job);
        match reign(&candidacy, ahead, &url, leadership, &mut stops, &mut observers).await {
            Ok(Reign::Ended(outcome)) => return Ok(outcome),
            Ok(Reign::Lost(reason)) => tracing::warn!("{} leads no more: {reason}", candidacy.name),
            Err(trouble) if trouble.ends_the_candidacy() => return Err(trouble.error),
            Err(trouble) => {
                tracing::warn!(
                    "{} cannot take the job over, and leaves it to another for {lease:?}: {}",
                    candidacy.name,
                    trouble.error
                );
                tokio::select! {
                    () = tokio::time::sleep(lease) => {}
                    Some(reason) = stops.recv() => return Ok(left(&reason)),
                }
            }
        }
    }
}

/// Refuses a job of the same name that was begun with another configuration.
pub fn check_identity(record: &JobRecord, config: &RunConfig) -> Result<(), JobError> {
    if record.identity.is_empty() || record.identity == config::identity(config) {
        return Ok(());
    }
    Err(JobError::OtherJob(record.id.clone()))
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
    ahead: Ahead,
    url: &str,
    leadership: Leadership,
    stops: &mut StopRequests,
    observers: &mut impl FnMut(&Path) -> Vec<Box<dyn Observer>>,
) -> Result<Reign, Trouble> {
    let lost = leadership.lost();
    tokio::pin!(lost);
    let begun = tokio::select! {
        begun = take_up(candidacy, ahead, url, &leadership, observers) => begun,
        reason = &mut lost => return Ok(Reign::Lost(reason)),
    };
    let driver = match begun {
        Ok(Begun::Running(driver)) => driver,
        Ok(Begun::Over(outcome)) => {
            resign(leadership).await;
            return Ok(Reign::Ended(outcome));
        }
        Err(trouble) => {
            resign(leadership).await;
            return Err(trouble);
        }
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
    resign(leadership).await;
    Ok(Reign::Ended(outcome))
}

async fn resign(leadership: Leadership) {
    if let Err(error) = leadership.resign().await {
        tracing::debug!("the lead is free once its lease has run out: {error}");
    }
}
