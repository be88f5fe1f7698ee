//! What a worker trains on: loaded once a process, the same in every generation.

use super::TrainError;
use crate::data::{Dataset, SampleSet};
use medley_common::config::RunConfig;
use std::sync::Arc;

/// A configuration with the data and samples that follow from it.
#[derive(Debug)]
pub struct Material {
    /// The job's configuration.
    pub config: RunConfig,
    /// Its data.
    pub dataset: Dataset,
    /// The training samples of the data.
    pub samples: Arc<SampleSet>,
}

impl Material {
    /// Loads the data of a configuration and prepares its samples.
    ///
    /// # Errors
    /// When the data cannot be used, or yields no samples, or batches of fewer rows than there are peers.
    pub fn load(config: RunConfig) -> Result<Self, TrainError> {
        let dataset = Dataset::load(&config.data)?;
        let samples = Arc::new(samples(&config, &dataset)?);
        Ok(Self { config, dataset, samples })
    }
}

/// The samples of a configuration, refused when a batch would have fewer rows than there are peers at any time.
///
/// # Errors
/// When there are no samples, or too few rows.
pub fn samples(config: &RunConfig, dataset: &Dataset) -> Result<SampleSet, TrainError> {
    let samples = SampleSet::new(dataset, &config.data, &config.samples, config.network.kind, config.seed)?;
    let (rows, peers) = (samples.min_rows(config.train.batch_size), config.cohort.most_peers());
    if config.method.name.is_trained() && rows < peers {
        let (key, verb) = match peers > config.cohort.peers {
            true => ("cohort.schedule", "asks for"),
            false => ("cohort.peers", "is"),
        };
        return Err(TrainError::Input(format!(
            "{key}: {verb} {peers}, but a batch may have only {rows} rows, fewer than one a peer; raise train.batch_size or lower {key}"
        )));
    }
    Ok(samples)
}
