//! Workers of one process that live through generations, and the least coordinator that can lead them.

#![allow(dead_code)]

pub mod channels;

use crate::support::Recorder;
use channels::{DEAD, Fault, group};
use medley_common::proto;
use medley_worker::collective::CollectiveError;
use medley_worker::exchange::{Exchange, Placement};
use medley_worker::train::holdings::State;
use medley_worker::train::{Ending, Entry, Material, Origin, TrainError, Trainer};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// A worker process: what outlives a generation. A dead one's place gets a new one.
pub struct Worker<'a> {
    pub trainer: Trainer<'a>,
    /// Reports of this process.
    pub recorder: Recorder,
}

/// How a worker left a generation.
#[derive(Debug, Clone, PartialEq)]
pub enum Left {
    Completed(proto::Completed),
    Suspended(proto::Suspended),
    Dead,
}

impl Left {
    pub fn suspended(&self) -> Option<&proto::Suspended> {
        match self {
            Self::Suspended(suspended) => Some(suspended),
            _ => None,
        }
    }
}

/// All workers of a job.
pub struct Cluster<'a> {
    material: &'a Material,
    run_directory: PathBuf,
    pub workers: Vec<Worker<'a>>,
    /// Reports of processes that are gone.
    pub buried: Vec<Recorder>,
    pub generation: u64,
    /// Collective calls of the last generation.
    pub calls: usize,
}

impl<'a> Cluster<'a> {
    pub fn new(material: &'a Material, run_directory: &Path, workers: usize) -> Self {
        let mut cluster = Self {
            material,
            run_directory: run_directory.to_owned(),
            workers: Vec::new(),
            buried: Vec::new(),
            generation: 0,
            calls: 0,
        };
        (0..workers).for_each(|_| cluster.add_worker());
        cluster
    }

    pub fn add_worker(&mut self) {
        let trainer = Trainer::new(self.material, tch::Device::Cpu, &self.run_directory);
        self.workers.push(Worker { trainer, recorder: Recorder::default() });
    }

    /// Puts a new process in the place of a dead one.
    pub fn replace(&mut self, worker: usize) {
        self.add_worker();
        self.buried.push(self.workers.swap_remove(worker).recorder);
    }

    /// One generation of the first workers, from its entry to its end.
    pub fn generation(&mut self, ranks: &[Vec<u32>], entry: &Entry, fault: Option<Fault>) -> Vec<Left> {
        self.generation += 1;
        let (groups, calls) = group(ranks.len(), self.generation, fault);
        let config = &self.material.config;
        let left = std::thread::scope(|scope| {
            let workers: Vec<_> = self
                .workers
                .iter_mut()
                .zip(groups)
                .enumerate()
                .map(|(rank, (worker, collective))| {
                    scope.spawn(move || {
                        let placement = Placement::new(ranks.to_vec(), rank).unwrap();
                        let mut exchange = Exchange::new(Box::new(collective), placement, config);
                        let Worker { trainer, recorder } = worker;
                        let outcome = trainer
                            .enter(&mut exchange, entry, recorder)
                            .and_then(|()| trainer.run(&mut exchange, recorder));
                        match outcome {
                            Ok(Ending::Completed(completed)) => Left::Completed(completed),
                            Ok(Ending::Paused(reason)) => Left::Suspended(trainer.suspended(reason, None)),
                            Err(TrainError::Collective(CollectiveError::Aborted { reason })) if reason == DEAD => {
                                Left::Dead
                            }
                            Err(error) if error.is_of_the_group() => {
                                Left::Suspended(trainer.suspended(&error.to_string(), error.because_of_rank()))
                            }
                            Err(error) => panic!("rank {rank}: {error}"),
                        }
                    })
                })
                .collect();
            workers.into_iter().map(|worker| worker.join().unwrap()).collect()
        });
        self.calls = *calls.lock().unwrap();
        left
    }

    /// What the workers of a generation in which some died report, once those that completed have heard of it.
    pub fn abandon(&mut self, left: &[Left]) -> Vec<Option<proto::Suspended>> {
        left.iter()
            .zip(&self.workers)
            .map(|(left, worker)| match left {
                Left::Suspended(suspended) => Some(suspended.clone()),
                Left::Completed(_) => Some(worker.trainer.suspended("aborted", None)),
                Left::Dead => None,
            })
            .collect()
    }

