//! A peer that was away comes back from the checkpoint that kept it.

#![allow(clippy::unwrap_used)]

mod recovery_cluster;
mod support;

use medley_worker::train::{Entry, Material, Origin};
use recovery_cluster::{Cluster, Left, Worker};
use std::path::Path;
use support::{Recorder, configuration, data};

fn entry_of(peers: &[u32], origin: &Origin, step: u64) -> Entry {
    let peers = peers.iter().map(|peer| (*peer, origin.clone())).collect();
    Entry { shared: origin.clone(), peers, step, checkpoint_step: None }
}

/// Lets a training pause after some steps, with a checkpoint.
fn until(cluster: &mut Cluster<'_>, ranks: &[Vec<u32>], entry: &Entry, step: u64) -> Vec<Recorder> {
    for Worker { recorder, .. } in &mut cluster.workers {
        *recorder = Recorder { pause_after: Some(step), pause_with_checkpoint: true, ..Recorder::default() };
    }
    let left = cluster.generation(ranks, entry, None);
    assert!(left.iter().all(|left| left.suspended().is_some_and(|s| s.step == step)), "{left:?}");
    cluster.workers.iter_mut().map(|worker| std::mem::take(&mut worker.recorder)).collect()
}

/// Trains both peers to step 2, the first alone to step 5, and both to the end, where the second comes back from the
/// checkpoint of step 2. There is no other, none of the best validation either.
fn comes_back(directory: &Path, evaluate_every: u64, best: u64) {
    let every = format!("train.evaluate_every={evaluate_every}");
    // Nothing is learned, so that the first validation stays the best.
    let settings = ["train.steps=6", "train.patience=9", "optimizer.learning_rate=1e-30", "cohort.peers=2", &every];
    let material = Material::load(configuration(&data(directory), &settings)).unwrap();
    let run = directory.join("run");
    let both = [vec![0], vec![1]];
    let mut cluster = Cluster::new(&material, &run, 2);
    let recorders = until(&mut cluster, &both, &entry_of(&[0, 1], &Origin::Fresh, 0), 2);
    let checkpoint = support::commit(&material.config, &run, &recorders, 2);
    cluster.workers.pop();
    until(&mut cluster, &[vec![0]], &entry_of(&[0], &Origin::Rank(0), 2), 5);
    assert_eq!(cluster.workers[0].trainer.state().best_step, best);

    cluster.add_worker();
    let mut back = entry_of(&[0], &Origin::Rank(0), 5);
    back.peers.insert(1, Origin::Checkpoint(checkpoint));
    let left = cluster.generation(&both, &back, None);
    assert!(left.iter().all(|left| matches!(left, Left::Completed(_))), "{left:?}");
    let evaluations = &cluster.workers[1].recorder.evaluations;
    assert!(
        evaluations.iter().any(|e| (e.subject.as_str(), e.split.as_str()) == ("peer-1", "test")),
        "{evaluations:?}"
    );
}

#[test]
fn with_the_best_validation_before_its_checkpoint() {
    comes_back(tempfile::tempdir().unwrap().path(), 1, 1);
}

#[test]
fn with_the_best_validation_while_it_was_away() {
    comes_back(tempfile::tempdir().unwrap().path(), 4, 4);
}
