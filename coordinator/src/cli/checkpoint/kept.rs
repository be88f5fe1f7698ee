//! The checkpoints that a run keeps, with what its events know of each.

use super::CliError;
use crate::output::peer_of;
use crate::output::read::Run;
use medley_common::events::Event;
use medley_common::storage::{Storage, StorageError};
use std::collections::BTreeMap;
use std::path::Path;

/// A run and its checkpoints.
pub struct Kept {
    pub storage: Storage,
    /// By step.
    pub checkpoints: BTreeMap<u64, Checkpoint>,
    /// The newest, as readers take it.
    pub latest: Option<u64>,
    /// The one with the best validation metric, where one was measured; the first of several.
    pub best: Option<u64>,
    /// What `best` goes by, for example `NDCG@10 (uniform99, valid)`.
    pub best_by: String,
}

/// A checkpoint, or what there is of one.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Checkpoint {
    /// It is committed and its manifest can be read.
    pub is_complete: bool,
    /// Size of its files.
    pub bytes: Option<u64>,
    /// When it was committed, in seconds since the Unix epoch.
    pub committed: Option<f64>,
    /// The validation metric of its step, of the best peer.
    pub metric: Option<f64>,
}

/// What names a step on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Best,
    Latest,
    Number(u64),
}

impl std::str::FromStr for Step {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "best" => Ok(Self::Best),
            "latest" => Ok(Self::Latest),
            number => number.parse().map(Self::Number).map_err(|_| "use best, latest or a step's number".into()),
        }
    }
}

impl Kept {
    /// Reads what a run keeps, without reading the tensors.
    pub fn read(directory: &Path) -> Result<Self, CliError> {
        let run = Run::read(directory).map_err(|error| CliError::bad_input(&error))?;
        let bad = |error: StorageError| CliError::bad_input(&error);
        let storage = Storage::of_run(directory, &run.config.output.checkpoints).map_err(bad)?;
        let mut checkpoints = BTreeMap::new();
        for step in storage.partial().map_err(bad)? {
            checkpoints.insert(step, Checkpoint::default());
        }
        for step in storage.steps().map_err(bad)? {
            let checkpoint = match storage.open(step) {
                Ok(stored) => {
                    let state = &stored.manifest.state;
                    let measured = state.metric.filter(|_| state.metric_step == step);
                    Checkpoint {
                        is_complete: true,
                        bytes: Some(stored.manifest.files.iter().map(|file| file.bytes).sum()),
                        committed: None,
                        metric: measured,
                    }
                }
                Err(StorageError::Damaged { .. } | StorageError::Absent { .. } | StorageError::Format { .. }) => {
                    Checkpoint::default()
                }
                Err(error) => return Err(bad(error)),
            };
            checkpoints.insert(step, checkpoint);
        }
        let (metric, protocol) = (&run.config.train.metric, run.config.metric_protocol());
        for line in &run.events {
            match &line.event {
                Event::Checkpoint { step, .. } => {
                    if let Some(checkpoint) = checkpoints.get_mut(step) {
                        checkpoint.committed = Some(line.time);
                    }
                }
                Event::Evaluation(evaluation)
                    if evaluation.split == "valid" && evaluation.protocol == protocol.as_str() =>
                {
                    let mean = evaluation.metrics.get(metric).map(|estimate| estimate.mean);
                    let mean = mean.filter(|mean| mean.is_finite() && peer_of(&evaluation.subject).is_some());
                    if let (Some(checkpoint), Some(mean)) = (checkpoints.get_mut(&evaluation.step), mean) {
                        checkpoint.metric = Some(checkpoint.metric.map_or(mean, |before| before.max(mean)));
                    }
                }
                _ => {}
            }
        }
        Ok(Self {
            latest: storage.latest().map_err(bad)?,
            best: best(&checkpoints),
            best_by: format!("{metric} ({protocol}, valid)"),
            storage,
            checkpoints,
        })
    }

    /// The step that is meant; refused where there is no whole checkpoint of it.
    pub fn resolve(&self, step: Step) -> Result<u64, CliError> {
        let place = self.storage.place();
        let missing = |message: String| CliError::bad_input(&format!("{place}: {message}"));
        match step {
            Step::Latest => self.latest.ok_or_else(|| missing("holds no checkpoint yet".into())),
            Step::Best => self.best.ok_or_else(|| {
                let by = &self.best_by;
                missing(format!(
                    "no checkpoint's step was validated by {by}; name one by --step N, or take --step latest"
                ))
            }),
            Step::Number(step) if self.checkpoints.get(&step).is_some_and(|checkpoint| checkpoint.is_complete) => {
                Ok(step)
            }
            Step::Number(step) => {
                let whole = self.checkpoints.iter().filter(|(_, checkpoint)| checkpoint.is_complete);
                let steps: Vec<String> = whole.map(|(step, _)| step.to_string()).collect();
                let has = if steps.is_empty() { "none".into() } else { steps.join(", ") };
                Err(missing(format!("holds no checkpoint of step {step}; it has {has}")))
            }
        }
    }
}

fn best(checkpoints: &BTreeMap<u64, Checkpoint>) -> Option<u64> {
    let whole = checkpoints.iter().filter(|(_, checkpoint)| checkpoint.is_complete);
    let measured = whole.filter_map(|(step, checkpoint)| Some((*step, checkpoint.metric?)));
    measured.reduce(|best, next| if next.1 > best.1 { next } else { best }).map(|(step, _)| step)
}
