//! Which checkpoint an earlier run left, and whether it fits.

use super::{JobError, SharedStore, directory};
use crate::checkpoint::{CheckpointError, check_fit, verify};
use crate::cluster::{CohortPlan, Kept, Resume};
use crate::random;
use crate::store::{Embedded, JobRecord};
use medley_common::config::{self, RunConfig};
use medley_common::events::Trained;
use medley_common::manifest::Manifest;
use medley_common::run_directory;
use medley_common::storage::Storage;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// What a job begins with.
pub struct Beginning {
    pub store: SharedStore,
    pub record: JobRecord,
    pub continued: Continued,
    /// What a person should know.
    pub warnings: Vec<String>,
}

/// Where the training stands that is gone on with.
#[derive(Debug)]
pub struct Continued {
    /// `None`: from the beginning.
    pub checkpoint: Option<Resume>,
    /// T, and how it changes: as configured, and as was asked for since.
    pub cohort: CohortPlan,
    /// Peers that left, and the checkpoint that holds them.
    pub parked: BTreeMap<u32, String>,
    /// Up to the checkpoint.
    pub trained: Trained,
}

impl Continued {
    /// With the T of a configuration, at a checkpoint or from the beginning.
    pub fn with(config: &RunConfig, checkpoint: Option<Resume>) -> Self {
        let cohort = CohortPlan::new(&config.cohort);
        Self { checkpoint, cohort, parked: BTreeMap::new(), trained: Trained::default() }
    }

    /// T of the next step.
    pub fn peers(&self) -> u32 {
        self.cohort.peers_after(self.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.step))
    }
}

/// An earlier run that can be gone on with. Nothing of it was changed yet, and no other coordinator has it.
pub struct Resumed {
    beginning: Beginning,
    is_config_changed: bool,
}

/// The last committed checkpoint of a run, as its manifest describes it.
pub fn latest(storage: &Storage) -> Result<Option<Resume>, CheckpointError> {
    let opened = storage.latest()?.map(|step| storage.open(step)).transpose()?;
    Ok(opened.map(|stored| described(storage, &stored.manifest)))
}

fn described(storage: &Storage, manifest: &Manifest) -> Resume {
    Resume {
        step: manifest.step,
        directory: storage.checkpoint(manifest.step),
        data_hash: manifest.data_hash.clone(),
        peers: manifest.held_peers().into_iter().collect(),
    }
}

/// Opens an earlier run and verifies its last checkpoint. Blocks: reads every file of the checkpoint.
///
/// # Errors
/// [`JobError`] with exit code 2 where there is no run, another coordinator has it, or its last checkpoint is
/// damaged or of another shape.
pub async fn open(run: &Path, config: &RunConfig, storage: &Storage) -> Result<Resumed, JobError> {
    let kept = run.join(run_directory::CONFIG);
    if !kept.is_file() {
        return Err(JobError::NoRun(run.to_owned()));
    }
    let trained = config::load(&kept, &[])?;
    let store: SharedStore = Arc::new(Embedded::open(&run.join(run_directory::STORE))?);
    let record = match JobRecord::load(store.as_ref()).await? {
        Some(record) => record,
        None => JobRecord::new(random::hex(4).map_err(JobError::Random)?),
    };
    let changed = changed_keys(&trained, config);
    let continued = continued(record.kept.as_ref(), &trained, config, storage)?;
    let mut beginning = Beginning { store, record, continued, warnings: Vec::new() };
    if !changed.is_empty() {
        let message = format!("resumed with other values of {}", changed.join(", "));
        beginning.warnings.push(message);
    }
    match &beginning.continued.checkpoint {
        None => beginning.warnings.push("there is no checkpoint to resume from; training starts over".into()),
        // The store may have been lost; generations must grow all the same.
        Some(checkpoint) => {
            let generation = storage.open(checkpoint.step).map_err(CheckpointError::from)?.manifest.generation;
            beginning.record.generation = beginning.record.generation.max(generation);
        }
    }
    Ok(Resumed { beginning, is_config_changed: !changed.is_empty() })
}

/// Verifies the last checkpoint, and says what training goes on with from there. `trained` is the configuration so far, and
/// `kept` what the cluster kept with it. Blocks: reads every file of the checkpoint.
///
/// # Errors
/// Where the checkpoint is damaged or of another shape.
pub fn continued(
    kept: Option<&Kept>,
    trained: &RunConfig,
    config: &RunConfig,
    storage: &Storage,
) -> Result<Continued, JobError> {
    let mut continued = Continued::with(config, None);
    if let Some(kept) = kept.filter(|_| config::identity(trained) == config::identity(config)) {
        continued.cohort = kept.cohort.clone();
        continued.parked = kept.parked.clone();
    }
    let Some(step) = storage.latest().map_err(CheckpointError::from)? else {
        // Who left did so in a training that is gone.
        return Ok(Continued::with(config, None));
    };
    let manifest = verify(storage, step)?;
    let place = format!("{}/step-{step}", storage.place());
    check_fit(&place, &manifest, &continued.cohort, trained, config)?;
    if manifest.config_hash != config::identity(trained) {
        let message = "was trained with another configuration than run.toml holds now; put run.toml back as it was to resume, or start a new run".into();
        return Err(CheckpointError::Unfit { place, message }.into());
    }
    // Patience goes back to the best validation's parameters: a checkpoint that does not keep them needs that of their step.
    let goes_back = config.train.patience > 0 && manifest.state.best_metric.is_some();
    if goes_back && manifest.state.best_step != step && !manifest.keeps_best() {
        verify(storage, manifest.state.best_step)?;
    }
    // Who left later than the checkpoint was written is in it.
    continued.parked.retain(|_, place| run_directory::checkpoint_step_of(place).is_some_and(|left| left <= step));
    let state = &manifest.state;
    continued.trained = Trained { seconds: state.train_seconds, rows: state.rows, bytes_sent: state.bytes_sent };
    continued.checkpoint = Some(described(storage, &manifest));
    Ok(continued)
}

