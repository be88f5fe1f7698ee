//! `medley-worker check`: what a coordinator asks before it writes anything.

use crate::data::{self, Dataset, DatasetStatistics};
use crate::device;
use crate::train::TrainError;
use crate::train::evaluation::evaluator;
use crate::train::material::samples;
use crate::train::schedule::Plan;
use medley_common::config::{self, RunConfig};
use std::io::Read;
use std::path::{Path, PathBuf};

/// Check a configuration against its data.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The configuration; `-` reads it from standard input.
    #[arg(long)]
    config: PathBuf,
}

pub fn run(arguments: &Arguments) -> Result<(), TrainError> {
    let config = read(&arguments.config)?;
    let dataset = Dataset::load(&config.data)?;
    let samples = samples(&config, &dataset)?;
    evaluator(&config, &dataset)?;
    let device = device::choose(config.train.device, 0)?;
    device::check_precision(config.train.precision, device)?;
    let statistics = DatasetStatistics::of(&dataset);
    let steps_per_epoch = samples.steps_per_epoch(config.train.batch_size) as u64;
    let report = serde_json::json!({
        "version": medley_common::VERSION,
        "data_hash": dataset.hash,
        "users": statistics.users,
        "items": statistics.items,
        "interactions": statistics.interactions,
        "samples": samples.samples_per_epoch(),
        "steps_per_epoch": steps_per_epoch,
        "gpus": device::usable_gpus(config.train.device),
        "total_steps": Plan::new(&config, steps_per_epoch).total_steps(),
    });
    Ok(data::cli::print(&format!("{report}\n"))?)
}

fn read(path: &Path) -> Result<RunConfig, TrainError> {
    if path != Path::new("-") {
        return Ok(config::load(path, &[])?);
    }
    let mut text = String::new();
    std::io::stdin()
        .read_to_string(&mut text)
        .map_err(|error| TrainError::Input(format!("standard input: cannot read the configuration: {error}")))?;
    Ok(config::parse(&text, "standard input", &[])?)
}
