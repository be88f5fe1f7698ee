//! However a job ends, it says why, keeps what was committed, and leaves no process behind.

use medley_common::events::Event;
use medley_common::summary::Summary;
use medley_common::{exit, run_directory};
use medley_integration_tests::{Bench, difference, events, invocations, processes_with, summary, text, until, wait};
use rustix::process::{Pid, Signal, kill_process};
use std::path::Path;

/// A job that would run for a long time.
// A loss ends these jobs: recovery has tests of its own.
const LONG: [&str; 8] = [
    "--set",
    "train.steps=1000000",
    "--set",
    "train.checkpoint_every=10",
    "--set",
    "cohort.workers=2",
    "--set",
    "recovery.attempts=0",
];

fn signal(id: u32, signal: Signal) {
    let pid = Pid::from_raw(id as i32).expect("a process id is not 0");
    kill_process(pid, signal).expect("the process is there");
}

fn worker_ids(run: &Path) -> Vec<u32> {
    let joined = |event| match event {
        Event::WorkerJoined { process_id, .. } => Some(process_id),
        _ => None,
    };
    events(run).into_iter().filter_map(joined).collect()
}

fn is_running(id: u32) -> bool {
    // A zombie has ended, whoever has yet to collect it.
    let status = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    status.rsplit(')').next().is_some_and(|rest| !rest.trim_start().starts_with(['Z', 'X']) && !rest.is_empty())
}

fn training(run: &Path) -> bool {
    run_directory::latest_checkpoint(run).is_some()
}

fn start(bench: &Bench) -> (std::process::Child, std::path::PathBuf) {
    let mut arguments = vec!["run", "job.toml", "--out", "run"];
    arguments.extend(LONG);
    let child = bench.start(&arguments);
    let run = bench.path().join("run");
    until("a checkpoint is committed", || training(&run));
    (child, run)
}

#[test]
fn a_run_that_was_stopped_and_resumed_equals_one_that_was_not() {
    let bench = Bench::small();
    let settings = ["train.steps=1500", "train.checkpoint_every=100", "method.beta=0.1"];
    let mut arguments = vec!["run", "job.toml", "--out", "stopped"];
    arguments.extend(settings.iter().flat_map(|setting| ["--set", setting]));
    let child = bench.start(&arguments);
    let stopped = bench.path().join("stopped");
    until("a checkpoint is committed", || training(&stopped));
    signal(child.id(), Signal::TERM);
    let output = wait(child);
    assert_eq!(output.status.code(), Some(exit::INTERRUPTED), "{}", text(&output.stderr));
    let output = bench.medley(&["run", "--resume", "stopped"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let whole = bench.run("whole", &settings);
    assert_eq!(difference(&whole, &stopped), 0.0);
    let directory = stopped;
    let (whole, stopped) = (summary(&whole), summary(&directory));
    assert_eq!(whole.peers_evaluated, stopped.peers_evaluated);
    let rows = |summary: &Summary| (summary.rows_per_second * summary.train_seconds).round();
    assert_eq!(rows(&whole), rows(&stopped));
    // Each invocation's first and last event bound its time; the pause between the two belongs to neither.
    let times: f64 = invocations(&directory).iter().map(|(first, last)| last - first).sum();
    assert!((stopped.wall_seconds - times).abs() < 0.01, "{} s, but events of {times} s", stopped.wall_seconds);
}

#[test]
fn ctrl_c_stops_with_a_checkpoint_of_the_last_step() {
    let bench = Bench::small();
    let (child, run) = start(&bench);
    let workers = worker_ids(&run);
    signal(child.id(), Signal::INT);
    let output = wait(child);
    assert_eq!(output.status.code(), Some(exit::INTERRUPTED), "{}", text(&output.stderr));
    until("the workers are gone", || !workers.iter().any(|id| is_running(*id)));
    let stopped = summary(&run);
    assert_eq!(stopped.outcome, "stopped");
    let (step, _) = run_directory::latest_checkpoint(&run).expect("a checkpoint");
    assert_eq!(step, stopped.steps, "the checkpoint is of the last committed step");
}

#[test]
fn a_killed_worker_ends_the_job_with_a_clear_message() {
    let bench = Bench::small();
    let (child, run) = start(&bench);
    let workers = worker_ids(&run);
    signal(workers[1], Signal::KILL);
    let output = wait(child);
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(exit::FAILURE), "{message}");
    assert!(message.contains("worker") && message.to_lowercase().contains("signal"), "{message}");
    until("the workers are gone", || !workers.iter().any(|id| is_running(*id)));
    assert_eq!(summary(&run).outcome, "failed");
}

#[test]
fn a_stopped_worker_is_declared_dead() {
    let bench = Bench::small();
    let mut arguments = vec!["run", "job.toml", "--out", "run", "--set", "launch.death_ms=1500"];
    arguments.extend(LONG);
    let child = bench.start(&arguments);
    let run = bench.path().join("run");
    until("a checkpoint is committed", || training(&run));
    let workers = worker_ids(&run);
    signal(workers[0], Signal::STOP);
    let output = wait(child);
    assert_eq!(output.status.code(), Some(exit::FAILURE), "{}", text(&output.stderr));
    until("even the stopped worker is gone", || !workers.iter().any(|id| is_running(*id)));
}

/// Slow, for the pause must be longer than all that might take it for an end.
#[test]
fn a_coordinator_that_was_paused_goes_on_with_its_workers() {
    let bench = Bench::small();
    let mut arguments = vec!["run", "job.toml", "--out", "run", "--set", "launch.death_ms=1000"];
    arguments.extend(LONG);
    let child = bench.start(&arguments);
    let run = bench.path().join("run");
    until("a checkpoint is committed", || training(&run));
    signal(child.id(), Signal::STOP);
    // More than the six seconds in which a worker that probes gives a silent coordinator up.
    std::thread::sleep(std::time::Duration::from_millis(7500));
    let (before, _) = run_directory::latest_checkpoint(&run).expect("a checkpoint");
    signal(child.id(), Signal::CONT);
    until("a later checkpoint is committed", || {
        run_directory::latest_checkpoint(&run).is_some_and(|(later, _)| later > before)
    });
    signal(child.id(), Signal::INT);
    let output = wait(child);
    assert_eq!(output.status.code(), Some(exit::INTERRUPTED), "{}", text(&output.stderr));
}

#[test]
fn no_worker_survives_a_killed_coordinator() {
    let bench = Bench::small();
    let (mut child, run) = start(&bench);
    let workers = worker_ids(&run);
    assert_eq!(workers.len(), 2);
    signal(child.id(), Signal::KILL);
    child.wait().expect("the coordinator ends");
    until("the workers are gone", || !workers.iter().any(|id| is_running(*id)));
    let job = events(&run).into_iter().find_map(|event| match event {
        Event::JobStarted { job, .. } => Some(job),
        _ => None,
    });
    assert!(processes_with(&job.expect("the job has an id")).is_empty());

    // What was committed is there, and the job goes on from it.
    let (step, _) = run_directory::latest_checkpoint(&run).expect("a checkpoint");
    let child = bench.start(&["run", "--resume", "run"]);
    until("a later checkpoint is committed", || {
        run_directory::latest_checkpoint(&run).is_some_and(|(later, _)| later > step)
    });
    signal(child.id(), Signal::TERM);
    let output = wait(child);
    assert_eq!(output.status.code(), Some(exit::INTERRUPTED), "{}", text(&output.stderr));
}
