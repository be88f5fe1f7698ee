//! `medley-worker export`: one deployable peer out of a checkpoint.

use super::evaluate::{dataset_of, peers_of, trained_configuration};
use super::work::use_threads;
use crate::checkpoint::{Checkpoint, ChosenBy, Exported, ExportedModel};
use crate::data::{self, Dataset, Split};
use crate::device;
use crate::model::Network;
use crate::train::TrainError;
use crate::train::evaluation::Examiner;
use medley_common::config::RunConfig;
use medley_common::manifest::ManifestFile;
use medley_common::summary::Estimate;
use std::path::{Path, PathBuf};
use tch::Tensor;

/// Write one peer of a checkpoint, with the shared parameters, to a directory of its own; `medley checkpoint export` runs this.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// A committed checkpoint: a directory with a manifest.json, or s3://BUCKET/PREFIX/step-N.
    #[arg(long)]
    checkpoint: PathBuf,
    /// The configuration of the run; by default run.toml in the run directory that the checkpoint lies in.
    #[arg(long)]
    config: Option<PathBuf>,
    /// Change where the data is: data.path=FILE.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// Which peer; `best` is the one with the best validation metric.
    #[arg(long, default_value = "best")]
    peer: String,
    /// Export the average of the peers' encoders where its validation metric is better than the best peer's.
    #[arg(long)]
    average: bool,
    /// The directory to make.
    #[arg(long)]
    out: PathBuf,
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
    check_absent(&arguments.out)?;
    let checkpoint = Checkpoint::open(&arguments.checkpoint)?;
    let manifest = checkpoint.manifest();
    let config =
        trained_configuration(&arguments.checkpoint, arguments.config.as_deref(), manifest, &arguments.overrides)?;
    let peers = peers_of(&checkpoint)?;
    let asked = asked_place(&arguments.peer, &peers)?;
    let measures = asked.is_none() || arguments.average;
    if measures && config.data.train_on_validation {
        return Err(TrainError::Input(
            "--peer: data.train_on_validation leaves no items to choose by; name a peer, and leave --average out"
                .into(),
        ));
    }
    let dataset = dataset_of(&config, &arguments.checkpoint, &manifest.data_hash)?;
    let device = device::choose(config.train.device, 0)?;
    let network = Network::draw(&config, dataset.items, &peers, device);
    checkpoint.restore_network(&network)?;

    let ruler = Ruler::new(&config, &dataset, manifest.step);
    let (mut place, mut by) = (asked.unwrap_or(0), None);
    if measures {
        let measured: Result<Vec<ChosenBy>, TrainError> =
            (0..peers.len()).map(|place| ruler.measure(&network, place)).collect();
        let measured = measured?;
        // The lowest number wins a tie, as in the run's summary.
        let best = (0..peers.len())
            .rev()
            .max_by(|one, other| measured[*one].value.mean.total_cmp(&measured[*other].value.mean));
        place = asked.or(best).unwrap_or(0);
        by = Some(measured[place].clone());
    }
    let mut chosen = Choice { subject: format!("peer-{}", peers[place]), peers: vec![peers[place]], by };
    let mut averaged = None;
    let mut exported_network = &network;
    let average;
    if arguments.average {
        average = average_of(&config, dataset.items, &network);
        let by = ruler.measure(&average, 0)?;
        averaged = Some(by.value);
        if chosen.by.as_ref().is_some_and(|best| by.value.mean > best.value.mean) {
            chosen = Choice { subject: "average".into(), peers, by: Some(by) };
            (exported_network, place) = (&average, 0);
        }
    }
    let model = ExportedModel {
        format: 0,
        version: medley_common::VERSION.into(),
        subject: chosen.subject,
        peers: chosen.peers,
        items: dataset.items as u64,
        data_hash: manifest.data_hash.clone(),
        chosen_by: chosen.by,
        job: manifest.job.clone(),
        step: manifest.step,
        checkpoint: checkpoint.place(),
        config: config.clone(),
        file: ManifestFile { name: String::new(), bytes: 0, sha256: String::new() },
    };
    let exported = Exported::write(&arguments.out, exported_network, place, model)
        .map_err(|source| TrainError::Write { path: arguments.out.clone(), source })?;
    let text = if arguments.json {
        json(&exported.model, averaged, &arguments.out).to_string()
    } else {
        sentence(&exported.model, averaged, &arguments.out)
    };
    Ok(data::cli::print(&(text + "\n"))?)
}

struct Choice {
    subject: String,
    peers: Vec<u32>,
    by: Option<ChosenBy>,
}

