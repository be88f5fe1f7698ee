//! `medley-worker bench` as a program uses it: every key is there, numbers agree with one another, and what cannot be
//! measured is refused. No time is asserted.

#![allow(clippy::unwrap_used)]

mod authority;

use serde_json::Value;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

const TINY: [&str; 12] =
    ["--items", "60", "--length", "8", "--masks", "3", "--batch", "16", "--steps", "2", "--warmup", "1"];

fn bench(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_medley-worker")).arg("bench").args(arguments).output().unwrap()
}

fn step(arguments: &[&str]) -> Value {
    let all: Vec<&str> = ["step", "--json", "--threads", "1"].iter().chain(&TINY).chain(arguments).copied().collect();
    let output = bench(&all);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn number(value: &Value, key: &str) -> f64 {
    value[key].as_f64().unwrap_or_else(|| panic!("{key}: {}", value[key]))
}

#[test]
fn one_worker_reports_every_key_and_sends_nothing() {
    let result = step(&["--peers", "2", "--workers", "1"]);
    for key in ["step_ms", "rows_per_s", "peak_rss_mb", "gflop_per_step", "gflops", "gemm_gflops", "gemm_peak_gflops"] {
        assert!(number(&result, key) > 0.0, "{key}: {}", result[key]);
    }
    assert!(number(&result, "step_ms_min") <= number(&result, "step_ms"));
    assert!(number(&result, "step_ms") <= number(&result, "step_ms_max"));
    let split = result["split_ms"].as_object().unwrap();
    let names: Vec<&str> = split.keys().map(String::as_str).collect();
    assert_eq!(names, ["data", "encoder", "exchange", "loss", "backward", "reduce", "optimizer"]);
    assert!(split.values().all(|ms| ms.as_f64().unwrap() >= 0.0));
    assert_eq!(result["rows"], 16 * 3);
    assert_eq!(result["tokens"], 16 * 8);
    assert_eq!(number(&result, "bytes_per_step_per_worker"), 0.0);
    let floor = number(&result, "gflop_per_step") / number(&result, "gemm_gflops") * 1e3;
    assert!((floor - number(&result, "floor_ms")).abs() <= 0.001 + 1e-3 * floor);
}

#[test]
fn steps_in_bfloat16_are_measured_or_refused_in_a_line() {
    if medley_worker::matrix::has_bfloat16() {
        let result = step(&["--precision", "bf16"]);
        assert_eq!(result["precision"], "bf16");
        assert!(number(&result, "gemm_gflops") > 0.0);
    } else {
        let output = bench(&["step", "--precision", "bf16"]);
        assert_eq!(output.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&output.stderr).contains("this processor has no AVX-512 BF16"));
    }
    let output = bench(&["step", "--precision", "bf16", "--exchange", "logits"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("train.precision"));
}

#[test]
fn workers_send_the_same_bytes_every_time() {
    let cohort = ["--peers", "3", "--workers", "2"];
    let (first, second) = (step(&cohort), step(&cohort));
    assert!(number(&first, "bytes_per_step_per_worker") > 0.0);
    assert_eq!(first["bytes_per_step_per_worker"], second["bytes_per_step_per_worker"]);
    assert!(number(&first, "bytes_per_step_per_worker_mean") <= number(&first, "bytes_per_step_per_worker"));
    assert_eq!((&first["workers"], &first["peers"], &first["rows"]), (&2.into(), &3.into(), &48.into()));
}

#[test]
fn real_sequences_bring_their_own_catalogue() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("data.txt");
    // Twelve users of ten items, of which eight train.
    let lines: String = (0..12)
        .flat_map(|user| (0..10).map(move |place| format!("{user} {}\n", (3 * user + place) % 25 + 1)))
        .collect();
    std::fs::write(&path, lines).unwrap();
    let result = step(&["--data", path.to_str().unwrap(), "--peers", "1"]);
    assert_eq!((&result["items"], &result["tokens"], &result["method"]), (&25.into(), &128.into(), &"single".into()));
}

/// The model's formula follows the exchange message by message.
#[test]
fn the_model_predicts_bytes_exactly() {
    use medley_common::config::{ExchangeMode, NetworkConfig};
    use medley_worker::bench::growth::model::Cohort;
    use medley_worker::bench::work::Work;
    for (peers, workers, mode) in [(2, 2, "hidden"), (5, 3, "hidden"), (3, 2, "distributions")] {
        let (t, w) = (peers.to_string(), workers.to_string());
        let found = step(&["--peers", &t, "--workers", &w, "--exchange", mode]);
        let work = Work::full(&NetworkConfig::default(), 60, 16, 8, 3);
        let cohort = Cohort { work, length: 8, peers, workers, cores: workers, truncates: true };
        let mode = if mode == "hidden" { ExchangeMode::Hidden } else { ExchangeMode::Distributions };
        let predicted = cohort.traffic(mode).0;
        assert_eq!(number(&found, "bytes_per_step_per_worker"), predicted as f64, "T={peers} W={workers} {mode:?}");
    }
}

