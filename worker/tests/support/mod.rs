//! Trains a small cohort inside one process: a thread for each worker, loopback between them.
//!
//! Dropout is on: its masks come from no generator that threads could share. Real processes are in the crate
//! `integration-tests`.

#![allow(clippy::unwrap_used, dead_code)]

use medley_common::config::{self, RunConfig};
use medley_common::manifest::{self, Manifest, ManifestFile};
use medley_common::proto;
use medley_worker::collective::{
    AbortHandle, Collective, Listener, LocalCollective, Membership, Options, TcpCollective,
};
use medley_worker::data::Dataset;
use medley_worker::data::generate::{GenerateOptions, generate};
use medley_worker::exchange::{Exchange, Placement};
use medley_worker::train::{Ending, Entry, Material, Reporter, Trainer};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What one worker reported.
#[derive(Default)]
pub struct Recorder {
    pub steps: Vec<proto::StepRecord>,
    pub evaluations: Vec<proto::Evaluation>,
    pub shards: Vec<proto::ShardsWritten>,
    pub failed_shards: Vec<proto::ShardsFailed>,
    pub stop_after: Option<u64>,
    /// Asks for a pause with this step.
    pub pause_after: Option<u64>,
    /// And for a checkpoint before it.
    pub pause_with_checkpoint: bool,
    pub completed: Option<proto::Completed>,
}

impl Reporter for Recorder {
    fn ready(&mut self, _: proto::Ready) {}
    fn step(&mut self, record: proto::StepRecord) {
        self.steps.push(record);
    }
    fn evaluation(&mut self, evaluation: proto::Evaluation) {
        self.evaluations.push(evaluation);
    }
    fn shards(&mut self, shards: proto::ShardsWritten) {
        self.shards.push(shards);
    }
    fn shards_failed(&mut self, failed: proto::ShardsFailed) {
        self.failed_shards.push(failed);
    }
    fn stop_requested(&self) -> bool {
        self.stop_after.is_some_and(|step| self.steps.len() as u64 + 1 >= step)
    }
    fn pause_requested(&self) -> Option<proto::Pause> {
        let next = self.steps.last().map_or(0, |record| record.step) + 1;
        self.pause_after
            .is_some_and(|step| next >= step)
            .then_some(proto::Pause { checkpoint: self.pause_with_checkpoint })
    }
}

/// A data file of a few users, made once for a test.
pub fn data(directory: &Path) -> PathBuf {
    let file = directory.join("data.txt");
    let options = GenerateOptions { users: 60, items: 100, mean_length: 12, ..GenerateOptions::default() };
    generate(&file, &options, true).unwrap();
    file
}

/// A small configuration; `overrides` as on the command line.
pub fn configuration(data: &Path, overrides: &[&str]) -> RunConfig {
    let text = format!(
        "[data]\npath = {:?}\n[network]\ndimension = 16\nfeed_forward = 32\ndropout = 0.2\n[samples]\nmax_length = 12\n\
         copies = 3\n[train]\nsteps = 12\nbatch_size = 16\n[optimizer]\nlearning_rate = 0.003\nwarmup_steps = 5\n\
         [evaluation]\nprotocols = [\"uniform99\", \"full\"]\n",
        data.display().to_string()
    );
    let mut all = vec!["evaluation.protocols=[\"full\"]".parse().unwrap()];
    all.extend(overrides.iter().map(|text| text.parse().unwrap()));
    config::parse(&text, "test", &all).unwrap()
}

