//! A worker dies anywhere; the others and a new one go on as if nothing had been.

#![allow(clippy::unwrap_used)]

mod recovery_cluster;
mod support;

use medley_worker::exchange::Placement;
use medley_worker::train::{Entry, Material, Origin};
use recovery_cluster::channels::Fault;
use recovery_cluster::{Cluster, Left, decide, origins};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use support::{configuration, data};

const STEPS: &str = "train.steps=3";

fn fresh(ranks: &[Vec<u32>]) -> Entry {
    Entry::fresh(&Placement::new(ranks.to_vec(), 0).unwrap())
}

fn all_peers(ranks: &[Vec<u32>]) -> BTreeSet<u32> {
    ranks.iter().flatten().copied().collect()
}

fn material(directory: &Path, overrides: &[&str]) -> Material {
    let mut all = vec![STEPS];
    all.extend(overrides);
    Material::load(configuration(&data(directory), &all)).unwrap()
}

/// What a training comes to.
#[derive(Debug, PartialEq)]
struct Result {
    states: BTreeMap<String, Vec<f32>>,
    losses: BTreeMap<(u32, u64), f64>,
    evaluations: BTreeMap<(String, String, String, u64, String), f64>,
    best: (Option<f64>, u64, Option<u64>),
}

fn result(cluster: &Cluster<'_>) -> Result {
    let state = cluster.workers[0].trainer.state();
    Result {
        states: cluster.states(),
        losses: cluster.losses(),
        evaluations: cluster.evaluations(),
        best: (state.best_metric, state.best_step, state.validated_step),
    }
}

/// Replaces whoever died, and lets the job go on, until it is completed. `faults` are those of the generations after the
/// first.
fn recover(cluster: &mut Cluster<'_>, ranks: &[Vec<u32>], mut left: Vec<Left>, faults: &[Fault]) {
    let mut faults = faults.iter().copied();
    for _ in 0..10 {
        if left.iter().all(|left| matches!(left, Left::Completed(_))) {
            return;
        }
        let reports = cluster.abandon(&left);
        for (worker, report) in reports.iter().enumerate() {
            if report.is_none() {
                cluster.replace(worker);
            }
        }
        let entry = match decide(&reports) {
            None | Some(0) => fresh(ranks),
            // Where host and buddy are lost there is no checkpoint in these tests but the beginning.
            Some(step) => origins(&reports, &all_peers(ranks), step).unwrap_or_else(|| fresh(ranks)),
        };
        left = cluster.generation(ranks, &entry, faults.next());
    }
    panic!("no end: {left:?}");
}

/// The result without a fault, and the calls that it takes.
fn undisturbed(material: &Material, directory: &Path, ranks: &[Vec<u32>]) -> (Result, usize) {
    let mut cluster = Cluster::new(material, directory, ranks.len());
    let left = cluster.generation(ranks, &fresh(ranks), None);
    assert!(left.iter().all(|left| matches!(left, Left::Completed(_))), "{left:?}");
    (result(&cluster), cluster.calls)
}

/// Every rank dies at every call, after every number of messages.
fn dies_everywhere(ranks: &[Vec<u32>], overrides: &[&str]) {
    let directory = tempfile::tempdir().unwrap();
    let material = material(directory.path(), overrides);
    let (expected, calls) = undisturbed(&material, directory.path(), ranks);
    let mut forward = 0;
    for call in 0..calls {
        for rank in 0..ranks.len() {
            for sent in 0..ranks.len() {
                let fault = Fault { rank, call, sent };
                let mut cluster = Cluster::new(&material, directory.path(), ranks.len());
                let left = cluster.generation(ranks, &fresh(ranks), Some(fault));
                assert_eq!(left[rank], Left::Dead, "{fault:?}");
                let steps: BTreeSet<u64> = left.iter().filter_map(Left::suspended).map(|s| s.step).collect();
                forward += usize::from(steps.len() > 1);
                recover(&mut cluster, ranks, left, &[]);
                assert!(result(&cluster) == expected, "{fault:?} changes what is learned");
            }
        }
    }
    let divided = ranks.len() > 2;
    assert!(forward > 0 || !divided, "some faults let one survivor commit and another not");
}

