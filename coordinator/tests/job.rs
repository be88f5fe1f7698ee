//! Whole jobs over real sockets and real processes, with a scripted worker in the place of the real one.
//!
//! The worker binary of these tests is a shell script that runs this very test program again, with the one test
//! [`fake_worker`] selected, which then plays the worker that its environment describes.

#![allow(clippy::unwrap_used)]

mod fake;

use fake::{Scene, lines_of};
use medley_common::events::{Event, Trained};
use medley_common::manifest::{Manifest, TrainingState};
use medley_common::storage::Storage;
use medley_common::{exit, run_directory};
use medley_coordinator::checkpoint;
use std::time::{Duration, Instant};

/// Not a test: the worker process of the others.
#[test]
fn fake_worker() {
    fake::play_if_asked();
}

#[tokio::test]
async fn a_job_lives_its_whole_life() {
    let scene = Scene::new("train");
    let outcome = scene.run(false).await.unwrap();
    assert_eq!((outcome.outcome.as_str(), outcome.exit_code), ("completed", exit::SUCCESS));
    assert_eq!(outcome.step, 6);

    let events = scene.events();
    let names: Vec<&str> = events.iter().map(fake::name).collect();
    assert_eq!(names.first(), Some(&"started"));
    assert_eq!(names.last(), Some(&"finished"));
    for (name, count) in [
        ("joined", 2),
        ("generation", 1),
        ("ready", 1),
        ("step", 3),
        ("evaluation", 2),
        ("checkpoint", 1),
        ("worker completed", 2),
    ] {
        assert_eq!(names.iter().filter(|n| **n == name).count(), count, "{name}: {names:?}");
    }
    let steps: Vec<u64> = events
        .iter()
        .filter_map(|event| match event {
            Event::Step(step) => {
                assert_eq!(step.losses.len(), 2, "one loss a peer");
                Some(step.step)
            }
            _ => None,
        })
        .collect();
    assert_eq!(steps, [2, 4, 6]);
    assert_eq!(scene.progress(), [1, 2, 3, 4, 5, 6]);

    let storage = Storage::of_run(&scene.run_directory(), "").unwrap();
    let manifest: Manifest = checkpoint::verify(&storage, 6).unwrap();
    assert_eq!((manifest.step, manifest.peers, manifest.data_hash.as_str()), (6, 2, "data"));
    let state = TrainingState { best_step: 6, train_seconds: 0.5, rows: 30, bytes_sent: 7, ..Default::default() };
    assert_eq!(manifest.state, state);
    assert_eq!(manifest.files.len(), 3);
    assert!(scene.run_directory().join("run.toml").is_file());
    assert!(lines_of(&scene.run_directory().join("logs/worker-1.log")).iter().any(|line| line.ends_with("released")));
}

#[tokio::test]
async fn a_stopped_job_is_resumed_where_it_stood() {
    let scene = Scene::new("until-stopped");
    let stopper = scene.stop_when(1, |event| matches!(event, Event::Step(_)));
    let outcome = scene.run_with(false, stopper).await.unwrap();
    assert_eq!(outcome.exit_code, exit::INTERRUPTED, "{outcome:?}");
    let (step, _) = run_directory::latest_checkpoint(&scene.run_directory()).unwrap();
    assert_eq!(outcome.step, step);
    let first = scene.events();

    let mut resumed = scene.again("train");
    resumed.config.train.steps = 99;
    let stale = resumed.run_directory().join(checkpoint_staging(77));
    std::fs::create_dir(&stale).unwrap();
    let outcome = resumed.run(true).await.unwrap();
    assert_eq!(outcome.exit_code, exit::SUCCESS, "{outcome:?}");
    assert!(!stale.exists());
    let second = resumed.events();
    let started = |events: &[Event]| match &events[0] {
        Event::JobStarted { job, resumed_from, trained_before, .. } => (job.clone(), *resumed_from, *trained_before),
        other => panic!("{other:?}"),
    };
    let generation = |events: &[Event]| {
        events.iter().find_map(|event| match event {
            Event::Generation { generation, .. } => Some(*generation),
            _ => None,
        })
    };
    let (job, ..) = started(&first);
    assert_eq!(started(&first), (job.clone(), None, Trained::default()));
    assert_eq!(started(&second), (job, Some(step), Trained { seconds: 0.5, rows: 5 * step, bytes_sent: 7 }));
    assert_eq!((generation(&first), generation(&second)), (Some(1), Some(2)));
    assert!(matches!(&second[1], Event::Warning { message } if message.contains("train.steps")));
    let kept = std::fs::read_to_string(resumed.run_directory().join("run.toml")).unwrap();
    assert!(kept.contains("steps = 99"));
}

