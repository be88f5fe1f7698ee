//! A coordinator and its workers on hosts of their own, as network namespaces: links are cut and slowed, and the job
//! completes or says why it cannot, but never hangs.
//!
//! `MEDLEY_CHAOS_SECONDS` says how long links are cut (3 by default), `MEDLEY_CHAOS_REPORT` where a line is added for each
//! case.

use medley_common::environment;
use medley_common::events::Event;
use medley_integration_tests::hosts::{Hosts, skip};
use medley_integration_tests::{Bench, binary, events, text, until, wait};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

const WORKERS: usize = 3;

/// What became of a job.
struct Ended {
    outcome: String,
    recoveries: usize,
    seconds: f64,
}

fn cut_seconds() -> u64 {
    std::env::var(environment::CHAOS_SECONDS).map_or(3, |seconds| seconds.parse().expect("a number of seconds"))
}

/// Runs a job of which host 0 coordinates and host 1 + N has the worker in slot N, and disturbs it once it trains. `None`
/// where this machine cannot have such hosts.
fn run(what: &str, disturb: impl FnOnce(&mut Hosts)) -> Option<Ended> {
    let bench = Bench::small();
    let mut hosts = match Hosts::new(bench.path(), 1 + WORKERS) {
        Ok(hosts) => hosts,
        Err(reason) => {
            skip(what, &reason);
            return None;
        }
    };
    let worker = bench.path().join("worker-on-its-host");
    let prefix = hosts.namespace(0).trim_end_matches('0').to_owned();
    // The launcher starts this in the place of medley-worker: it moves to the host of its slot and becomes that.
    let script = format!(
        "#!/bin/sh\nslot=; before=\nfor word; do test \"$before\" = --slot && slot=$word; before=$word; done\n\
         test -n \"$slot\" || exec {binary} \"$@\"\nhost=$((slot + 1))\n\
         exec ip netns exec {prefix}$host {binary} \"$@\" --plaintext --listen 10.213.77.$((host + 1)):0\n",
        binary = binary("medley-worker").display(),
    );
    std::fs::write(&worker, script).expect("the test's directory is writable");
    std::fs::set_permissions(&worker, std::fs::Permissions::from_mode(0o755)).expect("it is ours");
    let listen = format!("launch.listen={}:0", Hosts::address(0));
    let settings = [
        listen.as_str(),
        "cohort.workers=3",
        "cohort.peers=3",
        "train.steps=2000",
        "train.checkpoint_every=200",
        "exchange.deadline_seconds=5",
        "recovery.reform_ms=8000",
        "security.plaintext=true",
    ];
    let mut command = std::process::Command::new("ip");
    command.args(["netns", "exec", &hosts.namespace(0)]).arg(binary("medley"));
    command.args(["run", "job.toml", "--out", "run", "--quiet"]);
    command.args(settings.iter().flat_map(|setting| ["--set", setting])).current_dir(bench.path());
    command.env("MEDLEY_WORKER", &worker).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let begun = Instant::now();
    let child = command.spawn().expect("ip starts");
    let run = bench.path().join("run");
    let trains =
        || run.join("events.jsonl").is_file() && events(&run).iter().any(|event| matches!(event, Event::Step(_)));
    until("the job trains", trains);
    disturb(&mut hosts);
    let output = wait(child);
    let seconds = begun.elapsed().as_secs_f64();
    let happened = events(&run);
    let verdict = happened.iter().rev().find_map(|event| match event {
        Event::Finished { outcome, message, .. } => Some((outcome.clone(), message.clone())),
        _ => None,
    });
    let (outcome, message) = verdict.unwrap_or_else(|| panic!("{what}: no verdict: {}", text(&output.stderr)));
    assert!(!message.is_empty() && !message.contains('\n'), "{message}");
    let recoveries = happened.iter().filter(|event| matches!(event, Event::Recovered { .. })).count();
    println!("{what}: {outcome} after {seconds:.1} s, {recoveries} recoveries: {message}");
    if let Ok(path) = std::env::var(environment::CHAOS_REPORT) {
        let line = serde_json::json!({
            "what": what, "outcome": format!("{outcome}: {message}"), "seconds": seconds, "recoveries": recoveries,
        });
        let mut file = std::fs::File::options().create(true).append(true).open(path).expect("the report is writable");
        writeln!(file, "{line}").expect("the report is writable");
    }
    Some(Ended { outcome, recoveries, seconds })
}

/// One test, since the cases share the machine's two cores and none is about the others.
#[test]
fn links_between_hosts_are_cut_and_slowed() {
    let seconds = cut_seconds();
    let pause = Duration::from_secs(seconds);
    let between = run(&format!("the link between two workers is cut for {seconds} s"), |hosts| {
        hosts.order("cut 1 2");
        std::thread::sleep(pause);
        hosts.order("heal");
    });
    if let Some(ended) = between {
        assert_eq!(ended.outcome, "completed");
    }
    let from_coordinator =
        run(&format!("the link between a worker and the coordinator is cut for {seconds} s"), |hosts| {
            hosts.order("cut 0 2");
            std::thread::sleep(pause);
            hosts.order("heal");
        });
    if let Some(ended) = from_coordinator {
        // Longer than launch.death_ms, so that the worker was replaced.
        assert_eq!(ended.outcome, "completed");
        assert!(ended.recoveries > 0);
    }
    let slowed = run(&format!("all links take 50 ms more and lose 5 % for {seconds} s"), |hosts| {
        hosts.order("slow 50 5");
        std::thread::sleep(pause);
        hosts.order("heal");
    });
    if let Some(ended) = slowed {
        assert!(ended.outcome == "completed" && ended.seconds < 200.0, "{} s", ended.seconds);
    }
}
