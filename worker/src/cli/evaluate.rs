//! `medley-worker evaluate`: the peers of a checkpoint under any protocol.

use super::work::use_threads;
use crate::checkpoint::{Checkpoint, Exported};
use crate::data::{self, Dataset, Split};
use crate::device;
use crate::model::Network;
use crate::train::TrainError;
use crate::train::evaluation::Examiner;
use indicatif::ProgressBar;
use medley_common::config::{self, ConfigError, Override, RunConfig};
use medley_common::manifest::Manifest;
use medley_common::method::METRICS;
use medley_common::run_directory;
use medley_common::summary::Evaluation;
use std::path::{Path, PathBuf};

/// Evaluate the peers of a checkpoint, or an exported peer.
///
/// Examples:
///   medley evaluate --checkpoint runs/demo/checkpoints/step-600
///   medley evaluate --checkpoint runs/demo/checkpoints/step-600 --set 'evaluation.protocols=["full"]' --json
///   medley evaluate --checkpoint s3://bucket/demo/step-600 --config runs/demo/run.toml
///   medley evaluate --checkpoint exported
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Arguments {
    /// A committed checkpoint: a directory with a manifest.json, or s3://BUCKET/PREFIX/step-N; or a directory that
    /// `medley checkpoint export` made.
    #[arg(long)]
    checkpoint: PathBuf,
    /// The configuration of the run; by default run.toml in the run directory that the checkpoint lies in.
    #[arg(long)]
    config: Option<PathBuf>,
    /// Change a setting, for example data.path or evaluation.protocols.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// Which held-out item: `test` (the last) or `valid` (the one before).
    #[arg(long, default_value = "test", value_parser = ["test", "valid"])]
    split: String,
    /// Threads for computing; 0: all cores.
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: &Arguments) -> Result<(), TrainError> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    use_threads(if arguments.threads == 0 { cores } else { arguments.threads });
    let subject = Subject::open(arguments)?;
    let config = &subject.config;
    let dataset = dataset_of(config, &arguments.checkpoint, &subject.data_hash)?;
    let device = device::choose(config.train.device, 0)?;
    let network = Network::draw(config, dataset.items, &subject.peers, device);
    match &subject.source {
        Source::Checkpoint(checkpoint) => checkpoint.restore_network(&network)?,
        Source::Exported(exported) => exported.restore_network(&network)?,
    }
    let split = if arguments.split == "valid" { Split::Valid } else { Split::Test };
    let examiner = Examiner::new(config, &dataset, &arguments.checkpoint)?;
    let mut evaluations = Vec::new();
    // Shown on a terminal only.
    let bar = ProgressBar::new(network.peers.len() as u64);
    for place in 0..network.peers.len() {
        bar.set_message(format!("peer {}", network.peers[place]));
        let evaluated = examiner.peer(&network, place, split, 0, subject.step, &|| Ok(false))?;
        evaluations.extend(evaluated.into_iter().flatten().map(|evaluation| match &subject.source {
            Source::Exported(exported) => Evaluation { subject: exported.model.subject.clone(), ..evaluation },
            Source::Checkpoint(_) => evaluation,
        }));
        bar.inc(1);
    }
    bar.finish_and_clear();
    let text = if arguments.json {
        serde_json::json!({ "evaluations": evaluations }).to_string()
    } else {
        table(&evaluations)
    };
    Ok(data::cli::print(&(text + "\n"))?)
}

/// What is evaluated.
struct Subject {
    source: Source,
    config: RunConfig,
    peers: Vec<u32>,
    step: u64,
    data_hash: String,
}

enum Source {
    Checkpoint(Box<Checkpoint>),
    Exported(Box<Exported>),
}

impl Subject {
    fn open(arguments: &Arguments) -> Result<Self, TrainError> {
        let place = &arguments.checkpoint;
        if Exported::is_at(place) {
            let exported = Exported::open(place)?;
            let model = &exported.model;
            let origin = place.join("model.json").display().to_string();
            let config = changed(&model.config, &config::to_toml(&model.config), &origin, &arguments.overrides)?;
            // An average has a network of one peer, like any other.
            let (peers, step, data_hash) = (model.peers[..1].to_vec(), model.step, model.data_hash.clone());
            return Ok(Self { source: Source::Exported(Box::new(exported)), config, peers, step, data_hash });
        }
        let checkpoint = Checkpoint::open(place)?;
        let manifest = checkpoint.manifest();
        let config = trained_configuration(place, arguments.config.as_deref(), manifest, &arguments.overrides)?;
        let (peers, step, data_hash) = (peers_of(&checkpoint)?, manifest.step, manifest.data_hash.clone());
        Ok(Self { source: Source::Checkpoint(Box::new(checkpoint)), config, peers, step, data_hash })
    }
}