/// Trains with the given peers on each rank; returns what each rank recorded.
pub fn train(
    config: &RunConfig,
    ranks: &[Vec<u32>],
    run_directory: &Path,
    checkpoint: Option<&Path>,
    stop_after: Option<u64>,
) -> Vec<Recorder> {
    static JOB: AtomicU64 = AtomicU64::new(0);
    let job = format!("test-{}", JOB.fetch_add(1, Ordering::SeqCst));
    let material = Material::load(config.clone()).unwrap();
    let listeners: Vec<Listener> = ranks.iter().map(|_| Listener::bind("127.0.0.1:0").unwrap()).collect();
    let addresses: Vec<String> = listeners.iter().map(|l| l.local_addr().to_string()).collect();
    std::thread::scope(|scope| {
        let workers: Vec<_> = listeners
            .iter()
            .enumerate()
            .map(|(rank, listener)| {
                let (addresses, job, material) = (addresses.clone(), job.clone(), &material);
                scope.spawn(move || {
                    let collective = group(listener, rank, addresses, job);
                    let placement = Placement::new(ranks.to_vec(), rank).unwrap();
                    let entry = match checkpoint {
                        Some(directory) => Entry::checkpoint(&placement, directory).unwrap(),
                        None => Entry::fresh(&placement),
                    };
                    let mut exchange = Exchange::new(collective, placement, &material.config);
                    let mut trainer = Trainer::new(material, tch::Device::Cpu, run_directory);
                    let mut recorder = Recorder { stop_after, ..Recorder::default() };
                    trainer.enter(&mut exchange, &entry, &mut recorder).unwrap();
                    match trainer.run(&mut exchange, &mut recorder).unwrap() {
                        Ending::Completed(completed) => recorder.completed = Some(completed),
                        Ending::Paused(reason) => panic!("paused: {reason}"),
                    }
                    recorder
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).collect()
    })
}

fn group(listener: &Listener, rank: usize, addresses: Vec<String>, job: String) -> Box<dyn Collective> {
    if addresses.len() == 1 {
        return Box::new(LocalCollective::new(1, AbortHandle::new()));
    }
    let membership = Membership { job, generation: 1, rank, addresses, secret: b"secret".to_vec() };
    let options = Options { deadline: Duration::from_secs(60), ..Options::default() };
    Box::new(TcpCollective::connect(listener, &membership, &options, AbortHandle::new()).unwrap())
}

/// The total loss of every peer in every step.
pub fn curves(recorders: &[Recorder]) -> BTreeMap<u32, Vec<f64>> {
    let mut curves: BTreeMap<u32, BTreeMap<u64, f64>> = BTreeMap::new();
    for recorder in recorders {
        for record in &recorder.steps {
            for loss in &record.losses {
                // A host and its buddy report the same.
                let before = curves.entry(loss.peer).or_default().insert(record.step, loss.total);
                assert!(before.is_none_or(|before| before == loss.total), "one loss of a peer in a step");
            }
        }
    }
    curves.into_iter().map(|(peer, losses)| (peer, losses.into_values().collect())).collect()
}

/// Does what the coordinator does when all files of a checkpoint are there.
pub fn commit(config: &RunConfig, run_directory: &Path, recorders: &[Recorder], step: u64) -> PathBuf {
    let parts: Vec<&proto::ShardsWritten> =
        recorders.iter().flat_map(|r| &r.shards).filter(|shards| shards.step == step).collect();
    let state = parts.iter().map(|shards| shards.state.as_str()).find(|state| !state.is_empty()).unwrap();
    let files = parts.iter().flat_map(|shards| &shards.files).map(|file| ManifestFile {
        name: file.name.clone(),
        bytes: file.bytes,
        sha256: file.sha256.clone(),
    });
    let manifest = Manifest {
        format: manifest::FORMAT,
        version: medley_common::VERSION.into(),
        job: "test".into(),
        generation: 1,
        step,
        peers: config.cohort.peers as u32,
        config_hash: String::new(),
        data_hash: Dataset::load(&config.data).unwrap().hash,
        state: serde_json::from_str(state).unwrap(),
        files: files.collect(),
    };
    let staging = run_directory.join(&parts[0].staging);
    std::fs::write(staging.join(manifest::FILE), serde_json::to_vec(&manifest).unwrap()).unwrap();
    let committed = medley_common::run_directory::checkpoint(run_directory, step);
    std::fs::rename(staging, &committed).unwrap();
    committed
}