fn one_each(workers: u32) -> Vec<Vec<u32>> {
    (0..workers).map(|peer| vec![peer]).collect()
}

#[test]
fn two_workers_with_noise_filter() {
    dies_everywhere(&one_each(2), &["cohort.peers=2", "method.beta=0.2"]);
}

#[test]
fn three_workers() {
    dies_everywhere(&one_each(3), &["cohort.peers=3"]);
}

#[test]
fn four_workers_that_host_seven_peers_by_distributions() {
    let ranks = [vec![6, 0], vec![1], vec![2, 3], vec![4, 5]];
    dies_everywhere(&ranks, &["cohort.peers=7", "exchange.mode=distributions", "train.steps=2"]);
}

#[test]
fn three_workers_by_logits_with_textbook_moments_that_are_cleared() {
    let settings = ["method.name=peerrec", "method.stage_1_share=0.4", "optimizer.variant=textbook"];
    let mut all = vec!["cohort.peers=3", "exchange.mode=logits"];
    all.extend(settings);
    dies_everywhere(&one_each(3), &all);
}

#[test]
fn with_patience_and_validations() {
    let settings = [
        "cohort.peers=3",
        "train.evaluate_every=1",
        "train.patience=2",
        "optimizer.learning_rate=0.5",
        "optimizer.schedule=constant",
        "optimizer.warmup_steps=0",
    ];
    dies_everywhere(&one_each(3), &settings);
}

/// A second worker dies while the first is being replaced.
#[test]
fn a_death_in_the_recovery_from_another() {
    let directory = tempfile::tempdir().unwrap();
    let ranks = one_each(3);
    let material = material(directory.path(), &["cohort.peers=3", "train.evaluate_every=1", "train.patience=5"]);
    let (expected, calls) = undisturbed(&material, directory.path(), &ranks);
    // In the second step: what was prepared is to be dropped, or committed.
    for first in [calls / 2, calls / 2 + 1, calls / 2 + 2] {
        for call in 0..12 {
            for rank in 0..3 {
                for sent in [0, 1] {
                    let mut cluster = Cluster::new(&material, directory.path(), ranks.len());
                    let fault = Fault { rank: 0, call: first, sent: 1 };
                    let left = cluster.generation(&ranks, &fresh(&ranks), Some(fault));
                    let second = Fault { rank, call, sent };
                    recover(&mut cluster, &ranks, left, &[second]);
                    assert!(result(&cluster) == expected, "{fault:?}, then {second:?}");
                }
            }
        }
    }
}

#[test]
fn a_worker_lost_after_the_work_is_done_is_replaced_and_evaluated_by_its_replacement_alone() {
    let directory = tempfile::tempdir().unwrap();
    let ranks = one_each(2);
    let settings = ["cohort.peers=2", "train.evaluate_every=1", "train.patience=9", "optimizer.learning_rate=0.5"];
    let material = material(directory.path(), &settings);
    let (expected, _) = undisturbed(&material, directory.path(), &ranks);
    let mut cluster = Cluster::new(&material, directory.path(), 2);
    let mut left = cluster.generation(&ranks, &fresh(&ranks), None);
    left[1] = Left::Dead;
    let before = cluster.workers[0].recorder.evaluations.len();
    recover(&mut cluster, &ranks, left, &[]);
    assert!(result(&cluster) == expected);
    assert_eq!(cluster.workers[0].recorder.evaluations.len(), before, "nothing is evaluated twice");
    assert!(cluster.workers[1].recorder.evaluations.iter().any(|e| e.split == "test"));
}

#[test]
fn copies_are_their_originals_after_every_step() {
    let directory = tempfile::tempdir().unwrap();
    let ranks = [vec![2, 0], vec![1], vec![3]];
    for steps in 1..=4 {
        let material = material(directory.path(), &["cohort.peers=4", &format!("train.steps={steps}")]);
        let mut cluster = Cluster::new(&material, directory.path(), 3);
        cluster.generation(&ranks, &fresh(&ranks), None);
        // Each of these has an original and a copy, which `states` finds equal.
        assert_eq!(cluster.states().len(), 5);
        let copies =
            cluster.workers.iter().map(|w| w.trainer.learner().unwrap().copies.iter().map(|c| c.peer).collect());
        assert_eq!(copies.collect::<Vec<Vec<u32>>>(), [vec![3], vec![2, 0], vec![1]]);
    }
}