fn check_absent(out: &Path) -> Result<(), TrainError> {
    match std::fs::read_dir(out).map(Iterator::count) {
        Ok(0) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        _ => Err(TrainError::Input(format!("--out {}: exists; name a directory that does not", out.display()))),
    }
}

/// The place of the peer that was named among those of the checkpoint; nothing for `best`.
fn asked_place(text: &str, peers: &[u32]) -> Result<Option<usize>, TrainError> {
    if text == "best" {
        return Ok(None);
    }
    let named = text.parse::<u32>().ok();
    let place = named.and_then(|peer| peers.iter().position(|other| *other == peer));
    place.map(Some).ok_or_else(|| {
        let peers: Vec<String> = peers.iter().map(u32::to_string).collect();
        TrainError::Input(format!(
            "--peer {text}: the checkpoint has no such peer, but {}; name one of them, or best",
            peers.join(", ")
        ))
    })
}

/// Measures models by what the run chooses its best peer by.
struct Ruler<'a> {
    config: RunConfig,
    dataset: &'a Dataset,
    step: u64,
}

impl<'a> Ruler<'a> {
    fn new(config: &RunConfig, dataset: &'a Dataset, step: u64) -> Self {
        let mut config = config.clone();
        // Nothing else is shown.
        config.evaluation.protocols = vec![config.metric_protocol()];
        Self { config, dataset, step }
    }

    fn measure(&self, network: &Network, place: usize) -> Result<ChosenBy, TrainError> {
        let examiner = Examiner::new(&self.config, self.dataset, Path::new(""))?;
        let evaluations = examiner.peer(network, place, Split::Valid, 0, self.step, &|| Ok(false))?;
        let metric = self.config.train.metric.clone();
        let evaluation = evaluations.into_iter().flatten().next();
        let value = evaluation.as_ref().and_then(|evaluation| evaluation.metrics.get(&metric).copied());
        match (evaluation, value) {
            (Some(evaluation), Some(value)) => Ok(ChosenBy {
                metric,
                protocol: evaluation.protocol,
                split: evaluation.split,
                users: evaluation.users,
                value,
            }),
            _ => Err(TrainError::Input(format!("train.metric: {metric} was not measured"))),
        }
    }
}

/// A network of one peer, whose encoder is the mean of all encoders of another.
fn average_of(config: &RunConfig, items: usize, network: &Network) -> Network {
    let average = Network::draw(config, items, &network.peers[..1], network.shared.parameters.values().device());
    let encoders: Vec<&Tensor> = network.encoders.iter().map(|encoder| encoder.parameters.values()).collect();
    let _guard = tch::no_grad_guard();
    average.shared.parameters.values().shallow_clone().copy_(network.shared.parameters.values());
    let mean = Tensor::stack(&encoders, 0).to_kind(tch::Kind::Double).mean_dim(0, false, None);
    average.encoders[0].parameters.values().shallow_clone().copy_(&mean);
    average
}

fn json(model: &ExportedModel, averaged: Option<Estimate>, out: &Path) -> serde_json::Value {
    serde_json::json!({
        "directory": out,
        "subject": model.subject,
        "peers": model.peers,
        "step": model.step,
        "checkpoint": model.checkpoint,
        "chosen_by": model.chosen_by,
        "average": averaged,
        "bytes": model.file.bytes,
    })
}

fn sentence(model: &ExportedModel, averaged: Option<Estimate>, out: &Path) -> String {
    let measured =
        model.chosen_by.as_ref().map(|by| (format!("{} ({}, {})", by.metric, by.protocol, by.split), by.value.mean));
    let mut text = format!("exported {} of step {} to {}", model.subject, model.step, out.display());
    match (measured, averaged) {
        (Some((what, mean)), Some(average)) if model.subject != "average" => {
            text +=
                &format!("; the average of the peers is not better by {what}: {:.4} against {mean:.4}", average.mean);
        }
        (Some((what, mean)), Some(_)) => {
            text += &format!("; it is better than the best peer by {what}: {mean:.4}");
        }
        (Some((what, mean)), None) => text += &format!("; {what} {mean:.4}"),
        (None, _) => {}
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_peer_is_named_by_its_number_and_found_by_its_place() {
        let place = |text: &str| asked_place(text, &[0, 2, 5]).map_err(|error| error.to_string());
        assert_eq!(
            [place("best"), place("0"), place("2"), place("5")],
            [Ok(None), Ok(Some(0)), Ok(Some(1)), Ok(Some(2))]
        );
        for absent in ["1", "3", "-1", "last"] {
            let message = place(absent).unwrap_err();
            assert!(message.contains(&format!("--peer {absent}")) && message.contains("0, 2, 5"), "{message}");
        }
    }
}
