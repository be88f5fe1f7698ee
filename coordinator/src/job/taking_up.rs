//! What a coordinator does first when it has won the lead: it begins the job, takes it over, or goes on with an ended one.

use super::assembly::{Parts, assemble, settings};
use super::driver::{Driver, tell};
use super::lead::{Ahead, Candidacy, check_identity};
use super::resume::{self, Continued};
use super::{JobError, Observer, Outcome, directory};
use crate::checkpoint::CheckpointError;
use crate::cluster::{Cluster, Kept, Resume};
use crate::election::Leadership;
use crate::server::Listener;
use crate::store::{JobRecord, StoreError};
use medley_common::config::{self, RunConfig};
use medley_common::events::{Event as JobEvent, Trained};
use medley_common::storage::Storage;
use medley_common::{COORDINATOR_PATIENCE, VERSION, exit, run_directory};
use std::path::Path;
use std::time::Duration;

/// Workers look for the next leader every second at least; they have this long beyond the time within which they notice
/// that the last one is gone.
const RETURN: Duration = Duration::from_secs(5);

/// What a leader finds.
pub enum Begun {
    Running(Box<Driver>),
    Over(Outcome),
}

/// Why a leader could not take the job up.
#[derive(Debug)]
pub struct Trouble {
    pub error: JobError,
    /// Workers may be at work, and what they did is in the store.
    has_begun: bool,
}

impl Trouble {
    /// Whether another attempt, here or elsewhere, would fail in the same way. A job that trains is not given up because
    /// somebody's disk is full or a bucket is out of reach for a while.
    pub fn ends_the_candidacy(&self) -> bool {
        match &self.error {
            JobError::OtherRun(_) | JobError::OtherJob(_) | JobError::AnyPort(_) | JobError::NotShared => true,
            JobError::Store(StoreError::Deposed { .. }) => false,
            JobError::Store(error) if error.is_passing() => false,
            JobError::Store(_) => true,
            _ => !self.has_begun,
        }
    }
}

/// Begins the job, or takes it over from another leader.
pub async fn take_up(
    candidacy: &Candidacy,
    ahead: Ahead,
    url: &str,
    leadership: &Leadership,
    observers: &mut impl FnMut(&Path) -> Vec<Box<dyn Observer>>,
) -> Result<Begun, Trouble> {
    let mut has_begun = false;
    let begun = try_to(candidacy, ahead, url, leadership, observers, &mut has_begun).await;
    begun.map_err(|error| Trouble { error, has_begun })
}