/// Largest difference of losses that both have.
fn apart(one: &BTreeMap<(u32, u64), f64>, other: &BTreeMap<(u32, u64), f64>) -> f64 {
    let both = one.iter().filter_map(|(key, loss)| Some((loss, other.get(key)?)));
    both.map(|(one, other)| (one - other).abs() / one.abs()).fold(0.0, f64::max)
}

/// Lets a training pause after some steps of its first generation.
fn until(cluster: &mut Cluster<'_>, ranks: &[Vec<u32>], entry: &Entry, step: u64) -> Vec<Left> {
    cluster.workers.iter_mut().for_each(|worker| worker.recorder.pause_after = Some(step));
    let left = cluster.generation(ranks, entry, None);
    cluster.workers.iter_mut().for_each(|worker| worker.recorder.pause_after = None);
    assert!(
        left.iter().all(|left| left.suspended().is_some_and(|s| s.step == step && s.reason == "paused")),
        "{left:?}"
    );
    left
}

#[test]
fn peers_that_move_between_workers_go_on_as_they_were() {
    let directory = tempfile::tempdir().unwrap();
    let material = material(directory.path(), &["cohort.peers=3", "train.steps=6"]);
    let ranks = one_each(3);
    let (expected, _) = undisturbed(&material, directory.path(), &ranks);
    let mut cluster = Cluster::new(&material, directory.path(), 3);
    let left = until(&mut cluster, &ranks, &fresh(&ranks), 2);
    // All on other ranks than before, and one worker leaves.
    let moved = [vec![1, 2], vec![0]];
    let reports = cluster.abandon(&left);
    let entry = origins(&reports, &all_peers(&moved), 2).unwrap();
    let from = |peer| entry.peers[&peer].clone();
    assert_eq!([from(0), from(1), from(2)], [Origin::Rank(0), Origin::Rank(1), Origin::Rank(2)]);
    // The third worker is not in the new group: its peer comes from its buddy.
    let gone = cluster.workers.pop().unwrap();
    cluster.buried.push(gone.recorder);
    let entry = origins(&reports[..2], &all_peers(&moved), 2).unwrap();
    let left = cluster.generation(&moved, &entry, None);
    assert!(left.iter().all(|left| matches!(left, Left::Completed(_))), "{left:?}");
    let worst = apart(&expected.losses, &cluster.losses());
    assert!(worst < 1e-5, "{worst:e}");
    assert_eq!(expected.losses.len(), cluster.losses().len());
}

#[test]
fn a_lost_peer_comes_back_with_what_its_buddy_kept() {
    let directory = tempfile::tempdir().unwrap();
    let material = material(directory.path(), &["cohort.peers=3", "train.steps=8"]);
    let ranks = one_each(3);
    let mut cluster = Cluster::new(&material, directory.path(), 3);
    let mut left = until(&mut cluster, &ranks, &fresh(&ranks), 2);
    // Rank 1 dies; its buddy is rank 2. The others go on at once.
    left[1] = Left::Dead;
    let lost = cluster.workers.remove(1);
    let kept = lost.trainer.learner().unwrap().held(2, None).remove(0).state.to_floats(false);
    left.remove(1);
    let reports = cluster.abandon(&left);
    let two = [vec![0], vec![2]];
    let entry = origins(&reports, &all_peers(&two), 2).unwrap();
    let left = until(&mut cluster, &two, &entry, 5);
    let reports = cluster.abandon(&left);
    let replicas = &reports[1].as_ref().unwrap().replicas;
    assert!(replicas.iter().any(|replica| (replica.peer, replica.step) == (1, 2)), "{replicas:?}");
    // A third one again, which hosts the peer that was lost.
    cluster.add_worker();
    let mut entry = origins(&reports, &all_peers(&two), 5).unwrap();
    entry.peers.insert(1, Origin::Rank(1));
    let back = [vec![0], vec![2], vec![1]];
    cluster.workers.iter_mut().for_each(|worker| worker.recorder.pause_after = Some(6));
    let trained =
        cluster.generation(&back, &Entry { step: 5, ..entry.clone() }, Some(Fault { rank: 0, call: 3, sent: 0 }));
    // Died at the first call after the entry: what the others hold is what they entered with.
    assert_eq!(trained[0], Left::Dead);
    let returned = cluster.workers[2].trainer.learner().unwrap().held(5, None).remove(0);
    assert_eq!((returned.peer, returned.state.to_floats(false)), (1, kept));
}

