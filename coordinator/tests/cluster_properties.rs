//! Random events in random order: what must hold of a job whatever its workers do.

#![allow(clippy::unwrap_used)]

use medley_common::manifest::ManifestFile;
use medley_common::proto;
use medley_coordinator::cluster::*;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::time::Duration;

const WORKERS: u32 = 3;

fn settings(resumed: bool) -> Settings {
    Settings {
        peers: 5,
        workers: WORKERS,
        generation: 2,
        resume: resumed.then(|| Resume { step: 4, directory: "checkpoints/step-4".into(), data_hash: "d".into() }),
        log_every: 3,
        join: Duration::from_millis(2_000),
        death: Duration::from_millis(500),
        verdict: Duration::from_millis(200),
        stop: Duration::from_millis(1_000),
    }
}

/// What a worker may say. Lives that go well must be likely, or nothing deep is ever reached.
fn report() -> impl Strategy<Value = Report> {
    let step = 0u64..12;
    prop_oneof![
        6 => Just(Report::Heartbeat),
        8 => Just(Report::Ready(proto::Ready { data_hash: "d".into(), total_steps: 10, ..Default::default() })),
        8 => prop::collection::vec(step.clone(), 1..6).prop_map(|mut steps| {
            steps.sort_unstable();
            let record = |step| proto::StepRecord { step, ..Default::default() };
            Report::Steps(steps.into_iter().map(record).collect())
        }),
        1 => step.clone().prop_map(|step| Report::ShardsFailed { step, message: "m".into() }),
        4 => step.prop_map(|step| Report::ShardsWritten {
            step,
            staging: "staging".into(),
            files: vec![ManifestFile { name: "f".into(), bytes: 1, sha256: "h".into() }],
            state: String::new(),
        }),
        3 => prop_oneof![Just("steps"), Just("stopped"), Just("early-stopping")].prop_map(|reason| {
            Report::Completed(proto::Completed { reason: reason.into(), ..Default::default() })
        }),
        1 => (any::<bool>(), prop::option::of(0u32..5)).prop_map(|(bad_input, because_of_rank)| {
            Report::Failed { message: "m".into(), bad_input, because_of_rank }
        }),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    // One slot more than there are workers: strangers must do no harm.
    let slot = 0u32..=WORKERS;
    let generation = prop_oneof![10 => Just(2u64), 1 => Just(0), 1 => Just(1), 1 => Just(3)];
    prop_oneof![
        6 => slot.clone().prop_map(|slot| Event::Joined {
            slot,
            process_id: 1,
            address: "a".into(),
            device: "cpu".into(),
        }),
        20 => (slot.clone(), generation, report())
            .prop_map(|(slot, generation, report)| Event::Reported { slot, generation, report }),
        1 => slot.clone().prop_map(|slot| Event::SessionLost { slot, reason: "r".into() }),
        1 => slot.prop_map(|slot| Event::Exited { slot, status: "s".into(), last_words: None }),
        2 => (0u64..12).prop_map(|step| Event::CheckpointCommitted {
            step,
            directory: "d".into(),
            bytes: 1,
        }),
        1 => (0u64..12).prop_map(|step| Event::CheckpointFailed { step, message: "m".into() }),
        1 => Just(Event::StopRequested { reason: "r".into() }),
        6 => Just(Event::Tick),
    ]
}

/// Checks every action as it comes.
#[derive(Default)]
struct Observed {
    assigned: BTreeSet<(u64, u32)>,
    last_progress: u64,
    asked_to_commit: BTreeSet<u64>,
    discarded: BTreeSet<u64>,
    finished: bool,
}

impl Observed {
    fn check(&mut self, actions: &[Action]) {
        for action in actions {
            assert!(!self.finished, "{action:?} after the finish");
            match action {
                Action::Assign { assignment, .. } => {
                    let key = (assignment.generation, assignment.rank);
                    assert!(self.assigned.insert(key), "rank assigned twice: {key:?}");
                    let peers: Vec<u32> = assignment.members.iter().flat_map(|m| m.peers.clone()).collect();
                    assert_eq!(peers, (0..5).collect::<Vec<_>>());
                }
                Action::Progress(step) => {
                    assert!(step.step > self.last_progress, "a step came twice");
                    self.last_progress = step.step;
                }
                Action::CommitCheckpoint(commit) => {
                    assert!(self.asked_to_commit.insert(commit.step) && !self.discarded.contains(&commit.step));
                    assert_eq!(commit.files.len(), WORKERS as usize);
                }
                Action::DiscardCheckpoint { step, .. } => {
                    assert!(self.discarded.insert(*step) && !self.asked_to_commit.contains(step), "{step}");
                }
                Action::Finish(outcome) => {
                    assert!(!outcome.message.is_empty() && !outcome.message.contains('\n'));
                    self.finished = true;
                }
                _ => {}
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn only_a_second_after_the_first_does_a_stop_give_the_checkpoint_up(
        mut echoes in prop::collection::vec(0u64..1_000, 0..8),
        later in 1_000u64..2_000,
    ) {
        let patient = Duration::from_secs(60);
        let mut cluster = Cluster::new(Settings { death: patient, stop: patient, workers: 1, ..settings(false) });
        let joined = Event::Joined { slot: 0, process_id: 1, address: "a".into(), device: "cpu".into() };
        let first = Duration::from_millis(7);
        cluster.apply(Duration::ZERO, joined);
        let stop = || Event::StopRequested { reason: "r".into() };
        let was_sent = matches!(cluster.apply(first, stop())[..], [Action::SendStop { .. }]);
        prop_assert!(was_sent);
        echoes.sort_unstable();
        for echo in echoes {
            prop_assert_eq!(cluster.apply(first + Duration::from_millis(echo), stop()), vec![]);
            let still_waits = matches!(cluster.state(), State::Stopping(Stopping::Asked { .. }));
            prop_assert!(still_waits && !cluster.is_hurried());
        }
        let actions = cluster.apply(first + Duration::from_millis(later), stop());
        prop_assert!(actions.contains(&Action::KillAll) && cluster.is_hurried());
    }

    #[test]
    fn whatever_happens_the_invariants_hold_and_the_job_ends(
        resumed in any::<bool>(),
        all_join in any::<bool>(),
        events in prop::collection::vec((0u64..120, event()), 0..80),
    ) {
        let mut cluster = Cluster::new(settings(resumed));
        let mut observed = Observed::default();
        let mut now = Duration::ZERO;
        let mut committed = cluster.committed_step();
        let joins = (0..WORKERS).filter(|_| all_join).map(|slot| {
            let joined = Event::Joined { slot, process_id: 1, address: "a".into(), device: "cpu".into() };
            (0, joined)
        });
        for (pause, event) in joins.chain(events) {
            now += Duration::from_millis(pause);
            observed.check(&cluster.apply(now, event));
            prop_assert!(cluster.committed_step() >= committed);
            committed = cluster.committed_step();
        }
        // Left alone, a job ends: by silence, by a deadline, or because what it waits for never comes.
        let all_deadlines = Duration::from_millis(2_000 + 2_000 + 500 + 200 + 1_000 + 1_000);
        let end = now + all_deadlines;
        while now < end {
            now += Duration::from_millis(50);
            observed.check(&cluster.apply(now, Event::Tick));
        }
        prop_assert!(observed.finished, "never ended: {:?}", cluster.state());
        prop_assert_eq!(cluster.state(), &State::Ended);
        let late = Event::StopRequested { reason: "r".into() };
        prop_assert_eq!(cluster.apply(now, late), vec![]);
    }
}