impl Resumed {
    /// T of the next step.
    pub fn peers(&self) -> u32 {
        self.beginning.continued.peers()
    }

    /// Clears what the earlier coordinator left half-done and keeps the new configuration.
    ///
    /// # Errors
    /// Where the directory cannot be written.
    pub fn begin(self, run: &Path, config: &RunConfig, storage: &Storage) -> Result<Beginning, JobError> {
        storage.sweep().map_err(CheckpointError::from)?;
        if let Some(resume) = &self.beginning.continued.checkpoint
            && let Err(error) = storage.set_latest(resume.step)
        {
            tracing::warn!("the newest checkpoint is not named: {error}");
        }
        let make = || {
            std::fs::create_dir_all(run.join(run_directory::LOGS))?;
            std::fs::create_dir_all(run.join(run_directory::CHECKPOINTS))?;
            if self.is_config_changed {
                directory::write_config(run, config)?;
            }
            Ok(())
        };
        make().map_err(directory::unwritable(run))?;
        Ok(self.beginning)
    }
}

/// Dotted keys in which two configurations differ.
fn changed_keys(one: &RunConfig, other: &RunConfig) -> Vec<String> {
    let values = |config: &RunConfig| {
        let mut values = BTreeMap::new();
        let table: toml::Table = config::to_toml(config).parse().unwrap_or_default();
        flatten("", &table, &mut values);
        values
    };
    let (one, other) = (values(one), values(other));
    let mut keys: Vec<String> = one.keys().chain(other.keys()).cloned().collect();
    keys.sort();
    keys.dedup();
    keys.retain(|key| one.get(key) != other.get(key));
    keys
}

fn flatten(prefix: &str, table: &toml::Table, values: &mut BTreeMap<String, toml::Value>) {
    for (name, value) in table {
        let key = match prefix {
            "" => name.clone(),
            _ => format!("{prefix}.{name}"),
        };
        match value {
            toml::Value::Table(inner) => flatten(&key, inner, values),
            value => {
                values.insert(key, value.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use medley_common::hash;
    use medley_common::manifest::{ManifestFile, TrainingState};
    use medley_common::storage::Attempt;

    #[test]
    fn t_is_what_it_was_also_where_somebody_asked_for_another() {
        let run = tempfile::tempdir().unwrap();
        let storage = Storage::of_run(run.path(), "").unwrap();
        let config = RunConfig::default();
        let file = |name: &str| {
            let attempt = Attempt { step: 30, generation: 2 };
            storage.put(attempt, name, b"tensors").unwrap();
            ManifestFile { name: name.into(), bytes: 7, sha256: hash::sha256(b"tensors") }
        };
        let files = ["shared.safetensors", "peer-0.safetensors", "peer-1.safetensors", "peer-2.safetensors"].map(file);
        let manifest = Manifest {
            format: medley_common::manifest::FORMAT,
            version: String::new(),
            job: "job".into(),
            generation: 2,
            step: 30,
            peers: 3,
            config_hash: config::identity(&config),
            data_hash: String::new(),
            state: TrainingState::default(),
            files: files.to_vec(),
        };
        storage.commit(Attempt { step: 30, generation: 2 }, &manifest).unwrap();
        let mut cohort = CohortPlan::new(&config.cohort);
        cohort.change(20, 3);
        let parked = [(3, "checkpoints/step-20".to_owned()), (4, "checkpoints/step-40".to_owned())];
        let kept = Kept { cohort, parked: parked.into(), ..Kept::default() };
        let found = continued(Some(&kept), &config, &config, &storage).unwrap();
        assert_eq!((found.peers(), found.checkpoint.unwrap().peers), (3, vec![0, 1, 2]));
        assert_eq!(found.parked.into_keys().collect::<Vec<_>>(), [3], "peer 4 had not left yet");
        // Without what was kept, the configuration's T does not fit.
        let message = continued(None, &config, &config, &storage).unwrap_err().to_string();
        assert!(message.contains("cohort.peers = 3"), "{message}");
    }

    #[test]
    fn changed_keys_are_named() {
        let one = RunConfig::default();
        let mut other = one.clone();
        assert!(changed_keys(&one, &other).is_empty());
        other.train.steps = 7;
        other.data.separator = Some(";".into());
        assert_eq!(changed_keys(&one, &other), ["data.separator", "train.steps"]);
    }
}