/// The peers of a checkpoint, ascending.
pub fn peers_of(checkpoint: &Checkpoint) -> Result<Vec<u32>, TrainError> {
    let peers = checkpoint.manifest().held_peers();
    if peers.is_empty() {
        return Err(TrainError::Input(format!("{}: the checkpoint holds no peer", checkpoint.place())));
    }
    Ok(peers)
}

/// The data of a configuration, refused where it is not what was trained on.
pub fn dataset_of(config: &RunConfig, checkpoint: &Path, data_hash: &str) -> Result<Dataset, TrainError> {
    let dataset = Dataset::load(&config.data)?;
    if dataset.hash == data_hash {
        return Ok(dataset);
    }
    Err(TrainError::Input(format!(
        "{}: the checkpoint was trained on other data than {}; name that data with --set data.path=FILE",
        checkpoint.display(),
        config.data.path.display()
    )))
}

/// The configuration that a checkpoint was trained with, and on it the changes that were asked for.
pub fn trained_configuration(
    checkpoint: &Path,
    named: Option<&Path>,
    manifest: &Manifest,
    overrides: &[String],
) -> Result<RunConfig, TrainError> {
    let path = match named {
        Some(path) => path.to_owned(),
        None => {
            // Absolute, as a short relative path has no parents to name.
            let absolute = checkpoint.canonicalize().unwrap_or(checkpoint.to_owned());
            let run = absolute.parent().and_then(Path::parent).unwrap_or(Path::new("."));
            let path = run.join(run_directory::CONFIG);
            if !path.is_file() {
                return Err(TrainError::Input(format!(
                    "{}: does not lie in a run directory; name the run.toml that it was trained with by --config FILE",
                    checkpoint.display()
                )));
            }
            path
        }
    };
    let trained = config::load(&path, &[])?;
    let origin = path.display().to_string();
    if config::identity(&trained) != manifest.config_hash {
        return Err(TrainError::Input(format!(
            "{origin}: {} was trained with another configuration; name that one with --config, and changes with --set",
            checkpoint.display()
        )));
    }
    let text = std::fs::read_to_string(&path).map_err(|source| ConfigError::Unreadable { path, source })?;
    changed(&trained, &text, &origin, overrides)
}

/// A configuration with changes, refused where what was trained would no longer fit.
fn changed(trained: &RunConfig, text: &str, origin: &str, overrides: &[String]) -> Result<RunConfig, TrainError> {
    let overrides: Result<Vec<Override>, _> = overrides.iter().map(|text| text.parse()).collect();
    let mut overrides = overrides?;
    // That by which the training chose its best peer need not be among them.
    if let Some(first) = overrides.iter().rev().find_map(first_protocol) {
        overrides.insert(0, format!("train.metric_protocol={first}").parse()?);
    }
    let config = config::parse(text, origin, &overrides)?;
    let kept = [
        ("network", config.network == trained.network),
        ("samples.max_length", config.samples.max_length == trained.samples.max_length),
    ];
    match kept.iter().find(|(_, is_kept)| !is_kept) {
        Some((key, _)) => Err(TrainError::Input(format!(
            "--set {key}: belongs to the checkpoint and cannot be changed in an evaluation; train another run with it"
        ))),
        None => Ok(config),
    }
}

/// The first of the protocols that an override names, where it names any.
fn first_protocol(change: &Override) -> Option<String> {
    let protocols = (change.key == "evaluation.protocols").then_some(change.value.as_array()?)?;
    protocols.first()?.as_str().map(str::to_owned)
}

fn table(evaluations: &[Evaluation]) -> String {
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::NOTHING);
    let mut header = vec!["model".to_owned(), "split".into(), "protocol".into()];
    header.extend(METRICS.map(String::from));
    table.set_header(header);
    for evaluation in evaluations {
        let mut row = vec![evaluation.subject.clone(), evaluation.split.clone(), evaluation.protocol.clone()];
        row.extend(METRICS.map(|metric| match evaluation.metrics.get(metric) {
            Some(estimate) => format!("{:.4} ±{:.4}", estimate.mean, estimate.half_width),
            None => "-".into(),
        }));
        table.add_row(row);
    }
    table.to_string()
}