#[tokio::test]
async fn a_killed_worker_is_named_and_nobody_is_left() {
    let scene = Scene::new("killed");
    let outcome = scene.run(false).await.unwrap();
    assert_eq!((outcome.outcome.as_str(), outcome.exit_code), ("failed", exit::FAILURE));
    let expected = "worker 1 ended by signal 9 (SIGKILL)";
    assert!(outcome.message.contains(expected), "{}", outcome.message);
    assert!(outcome.message.contains("about to die"), "{}", outcome.message);
    let lost = scene.events().into_iter().find_map(|event| match event {
        Event::WorkerLost { worker, .. } => Some(worker),
        _ => None,
    });
    assert_eq!(lost.as_deref(), Some("worker-1"));
    scene.assert_all_workers_have_ended();
}

#[tokio::test]
async fn workers_and_threads_suit_the_machine_unless_they_are_asked_for() {
    for (check, asked, chosen) in [
        (r#"{"users": 3}"#, [0, 0], 1),
        (r#"{"users": 3, "gpus": 2}"#, [0, 0], 2),
        (r#"{"users": 3, "gpus": 2}"#, [1, 3], 1),
    ] {
        let mut scene = Scene::new("train");
        scene.set_check(&format!("echo '{check}'"));
        [scene.config.cohort.workers, scene.config.train.threads] = asked;
        scene.run(false).await.unwrap();
        let events = scene.events();
        let Event::JobStarted { peers, workers, threads, cores, gpus, .. } = &events[0] else {
            panic!("not a start: {:?}", events[0]);
        };
        assert_eq!((*peers, *workers), (2, chosen), "{check}, {asked:?}");
        assert_eq!(*gpus, if check.contains("gpus") { 2 } else { 0 });
        let share = (cores / workers).max(1);
        assert_eq!(*threads, if asked[1] == 0 { share } else { 3 });
        let joined = events.iter().filter(|event| matches!(event, Event::WorkerJoined { .. })).count();
        assert_eq!(joined, chosen as usize);
    }
}

#[tokio::test]
async fn a_worker_that_says_nothing_is_dead() {
    let mut scene = Scene::new("silent");
    scene.config.launch.death_ms = 1_500;
    let outcome = scene.run(false).await.unwrap();
    assert!(outcome.message.contains("worker 1 said nothing for 1500 ms"), "{}", outcome.message);
    scene.assert_all_workers_have_ended();
}

#[tokio::test]
async fn a_worker_that_closes_its_session_is_lost() {
    let scene = Scene::new("hang-up");
    let outcome = scene.run(false).await.unwrap();
    assert_eq!(outcome.exit_code, exit::FAILURE);
    assert!(outcome.message.contains("worker 1 said nothing for 1000 ms"), "{}", outcome.message);
}

#[tokio::test]
async fn bad_input_found_late_is_still_exit_code_2() {
    // A single worker's steps are committed by the time that it fails.
    for (role, workers, is_trained) in [("bad-input-at-once", 2, false), ("bad-input", 1, true)] {
        let mut scene = Scene::new(role);
        scene.config.cohort.workers = workers;
        let outcome = scene.run(false).await.unwrap();
        assert_eq!(outcome.exit_code, exit::BAD_INPUT);
        assert_eq!(outcome.message, "train.batch_size: too small");
        assert_eq!(scene.run_directory().exists(), is_trained, "only what holds no step is removed");
    }
}

#[tokio::test]
async fn bad_input_of_a_resumed_job_removes_nothing() {
    let scene = Scene::new("bad-shard");
    scene.run(false).await.unwrap();
    let outcome = scene.again("bad-input-at-once").run(true).await.unwrap();
    assert_eq!((outcome.exit_code, outcome.step), (exit::BAD_INPUT, 0));
    assert!(scene.run_directory().join("run.toml").is_file());
}

#[tokio::test]
async fn a_last_checkpoint_that_is_not_as_reported_fails_the_job() {
    let scene = Scene::new("bad-shard");
    let outcome = scene.run(false).await.unwrap();
    assert_eq!(outcome.exit_code, exit::FAILURE);
    assert!(outcome.message.contains("the last checkpoint, of step 6, was not committed"), "{}", outcome.message);
    assert_eq!(run_directory::latest_checkpoint(&scene.run_directory()), None);
}

#[tokio::test]
async fn workers_that_do_not_join_are_waited_for_no_longer_than_configured() {
    let mut scene = Scene::new("never-join");
    scene.config.launch.join_ms = 500;
    scene.config.launch.death_ms = 400;
    let start = Instant::now();
    let outcome = scene.run(false).await.unwrap();
    assert!(outcome.message.contains("workers 0, 1 did not join within 500 ms"), "{}", outcome.message);
    assert!(start.elapsed() < Duration::from_secs(20));
    scene.assert_all_workers_have_ended();
}

#[tokio::test]
async fn a_second_stop_ends_at_once_a_job_whose_workers_do_not_listen() {
    let scene = Scene::new("deaf");
    let (stop, stops) = tokio::sync::mpsc::channel(1);
    let job = scene.run_with(false, (stop.clone(), stops));
    let ask_again_and_again = async {
        fake::eventually("the first step", || !scene.progress().is_empty()).await;
        let start = Instant::now();
        while stop.send("the test asked".into()).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        start.elapsed()
    };
    let (outcome, asked) = tokio::join!(job, ask_again_and_again);
    let outcome = outcome.unwrap();
    assert!(asked >= Duration::from_secs(1), "what repeats the first request is no second one");
    assert_eq!(outcome.exit_code, exit::INTERRUPTED);
    assert!(outcome.message.contains("a second time"), "{}", outcome.message);
    scene.assert_all_workers_have_ended();
}

#[tokio::test]
async fn what_is_refused_leaves_nothing_behind() {
    type Spoil = fn(&mut Scene);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let faults: [(&str, Spoil); 4] = [
        ("data.txt:3: empty line", |scene| scene.set_check("echo 'data.txt:3: empty line' >&2; exit 2")),
        ("99.0.0", |scene| scene.set_version("99.0.0")),
        ("no usable", |scene| scene.remove_worker()),
        ("launch.listen: port", |_| {}),
    ];
    for (expected, spoil) in faults {
        let mut scene = Scene::new("train");
        if expected.contains("port") {
            scene.config.launch.listen = taken.local_addr().unwrap().to_string();
        }
        spoil(&mut scene);
        let error = scene.run(false).await.unwrap_err();
        assert_eq!(error.exit_code(), exit::BAD_INPUT, "{error}");
        let message = error.to_string();
        let is_named = message.contains(expected) || message.contains("is not a usable medley-worker");
        assert!(is_named && !message.contains('\n'), "{message}");
        assert!(!scene.run_directory().exists(), "{expected}");
        assert!(scene.events().is_empty());
    }
}

#[tokio::test]
async fn directories_and_checkpoints_that_do_not_serve_are_refused() {
    let scene = Scene::new("train");
    let error = scene.run(true).await.unwrap_err();
    assert!(error.to_string().contains("no run to resume"), "{error}");
    scene.run(false).await.unwrap();

    let error = scene.again("train").run(false).await.unwrap_err();
    assert!(error.to_string().contains("--resume"), "{error}");
    assert_eq!(error.exit_code(), exit::BAD_INPUT);

    let mut other = scene.again("train");
    other.config.network.layers += 1;
    let error = other.run(true).await.unwrap_err();
    assert!(error.to_string().contains("network.layers"), "{error}");
    assert_eq!(error.exit_code(), exit::BAD_INPUT);

    let shard = scene.run_directory().join("checkpoints/step-6/peer-1.safetensors");
    std::fs::write(&shard, "cut").unwrap();
    let error = scene.again("train").run(true).await.unwrap_err();
    assert!(error.to_string().contains("peer-1.safetensors"), "{error}");
    assert_eq!(error.exit_code(), exit::BAD_INPUT);
}

#[tokio::test]
async fn a_second_coordinator_of_the_same_run_is_refused() {
    let scene = Scene::new("until-stopped");
    let second = scene.again("train");
    let (stop, stops) = tokio::sync::mpsc::channel(1);
    let first = scene.run_with(false, (stop.clone(), stops));
    let refused = async {
        fake::eventually("the first job's first step", || !scene.progress().is_empty()).await;
        let error = second.run(true).await.unwrap_err();
        stop.send("the test is over".into()).await.unwrap();
        error
    };
    let (outcome, error) = tokio::join!(first, refused);
    assert_eq!(outcome.unwrap().exit_code, exit::INTERRUPTED);
    assert!(error.to_string().contains("another coordinator"), "{error}");
    assert_eq!(error.exit_code(), exit::BAD_INPUT);
}

/// `kill -9` of the coordinator: no worker stays.
#[test]
fn a_killed_coordinator_leaves_no_worker() {
    let scene = Scene::new("until-stopped");
    let mut coordinator = scene.run_in_another_process();
    let start = Instant::now();
    while scene.worker_processes().len() < 2 {
        assert!(start.elapsed() < Duration::from_secs(20), "the workers did not start");
        std::thread::sleep(Duration::from_millis(10));
    }
    coordinator.kill().unwrap();
    coordinator.wait().unwrap();
    scene.assert_all_workers_have_ended();
}

/// Not a test: the coordinator process of the one above.
#[test]
fn coordinator_to_be_killed() {
    fake::coordinate_if_asked();
}

fn checkpoint_staging(step: u64) -> String {
    format!("checkpoints/.step-{step}.staging")
}
