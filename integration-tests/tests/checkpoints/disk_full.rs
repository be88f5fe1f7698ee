//! A full disk under the checkpoints, and under the whole run directory: a small file system in a mount namespace of the test's own.

use super::{committed, local, terminate, warnings};
use medley_common::events::Event;
use medley_common::exit;
use medley_common::storage::Storage;
use medley_integration_tests::hosts::skip;
use medley_integration_tests::{Bench, events, summary, text, until, wait};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Room for one checkpoint of the small job (150 kB in six files) and a half, so that with one in place the next does not fit.
/// The tests leave a thousand steps between two, so that the first is committed by the time that the second is written.
const ROOM: &str = "300k";

/// Whether this machine lets tests mount; says so where it does not.
fn may_mount(bench: &Bench) -> bool {
    let script = "mkdir -p probe && mount -t tmpfs -o size=64k tmpfs probe";
    let probe = Command::new("unshare").args(["-m", "sh", "-c", script]).current_dir(bench.path()).output();
    let may = probe.is_ok_and(|output| output.status.success());
    if !may {
        skip("a full disk", "mounting a small file system needs root and a mount namespace");
    }
    may
}

/// Starts a shell script with a file system of `ROOM` at `full` in the test's directory; `$MEDLEY` is the command.
fn start(bench: &Bench, script: &str) -> Child {
    let medley = bench.command(&[]);
    let script = format!("mkdir -p full && mount -t tmpfs -o size={ROOM} tmpfs full && {script}");
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", &script]).current_dir(bench.path()).env("MEDLEY", medley.get_program());
    for (name, value) in medley.get_envs() {
        value.map(|value| command.env(name, value));
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("unshare starts")
}

/// The test's directory as a process sees it, with what is mounted there.
fn seen_by(child: &Child, bench: &Bench) -> PathBuf {
    let directory = bench.path().canonicalize().expect("the test's directory is there");
    Path::new("/proc")
        .join(child.id().to_string())
        .join("root")
        .join(directory.strip_prefix("/").expect("it is absolute"))
}

#[test]
fn a_run_whose_last_checkpoint_finds_no_room_shows_its_metrics_and_fails() {
    let bench = Bench::small();
    if !may_mount(&bench) {
        return;
    }
    let child = start(
        &bench,
        "{ $MEDLEY run job.toml --out run --set output.checkpoints=full --set train.steps=2500 \
         --set train.checkpoint_every=1000 --set output.log_every=500 --set output.keep_checkpoints=0; code=$?; cp -a full kept; exit $code; }",
    );
    let output = wait(child);
    let (shown, said) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(exit::FAILURE), "{said}");
    assert!(shown.contains("Test metrics") && shown.contains("peer-1"), "{shown}");
    let last = said.lines().last().expect("a last line");
    let expected = ["error: ", "step 2500", "No space left on device", "--resume goes on from the one of step 1000"];
    assert!(expected.iter().all(|part| last.contains(part)), "{last}");

    let run = bench.path().join("run");
    assert_eq!(committed(&run), [1000]);
    let warnings = warnings(&run);
    assert_eq!(warnings.len(), 2, "of steps 2000 and 2500: {warnings:?}");
    for (warning, step) in warnings.iter().zip(["step 2000", "step 2500"]) {
        let named = [step, "No space left on device", "full", "the last good one is of step 1000", "make room"];
        assert!(named.iter().all(|part| warning.contains(part)), "{warning}");
    }
    let result = summary(&run);
    assert_eq!((result.outcome.as_str(), result.steps), ("failed", 2500));
    assert_eq!(result.peers_evaluated.len(), 4, "two peers, two splits");
    let kept = Storage::of_run(&run, &bench.path().join("kept").display().to_string()).expect("a directory");
    assert_eq!((kept.steps().expect("a listing"), kept.partial().expect("a listing")), (vec![1000], vec![]));
    let verified = bench.medley(&["checkpoint", "verify", "kept/step-1000"]);
    assert!(verified.status.success(), "{}", text(&verified.stderr));
    assert_eq!(local(&run).steps().expect("a listing"), [0_u64; 0]);
}

#[test]
fn a_job_goes_on_without_room_and_keeps_checkpoints_again_once_there_is_some() {
    let bench = Bench::small();
    if !may_mount(&bench) {
        return;
    }
    let child = start(
        &bench,
        "exec $MEDLEY run job.toml --out run --set output.checkpoints=full --set train.steps=1000000 \
         --set train.checkpoint_every=1000 --set output.log_every=500 --set output.keep_checkpoints=1 --set cohort.workers=2",
    );
    let run = bench.path().join("run");
    let has_events = || run.join("events.jsonl").is_file();
    until("a checkpoint finds no room", || has_events() && !warnings(&run).is_empty());
    let before = committed(&run);
    assert_eq!(before.len(), 1, "the first fits: {:?}", warnings(&run));
    let full = seen_by(&child, &bench).join("full");
    let step = before[0];
    assert!(full.join(format!("step-{step}/manifest.json")).is_file(), "the last good one is intact");

    let remount = ["-t", &child.id().to_string(), "-m", "mount", "-o", "remount,size=2m"].map(String::from);
    let mounted = bench.path().canonicalize().expect("a path").join("full");
    let remounted = Command::new("nsenter").args(remount).arg(mounted).status().expect("nsenter starts");
    assert!(remounted.success());
    until("a later checkpoint is committed", || committed(&run).len() > 2);
    terminate(child.id());
    let output = wait(child);
    assert_eq!(output.status.code(), Some(exit::INTERRUPTED), "{}", text(&output.stderr));
    assert_eq!(committed(&run).last(), Some(&summary(&run).steps));
}

#[test]
fn a_job_whose_whole_run_directory_finds_no_room_waits_and_goes_on() {
    let bench = Bench::small();
    if !may_mount(&bench) {
        return;
    }
    let child = start(
        &bench,
        "mount -o remount,size=16m full && exec $MEDLEY run job.toml --out full/run --quiet --set train.steps=1000000 \
         --set train.checkpoint_every=500 --set output.log_every=500 --set output.keep_checkpoints=1 --set cohort.workers=2",
    );
    let full = seen_by(&child, &bench).join("full");
    let run = full.join("run");
    let newest = || match run.join("events.jsonl").is_file() {
        true => committed(&run).last().copied(),
        false => None,
    };
    until("the first checkpoint", || newest().is_some());
    fs::write(full.join("filler"), vec![1; 32 << 20]).expect_err("there is less room than that");
    // The next generation must be in the store before it begins.
    let process = events(&run).into_iter().find_map(|event| match event {
        Event::WorkerJoined { process_id, .. } => Some(process_id),
        _ => None,
    });
    kill(process.expect("a worker has joined"));
    std::thread::sleep(Duration::from_secs(3));
    fs::remove_file(full.join("filler")).expect("it is there");
    let before = newest();
    until("a checkpoint of a later generation", || {
        let storage = local(&run);
        let stored = newest().filter(|step| Some(*step) > before).and_then(|step| storage.open(step).ok());
        stored.is_some_and(|stored| stored.manifest.generation > 1)
    });
    terminate(child.id());
    let output = wait(child);
    assert_eq!(output.status.code(), Some(exit::INTERRUPTED), "{}", text(&output.stderr));
}

fn kill(process: u32) {
    let process = Pid::from_raw(process.cast_signed()).expect("a process id is not 0");
    kill_process(process, Signal::KILL).expect("the worker is ours");
}
