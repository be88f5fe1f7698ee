//! Faults on purpose against real jobs, a short seeded part of what `make chaos` does.

use medley_integration_tests::{Bench, text};
use serde_json::Value;
use std::path::Path;

/// Plays `medley chaos` and reads its report; panics where a check of the scenario failed other than that of how long
/// something took: a machine that others use as well keeps no such promise, and `make chaos` measures.
fn chaos(arguments: &[&str]) -> Value {
    let bench = Bench::small();
    let mut all = vec!["chaos"];
    all.extend(arguments);
    all.extend(["--out", "chaos", "--quiet"]);
    let output = bench.medley(&all);
    let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
    let report = read(&bench, &said);
    let failed: Vec<&str> = report["failed"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let is_a_time = |check: &&str| ["noticed:", "median:", "worst:"].iter().any(|name| check.starts_with(name));
    assert!(failed.iter().all(is_a_time), "{said}");
    assert_eq!(output.status.success(), failed.is_empty(), "{said}");
    for fault in report["faults"].as_array().into_iter().flatten() {
        let within = |name: &str, bound| fault[name].as_f64().is_none_or(|seconds| seconds < bound);
        assert!(within("noticed_seconds", 10.0) && within("recovered_seconds", 20.0), "{fault}");
    }
    report
}

fn read(bench: &Bench, said: &str) -> Value {
    assert!(bench.path().join("chaos/report.json").is_file(), "{said}");
    let json = std::fs::read(bench.path().join("chaos/report.json")).expect("it is readable");
    serde_json::from_slice(&json).expect("the report has its documented form")
}

fn scenario(name: &str) -> String {
    let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/chaos");
    configs.join(format!("{name}.toml")).display().to_string()
}

/// Faults of a report, and the committed steps that they cost.
fn faults(report: &Value) -> (usize, &Value) {
    (report["faults"].as_array().map_or(0, Vec::len), &report["steps_lost"])
}

#[test]
fn killed_workers_are_replaced_and_the_result_is_the_undisturbed_runs() {
    let report = chaos(&["--kills", "3", "--steps", "60", "--seed", "11"]);
    assert_eq!(faults(&report), (3, &0.into()));
    assert_eq!(report["compared"]["moments_equal"], true);
    let times = |fault: &Value| fault["noticed_seconds"].is_number() && fault["recovered_seconds"].is_number();
    assert!(report["faults"].as_array().into_iter().flatten().all(times), "{report}");
}

#[test]
fn a_job_of_a_persons_own_is_played_with_as_many_workers_as_it_can_have() {
    let bench = Bench::small();
    let refused = bench.medley(&["chaos", "job.toml", "--kills", "1", "--workers", "3", "--out", "chaos"]);
    assert_eq!(refused.status.code(), Some(2));
    let said = text(&refused.stderr);
    assert!(said.contains("--workers 3: the job has 2 peers") && !bench.path().join("chaos").exists(), "{said}");
    let output = bench.medley(&["chaos", "job.toml", "--kills", "1", "--out", "chaos", "--quiet"]);
    let report = read(&bench, &text(&output.stderr));
    assert_eq!((faults(&report), &report["workers"]), ((1, &0.into()), &2.into()));
}

#[test]
fn a_worker_that_is_stopped_counts_as_dead_and_is_replaced() {
    let report = chaos(&["--scenario", &scenario("stop"), "--steps", "300"]);
    let noticed = &report["faults"][0]["noticed_seconds"];
    assert!(noticed.as_f64().is_some_and(|seconds| seconds > 0.5), "{report}");
}

#[test]
fn a_worker_may_die_at_every_moment_of_a_step() {
    let report = chaos(&["--scenario", &scenario("mid-step")]);
    assert_eq!(faults(&report), (3, &0.into()));
}

#[test]
fn a_frame_that_is_corrupted_on_the_way_is_noticed_and_costs_nothing() {
    let report = chaos(&["--scenario", &scenario("corrupted-frame")]);
    assert_eq!(faults(&report), (1, &0.into()));
}

#[test]
fn what_cannot_be_played_is_refused_before_anything_is_written() {
    let bench = Bench::small();
    bench.write("cut.toml", "name = \"cut\"\n[[events]]\nat_step = 3\nfault = { partition = { between = [{ worker = 0 }, { worker = 1 }], seconds = 1 } }\n");
    let output = bench.medley(&["chaos", "--scenario", "cut.toml", "--out", "chaos"]);
    assert_eq!(output.status.code(), Some(2));
    let said = text(&output.stderr);
    assert!(said.contains("partition") && said.contains("links.rs") && said.lines().count() == 1, "{said}");
    assert!(!bench.path().join("chaos").exists());
}