#[test]
fn a_new_peer_is_drawn_or_copied_with_noise() {
    let directory = tempfile::tempdir().unwrap();
    let material = material(directory.path(), &["cohort.peers=2", "train.steps=6"]);
    for copied in [false, true] {
        let ranks = one_each(2);
        let mut cluster = Cluster::new(&material, directory.path(), 2);
        let left = until(&mut cluster, &ranks, &fresh(&ranks), 3);
        let reports = cluster.abandon(&left);
        let mut entry = origins(&reports, &all_peers(&ranks), 3).unwrap();
        let origin = if copied { Origin::Copy { peer: 1, rank: 1, noise: 0.01 } } else { Origin::Fresh };
        entry.peers.insert(7, origin);
        let more = [vec![0, 7], vec![1]];
        // What it begins with: its host fails in the call after the entry, which moves a state only for a copy.
        let fault = Fault { rank: 0, call: if copied { 4 } else { 3 }, sent: 0 };
        let entered = cluster.generation(&more, &entry, Some(fault));
        assert_eq!(entered[0], Left::Dead);
        assert!(cluster.workers.iter().all(|worker| worker.trainer.step() == 3));
        let held = cluster.workers[0].trainer.learner().unwrap().held(3, None);
        let flat = |peer| held.iter().find(|held| held.peer == peer).unwrap().state.to_floats(false);
        let (new, source) = (flat(7), flat(1));
        let length = new.len() / 3;
        assert!(new[length..].iter().all(|moment| *moment == 0.0), "moments begin at 0");
        let size = |values: &[f32]| values.iter().map(|value| f64::from(value * value)).sum::<f64>().sqrt();
        let difference: Vec<f32> = new[..length].iter().zip(&source).map(|(new, source)| new - source).collect();
        let share = size(&difference) / size(&source[..length]);
        match copied {
            true => assert!((share - 0.01).abs() < 1e-3, "{share}"),
            false => assert!(share > 0.1, "{share}"),
        }
        let left = cluster.generation(&more, &entry, None);
        assert!(left.iter().all(|left| matches!(left, Left::Completed(_))), "{left:?}");
        let losses = cluster.losses();
        let steps: Vec<u64> = losses.keys().filter(|(peer, _)| *peer == 7).map(|(_, step)| *step).collect();
        assert_eq!(steps, [4, 5, 6], "it takes part in the steps after it came");
        assert_eq!(cluster.states().len(), 4);
    }
}

#[test]
fn the_schedule_pauses_all_workers_at_its_step_and_once() {
    let directory = tempfile::tempdir().unwrap();
    let schedule = "cohort.schedule=[{ step = 2, peers = 3 }, { step = 4, peers = 2 }]";
    let material = material(directory.path(), &["cohort.peers=2", "train.steps=6", schedule]);
    let ranks = one_each(2);
    let run = directory.path().join("run");
    let mut cluster = Cluster::new(&material, &run, 2);
    let left = cluster.generation(&ranks, &fresh(&ranks), None);
    assert!(
        left.iter().all(|l| l.suspended().is_some_and(|s| (s.step, s.reason.as_str()) == (2, "schedule"))),
        "{left:?}"
    );
    assert!(cluster.workers.iter().all(|worker| worker.recorder.shards.last().unwrap().step == 2), "with a checkpoint");
    // Of a generation that comes back to that checkpoint the change is still to come.
    let recorders: Vec<support::Recorder> =
        cluster.workers.iter_mut().map(|worker| std::mem::take(&mut worker.recorder)).collect();
    let checkpoint = support::commit(&material.config, &run, &recorders, 2);
    cluster.buried.extend(recorders);
    let entry = Entry::checkpoint(&Placement::new(ranks.clone(), 0).unwrap(), &checkpoint).unwrap();
    let left = cluster.generation(&ranks, &entry, None);
    assert!(
        left.iter().all(|l| l.suspended().is_some_and(|s| (s.step, s.reason.as_str()) == (2, "schedule"))),
        "{left:?}"
    );
    // Entered again with the T that it had, it does not stop at the same place for ever.
    let reports = cluster.abandon(&left);
    let entry = origins(&reports, &all_peers(&ranks), 2).unwrap();
    let left = cluster.generation(&ranks, &entry, None);
    assert!(left.iter().all(|left| matches!(left, Left::Completed(_))), "two peers are what step 4 wants: {left:?}");
}