async fn try_to(
    candidacy: &Candidacy,
    ahead: Ahead,
    url: &str,
    leadership: &Leadership,
    observers: &mut impl FnMut(&Path) -> Vec<Box<dyn Observer>>,
    has_begun: &mut bool,
) -> Result<Begun, JobError> {
    let Candidacy { config, run_directory: run, job, name, token, .. } = candidacy;
    let store = leadership.store();
    let found = JobRecord::load(store.as_ref()).await?;
    if let Some(record) = &found {
        check_identity(record, config)?;
        *has_begun = record.kept.is_some();
    }
    let ended = found.as_ref().filter(|record| record.has_ended());
    if let Some(record) = ended.filter(|record| ahead.resume_after != Some(record.resumptions)) {
        return Ok(Begun::Over(outcome_of(record)));
    }
    let is_resumed = ended.is_some();
    let (certificates, _) = super::security::certificates(&config.security)?;
    let listener = Listener::bind(&config.launch.listen).await?.secure(certificates)?;
    let mut record = match found {
        Some(record) => record,
        None => {
            let mut record = JobRecord::new(job.clone());
            record.renew_secrets().map_err(JobError::Random)?;
            record.token = token.clone().unwrap_or(record.token);
            record.identity = config::identity(config);
            record.save(store.as_ref()).await?;
            record
        }
    };
    let storage = Storage::of_run(run, &config.output.checkpoints).map_err(CheckpointError::from)?;
    let continued = match is_resumed {
        true => continue_from(&record, config, &storage).await?,
        false => Continued::with(config, last_checkpoint(&record, &storage).await?),
    };
    prepare(run, config, !is_resumed && record.kept.is_none() && continued.checkpoint.is_some())?;
    let workers = match config.cohort.workers {
        0 => continued.peers() as usize,
        asked => asked,
    };
    let Continued { checkpoint, cohort, parked, trained } = continued;
    let generation = record.generation + 1;
    let mut settings = settings(config, u32::try_from(workers).unwrap_or(u32::MAX), generation, checkpoint);
    settings.cohort = cohort;
    if is_resumed {
        record.renew_secrets().map_err(JobError::Random)?;
        record.token = token.clone().unwrap_or(record.token);
        record.resumptions += 1;
        record.message.clear();
        record.kept = None;
    }
    let mut told = observers(run);
    let cluster = match &record.kept {
        Some(kept) => {
            // A worker whose leader has gone dark, and closed nothing, notices that so much later than it would a lost worker.
            let noticing = COORDINATOR_PATIENCE * Duration::from_millis(config.launch.death_ms);
            Cluster::adopt(settings, kept, RETURN + noticing)
        }
        None => {
            record.status = "running".into();
            record.save(store.as_ref()).await?;
            tell(&mut told, &started(config, job, &settings, trained));
            Cluster::resumed(settings, parked)
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

fn started(config: &RunConfig, job: &str, settings: &crate::cluster::Settings, trained: Trained) -> JobEvent {
    JobEvent::JobStarted {
        job: job.to_owned(),
        version: VERSION.into(),
        method: config.method.name.to_string(),
        peers: settings.cohort.peers_after(settings.resume.as_ref().map_or(0, |resume| resume.step)),
        workers: settings.workers,
        threads: 0,
        cores: 0,
        gpus: 0,
        resumed_from: settings.resume.as_ref().map(|resume| resume.step),
        trained_before: trained,
    }
}

/// What an ended job goes on with. Nobody works for it, so what is half-done belongs to nobody.
async fn continue_from(record: &JobRecord, config: &RunConfig, storage: &Storage) -> Result<Continued, JobError> {
    let (record, config, storage) = (record.clone(), config.clone(), storage.clone());
    blocking(move || {
        let continued = resume::continued(record.kept.as_ref(), &config, &config, &storage)?;
        storage.sweep().map_err(CheckpointError::from)?;
        Ok(continued)
    })
    .await
}

/// The last committed checkpoint. Where a running job's storage is out of reach, the one that the record names: it may be
/// back by the time that somebody reads from it.
async fn last_checkpoint(record: &JobRecord, storage: &Storage) -> Result<Option<Resume>, JobError> {
    let listed = {
        let storage = storage.clone();
        blocking(move || Ok(resume::latest(&storage)?)).await
    };
    match (listed, &record.kept) {
        (Err(error), Some(kept)) => {
            tracing::warn!("the checkpoints cannot be listed, so the last one that was reported is taken: {error}");
            Ok(record.checkpoint.map(|step| remembered(step, kept, storage)))
        }
        (listed, _) => listed,
    }
}

/// A checkpoint as far as the record knows it.
fn remembered(step: u64, kept: &Kept, storage: &Storage) -> Resume {
    // The step's own checkpoint was written before T changed at it.
    let peers = kept.cohort.peers_after(step.saturating_sub(1)).min(kept.cohort.peers_after(step));
    Resume {
        step,
        directory: storage.checkpoint(step),
        data_hash: kept.ready.as_ref().map(|ready| ready.data_hash.clone()).unwrap_or_default(),
        peers: (0..peers).collect(),
    }
}

/// Does something that waits for a disk or a network, while this coordinator keeps its lead and hears of its loss.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, JobError> + Send + 'static,
) -> Result<T, JobError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}

fn outcome_of(record: &JobRecord) -> Outcome {
    let exit_code = match record.status.as_str() {
        "failed" => exit::FAILURE,
        "stopped" => exit::INTERRUPTED,
        _ => exit::SUCCESS,
    };
    let step = record.checkpoint.unwrap_or(0);
    Outcome { outcome: record.status.clone(), message: record.message.clone(), exit_code, step }
}

/// Refuses a run directory of another configuration.
pub fn check_directory(run: &Path, config: &RunConfig) -> Result<(), JobError> {
    let kept = run.join(run_directory::CONFIG);
    if !kept.is_file() {
        return Ok(());
    }
    let is_ours = config::load(&kept, &[]).is_ok_and(|other| config::identity(&other) == config::identity(config));
    if is_ours { Ok(()) } else { Err(JobError::OtherRun(run.to_owned())) }
}

/// Makes the run directory, unless an earlier leader of this job has.
fn prepare(run: &Path, config: &RunConfig, is_taken: bool) -> Result<(), JobError> {
    check_directory(run, config)?;
    if is_taken {
        return Err(JobError::OtherRun(run.to_owned()));
    }
    if run.join(run_directory::CONFIG).is_file() {
        return Ok(());
    }
    let make = || {
        std::fs::create_dir_all(run.join(run_directory::LOGS))?;
        std::fs::create_dir_all(run.join(run_directory::CHECKPOINTS))?;
        directory::write_config(run, config)
    };
    make().map_err(directory::unwritable(run))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::cluster::CohortPlan;
    use medley_common::storage::StorageError;

    #[test]
    fn a_job_that_trains_is_not_given_up_for_a_full_disk_or_a_bucket_out_of_reach() {
        let full = || std::io::Error::from(std::io::ErrorKind::StorageFull);
        let away = || StorageError::Bucket { place: "s3://b".into(), doing: "list", message: "timed out".into() };
        let ends = |error: JobError, has_begun| Trouble { error, has_begun }.ends_the_candidacy();
        for has_begun in [false, true] {
            assert_eq!(ends(directory::unwritable(Path::new("run"))(full()), has_begun), !has_begun);
            assert_eq!(ends(CheckpointError::from(away()).into(), has_begun), !has_begun);
            assert!(ends(JobError::OtherRun("run".into()), has_begun));
            assert!(ends(JobError::OtherJob("job".into()), has_begun));
            let passing = StoreError::Unavailable { endpoints: "e".into(), seconds: 15.0, last: "timed out".into() };
            assert!(!ends(passing.into(), has_begun));
            assert!(!ends(StoreError::Deposed { reason: "gone".into() }.into(), has_begun));
        }
    }

    #[tokio::test]
    async fn a_storage_out_of_reach_is_replaced_by_what_the_record_says_of_a_running_job() {
        let run = tempfile::tempdir().unwrap();
        std::fs::write(run.path().join("file"), "").unwrap();
        let storage = Storage::of_run(run.path(), &run.path().join("file").display().to_string()).unwrap();
        let mut record = JobRecord::new("j".into());
        record.checkpoint = Some(30);
        assert!(last_checkpoint(&record, &storage).await.is_err(), "a new job does not begin like that");
        let mut cohort = CohortPlan { peers: 3, ..CohortPlan::default() };
        cohort.change(30, 5);
        record.kept = Some(Kept { cohort, ..Kept::default() });
        let checkpoint = last_checkpoint(&record, &storage).await.unwrap().unwrap();
        assert_eq!((checkpoint.step, checkpoint.peers), (30, vec![0, 1, 2]));
    }
}