    /// Everything the workers hold at the end, by what it is: values and moments.
    pub fn states(&self) -> BTreeMap<String, Vec<f32>> {
        let mut states = BTreeMap::new();
        let mut note = |name: String, state: &State| {
            let floats = state.to_floats(false);
            if let Some(before) = states.insert(name.clone(), floats.clone()) {
                assert!(before == floats, "{name} is not everywhere the same");
            }
        };
        for worker in &self.workers {
            let learner = worker.trainer.learner().unwrap();
            note("shared".into(), &learner.shared_state(None));
            learner.held(0, None).iter().for_each(|held| note(format!("peer-{}", held.peer), &held.state));
        }
        states
    }

    /// Every report of every process, those that died included.
    pub fn recorders(&self) -> impl Iterator<Item = &Recorder> {
        self.buried.iter().chain(self.workers.iter().map(|worker| &worker.recorder))
    }

    /// The total loss of each peer in each step, as it was reported; repetitions must agree.
    pub fn losses(&self) -> BTreeMap<(u32, u64), f64> {
        let mut losses = BTreeMap::new();
        for record in self.recorders().flat_map(|recorder| &recorder.steps) {
            for loss in &record.losses {
                let before = losses.insert((loss.peer, record.step), loss.total);
                assert!(before.is_none_or(|before| before == loss.total), "step {} has two courses", record.step);
            }
        }
        losses
    }

    /// Means of all evaluations of peers, by subject, split, protocol, step and metric; repetitions must agree.
    pub fn evaluations(&self) -> BTreeMap<(String, String, String, u64, String), f64> {
        let mut all = BTreeMap::new();
        let evaluations = self.recorders().flat_map(|recorder| &recorder.evaluations);
        for e in evaluations.filter(|e| e.subject.starts_with("peer-")) {
            for metric in &e.metrics {
                let key = (e.subject.clone(), e.split.clone(), e.protocol.clone(), e.step, metric.name.clone());
                let before = all.insert(key, metric.mean);
                assert!(before.is_none_or(|before| before == metric.mean), "{e:?} was evaluated differently before");
            }
        }
        all
    }
}

/// The step at which the survivors go on: the one that somebody committed, or the next one where all have prepared it.
/// Checks what makes this decision right.
pub fn decide(reports: &[Option<proto::Suspended>]) -> Option<u64> {
    let survivors: Vec<&proto::Suspended> =
        reports.iter().flatten().filter(|report| !report.state.is_empty()).collect();
    let most = survivors.iter().map(|report| report.step).max()?;
    for behind in survivors.iter().filter(|report| report.step < most) {
        assert!(behind.step + 1 == most && behind.is_prepared, "it can follow: {behind:?}, others are at {most}");
    }
    let in_front = survivors.iter().all(|report| report.step == most);
    Some(if in_front && survivors.iter().all(|report| report.is_prepared) { most + 1 } else { most })
}

/// Where the peers of a placement come from, when the survivors go on at `step`; nothing where one of them is lost.
pub fn origins(reports: &[Option<proto::Suspended>], peers: &BTreeSet<u32>, step: u64) -> Option<Entry> {
    let with_state = |report: &proto::Suspended| !report.state.is_empty();
    let shared = reports.iter().position(|report| report.as_ref().is_some_and(with_state))?;
    let host = |peer: u32| reports.iter().position(|report| report.as_ref().is_some_and(|r| r.peers.contains(&peer)));
    let copy = |peer: u32| {
        let has = |report: &proto::Suspended| {
            // A copy of a worker that goes forward goes with it.
            let right =
                |replica: &proto::Replica| replica.step == step || (report.is_prepared && replica.step == report.step);
            report.replicas.iter().any(|replica| replica.peer == peer && right(replica))
        };
        reports.iter().position(|report| report.as_ref().is_some_and(has))
    };
    let origins = peers.iter().map(|peer| Some((*peer, Origin::Rank(host(*peer).or_else(|| copy(*peer))?))));
    Some(Entry { shared: Origin::Rank(shared), peers: origins.collect::<Option<_>>()?, step, checkpoint_step: None })
}