#[test]
fn host_and_buddy_lost_together_are_replayed_from_the_checkpoint() {
    let directory = tempfile::tempdir().unwrap();
    let run = directory.path().join("run");
    let settings =
        ["cohort.peers=3", "train.steps=6", "train.checkpoint_every=2", "train.evaluate_every=2", "train.patience=9"];
    let material = material(directory.path(), &settings);
    let ranks = one_each(3);
    let (expected, _) = undisturbed(&material, directory.path(), &ranks);
    let mut cluster = Cluster::new(&material, &run, 3);
    cluster.workers.iter_mut().for_each(|worker| worker.recorder.pause_with_checkpoint = true);
    let left = until(&mut cluster, &ranks, &fresh(&ranks), 2);
    let recorders: Vec<support::Recorder> =
        cluster.workers.iter_mut().map(|worker| std::mem::take(&mut worker.recorder)).collect();
    let checkpoint = support::commit(&material.config, &run, &recorders, 2);
    cluster.workers.iter_mut().zip(recorders).for_each(|(worker, recorder)| worker.recorder = recorder);
    let entry = origins(&cluster.abandon(&left), &all_peers(&ranks), 2).unwrap();
    let left = until(&mut cluster, &ranks, &entry, 3);
    let mut reports = cluster.abandon(&left);
    for rank in [0, 1] {
        cluster.replace(rank);
        reports[rank] = None;
    }
    assert!(origins(&reports, &all_peers(&ranks), 3).is_none(), "peer 0 was on ranks 0 and 1 alone");
    let placement = Placement::new(ranks.clone(), 0).unwrap();
    let entry = Entry::checkpoint(&placement, &checkpoint).unwrap();
    let left = cluster.generation(&ranks, &entry, None);
    assert!(left.iter().all(|left| matches!(left, Left::Completed(_))), "{left:?}");
    assert!(result(&cluster) == expected);
}

#[test]
fn an_assignment_that_nobody_can_follow_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let material = material(directory.path(), &["cohort.peers=2"]);
    let placement = Placement::new(vec![vec![0, 1]], 0).unwrap();
    let fresh = Entry::fresh(&placement);
    let peers = |peers: [(u32, Origin); 2]| Entry { peers: peers.into(), ..fresh.clone() };
    let cases = [
        (Entry { shared: Origin::Rank(0), ..fresh.clone() }, "does not hold them"),
        (Entry { shared: Origin::Rank(4), ..fresh.clone() }, "cannot come from"),
        (peers([(0, Origin::Fresh), (1, Origin::Rank(0))]), "does not hold it"),
        (peers([(0, Origin::Fresh), (1, Origin::Rank(9))]), "does not exist"),
        (peers([(0, Origin::Fresh), (3, Origin::Fresh)]), "peer 3"),
        (Entry { peers: [(0, Origin::Fresh)].into(), ..fresh.clone() }, "peer 1"),
    ];
    for (entry, expected) in cases {
        let mut cluster = Cluster::new(&material, directory.path(), 1);
        let collective = medley_worker::collective::LocalCollective::new(1, Default::default());
        let mut exchange =
            medley_worker::exchange::Exchange::new(Box::new(collective), placement.clone(), &material.config);
        let worker = &mut cluster.workers[0];
        let error = worker.trainer.enter(&mut exchange, &entry, &mut worker.recorder).unwrap_err();
        assert!(error.to_string().contains(expected), "{entry:?}: {error}");
        assert!(!error.is_of_the_group() && !error.is_bad_input());
    }
}