#[test]
fn growth_is_measured_predicted_and_drawn() {
    let directory = tempfile::tempdir().unwrap();
    let output = directory.path().to_str().unwrap();
    let flags = ["growth", "--shapes", "toys", "--peers", "1,2,3", "--steps", "1", "--batch", "4", "--output", output];
    let done = bench(&flags);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let page = std::fs::read_to_string(directory.path().join("GROWTH.md")).unwrap();
    for part in ["| toys | 3 |", "bytes, T > 2: 0.0% off", "NVLink", "25 Gb/s", "distributions", "GFLOP/s a core"] {
        assert!(page.contains(part), "{part}: {page}");
    }
    let svg = std::fs::read_to_string(directory.path().join("growth.svg")).unwrap();
    assert!(svg.contains("<circle") && svg.contains("toys") && svg.contains("memory of a worker"));
}

#[test]
fn the_loss_and_the_collectives_report_what_they_measured() {
    let output = bench(&["loss", "--rows", "40", "--items", "50", "--peers", "3", "--steps", "2", "--json"]);
    let loss: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(number(&loss, "loss_ms") > 0.0 && number(&loss, "floor_ms") > 0.0 && number(&loss, "times_floor") > 0.0);

    let output = bench(&["exchange", "--workers", "3", "--sizes", "1KB..10KB", "--json"]);
    let exchange: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(number(&exchange, "copy_gb_per_s") > 0.0);
    let cases = exchange["cases"].as_array().unwrap();
    let names: Vec<(&str, u64)> =
        cases.iter().map(|case| (case["operation"].as_str().unwrap(), case["bytes"].as_u64().unwrap())).collect();
    let expected = ["all-reduce", "all-to-all", "all-gather"].map(|name| [(name, 1_000), (name, 10_000)]);
    assert_eq!(names, expected.concat());
    assert!(cases.iter().all(|case| number(case, "time_us") > 0.0 && number(case, "bus_gb_per_s") > 0.0));
    assert_eq!(exchange["encrypted"], false);
}

#[test]
fn encrypted_collectives_are_measured_too() {
    let certificates = authority::authority();
    let directory = certificates.path().to_str().unwrap();
    let output = bench(&["exchange", "--sizes", "1KB", "--certificates", directory, "--json"]);
    let exchange: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(exchange["encrypted"], true);
    let output = bench(&["exchange", "--certificates", "nowhere"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("nowhere/authority.pem"));
}

/// Not even a launcher that is killed leaves its workers behind.
#[test]
fn workers_end_with_whoever_measures() {
    let mut launcher = Command::new(env!("CARGO_BIN_EXE_medley-worker"))
        .args(["bench", "step", "--workers", "2", "--threads", "1"])
        .args(TINY.iter().map(|flag| if *flag == "2" { "1000000" } else { *flag }))
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let list = format!("/proc/{0}/task/{0}/children", launcher.id());
    let until = Instant::now() + Duration::from_secs(60);
    let mut workers = Vec::new();
    while workers.len() < 2 && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(10));
        let children = std::fs::read_to_string(&list).unwrap();
        workers = children.split_whitespace().map(str::to_owned).collect();
    }
    launcher.kill().unwrap();
    launcher.wait().unwrap();
    assert_eq!(workers.len(), 2);
    // A process that ended may wait for the system to take note of it.
    let runs = |worker: &String| {
        let status = std::fs::read_to_string(format!("/proc/{worker}/stat")).unwrap_or_default();
        !status.is_empty() && !status.contains(") Z ")
    };
    while workers.iter().any(runs) && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(!workers.iter().any(runs));
}

#[test]
fn what_cannot_be_measured_is_refused() {
    for (arguments, reason) in [
        (&["step", "--peers", "2", "--workers", "3"][..], "--workers: is 3, but there are only 2 peers"),
        (&["step", "--steps", "0"], "--steps: is 0"),
        (&["step", "--method", "popularity"], "--method: popularity"),
        (&["step", "--data", "/nowhere/data.txt"], "/nowhere/data.txt"),
        (&["step", "--dropout", "1.5"], "dropout"),
        (&["loss", "--peers", "1"], "--peers: is 1"),
        (&["exchange", "--workers", "1"], "--workers: is 1"),
        (&["exchange", "--sizes", "3XB"], "--sizes: \"3XB\" is no size"),
    ] {
        let output = bench(arguments);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
        assert_eq!(error.lines().count(), 1, "{arguments:?}: {error}");
        assert!(error.contains(reason), "{arguments:?}: {error}");
        assert!(output.stdout.is_empty());
    }
    for arguments in [&["step", "--shape", "moon"][..], &["step", "--exchange", "post"], &["step", "--peers", "many"]] {
        assert_eq!(bench(arguments).status.code(), Some(2), "{arguments:?}");
    }
}
