//! `medley-worker evaluate`: the peers of a checkpoint under any protocol.

use super::work::use_threads;
use crate::checkpoint::Checkpoint;
use crate::data::{self, Dataset, Split};
use crate::device;
use crate::model::Network;
use crate::train::TrainError;
use crate::train::evaluation::Examiner;
use indicatif::ProgressBar;
use medley_common::config::{self, Override, RunConfig};
use medley_common::manifest::Manifest;
use medley_common::method::METRICS;
use medley_common::run_directory;
use medley_common::summary::Evaluation;
use std::path::{Path, PathBuf};

/// Evaluate the peers of a checkpoint.
///
/// Examples:
///   medley evaluate --checkpoint runs/demo/checkpoints/step-600
///   medley evaluate --checkpoint runs/demo/checkpoints/step-600 --set 'evaluation.protocols=["full"]' --json
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Arguments {
    /// A committed checkpoint: a directory with a manifest.json.
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
    let directory = &arguments.checkpoint;
    let checkpoint = Checkpoint::open(directory)?;
    let config = configuration(arguments, &checkpoint.manifest)?;
    let dataset = Dataset::load(&config.data)?;
    if dataset.hash != checkpoint.manifest.data_hash {
        return Err(TrainError::Input(format!(
            "{}: the checkpoint was trained on other data than {}; name that data with --set data.path=FILE",
            directory.display(),
            config.data.path.display()
        )));
    }
    let device = device::choose(config.train.device, 0)?;
    let peers: Vec<u32> = (0..checkpoint.manifest.peers).collect();
    let network = Network::draw(&config, dataset.items, &peers, device);
    checkpoint.restore_network(&network)?;
    let split = if arguments.split == "valid" { Split::Valid } else { Split::Test };
    let examiner = Examiner::new(&config, &dataset, directory)?;
    let mut evaluations = Vec::new();
    // Shown on a terminal only.
    let bar = ProgressBar::new(network.peers.len() as u64);
    for place in 0..network.peers.len() {
        bar.set_message(format!("peer {}", network.peers[place]));
        let evaluated = examiner.peer(&network, place, split, 0, checkpoint.manifest.step, &|| Ok(false))?;
        evaluations.extend(evaluated.into_iter().flatten());
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

/// The configuration that the checkpoint was trained with, and on it the changes that were asked for.
fn configuration(arguments: &Arguments, manifest: &Manifest) -> Result<RunConfig, TrainError> {
    let path = match &arguments.config {
        Some(path) => path.clone(),
        None => {
            // Absolute, as a short relative path has no parents to name.
            let checkpoint = arguments.checkpoint.canonicalize().unwrap_or(arguments.checkpoint.clone());
            let run = checkpoint.parent().and_then(Path::parent);
            run.unwrap_or(Path::new(".")).join(run_directory::CONFIG)
        }
    };
    let trained = config::load(&path, &[])?;
    if config::identity(&trained) != manifest.config_hash {
        return Err(TrainError::Input(format!(
            "{}: {} was trained with another configuration; name that one with --config, and changes with --set",
            path.display(),
            arguments.checkpoint.display()
        )));
    }
    let overrides: Result<Vec<Override>, _> = arguments.overrides.iter().map(|text| text.parse()).collect();
    let mut overrides = overrides?;
    // That by which the training chose its best peer need not be among them.
    if let Some(first) = overrides.iter().rev().find_map(first_protocol) {
        overrides.insert(0, format!("train.metric_protocol={first}").parse()?);
    }
    let config = config::load(&path, &overrides)?;
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
