//! Bad input: one line that says what, where and how to mend it; exit code 2; nothing half-written.

use medley_common::exit;
use medley_integration_tests::{Bench, text};
use std::process::Output;

/// Runs a command that must be refused with one line containing every given text, and leave the directory as it was.
fn assert_refused(bench: &Bench, arguments: &[&str], says: &[&str]) {
    let before = listing(bench);
    let output = bench.medley(arguments);
    check(&output, arguments, says);
    assert_eq!(before, listing(bench), "{arguments:?} left something behind");
}

fn check(output: &Output, arguments: &[&str], says: &[&str]) {
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(exit::BAD_INPUT), "{arguments:?}: {message}");
    assert_eq!(message.trim_end().lines().count(), 1, "{arguments:?}: {message}");
    assert_eq!(message.matches("error:").count(), 1, "{arguments:?}: {message}");
    for part in says {
        assert!(message.contains(part), "{arguments:?} should mention {part:?}: {message}");
    }
}

/// Every file below the test's directory with its size; but for the store, which a coordinator must open to look.
fn listing(bench: &Bench) -> Vec<(std::path::PathBuf, u64)> {
    let mut files = Vec::new();
    let mut folders = vec![bench.path().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("the directory is there") {
            let entry = entry.expect("an entry");
            let data = entry.metadata().expect("the entry's metadata");
            files.push((entry.path(), if data.is_dir() { 0 } else { data.len() }));
            if data.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    files.retain(|(path, _)| !path.ends_with(medley_common::run_directory::STORE));
    files.sort();
    files
}

/// `medley run job.toml --out out` with settings is refused.
fn assert_run_refused(bench: &Bench, settings: &[&str], says: &[&str]) {
    let mut arguments = vec!["run", "job.toml", "--out", "out"];
    arguments.extend(settings.iter().flat_map(|setting| ["--set", setting]));
    assert_refused(bench, &arguments, says);
}

/// The same with a data file of these contents.
fn assert_data_refused(contents: &[u8], settings: &[&str], says: &[&str]) {
    let bench = Bench::small();
    bench.write("bad", contents);
    let mut all = vec!["data.path=bad"];
    all.extend(settings);
    assert_run_refused(&bench, &all, says);
}

#[test]
fn data_files() {
    assert_data_refused(b"", &["data.format=user-item"], &["bad", "no interactions"]);
    assert_data_refused(b"who,item\n1,2\n", &["data.format=csv"], &["bad", "user", "who"]);
    assert_data_refused(b"1 1\n1 \xff\xfe\n1 3\n", &["data.format=user-item"], &["bad:2", "UTF-8"]);
    assert_data_refused(b"1 1\n1 2\n1 3\n2 1\n", &["data.format=user-item"], &["bad", "min_length"]);
    let overflow = b"1 1\n1 2\n1 99999999999999999999999\n";
    assert_data_refused(overflow, &["data.format=user-item"], &["bad:3", "overflow"]);
    assert_data_refused(b"1 7\n1 7\n1 7\n1 7\n", &["data.format=user-item"], &["bad", "one item"]);
    // User 1 has had all there is, so that there is nothing to rank the target among.
    let everything = b"1 1\n1 2\n1 3\n1 1\n2 1\n2 2\n2 1\n2 2\n";
    assert_data_refused(
        everything,
        &["data.format=user-item", "evaluation.protocols=[\"uniform99\"]"],
        &["uniform99", "had every item", "full"],
    );
    let bench = Bench::small();
    assert_run_refused(&bench, &["data.path=nowhere.txt"], &["nowhere.txt"]);
    assert_run_refused(&bench, &["data.path=/dev/zero"], &["/dev/zero", "device"]);
    assert_run_refused(&bench, &["data.path=."], &["directory"]);
}

#[test]
fn settings() {
    let bench = Bench::small();
    assert_run_refused(&bench, &["cohort.peers=0"], &["cohort.peers", "0"]);
    assert_run_refused(&bench, &["cohort.peers=1"], &["cohort.peers", "hail", "single"]);
    assert_run_refused(
        &bench,
        &["cohort.peers=9", "train.batch_size=1"],
        &["cohort.peers", "rows", "train.batch_size"],
    );
    assert_run_refused(&bench, &["method.beta=1.0"], &["method.beta", "[0, 1)"]);
    assert_run_refused(&bench, &["method.alpha=1.5"], &["method.alpha", "[0, 1]"]);
    assert_run_refused(&bench, &["method.alhpa=0.5"], &["method.alhpa", "method.alpha"]);
    assert_run_refused(&bench, &["method.alpha=much"], &["method.alpha"]);
    assert_run_refused(&bench, &["nonsense"], &["key=value"]);
    bench.write("typo.toml", "[data]\npath = \"data.txt\"\n\n[netwrok]\nlayers = 3\n");
    assert_refused(&bench, &["run", "typo.toml", "--out", "out"], &["typo.toml:4", "netwrok", "network"]);
    bench.write("broken.toml", "[data\n");
    assert_refused(&bench, &["run", "broken.toml", "--out", "out"], &["broken.toml:1"]);
    assert_refused(&bench, &["run", "absent.toml", "--out", "out"], &["absent.toml"]);
}

#[test]
fn run_directories() {
    let bench = Bench::small();
    bench.run("run", &["train.steps=2"]);
    assert_refused(&bench, &["run", "job.toml", "--out", "run"], &["run", "--resume"]);
    bench.write("file", "not a directory");
    assert_refused(&bench, &["run", "job.toml", "--out", "file/run"], &["file"]);
    assert_refused(&bench, &["run", "--resume", "absent"], &["absent"]);
}

#[test]
fn checkpoints() {
    let bench = Bench::small();
    let run = bench.run("run", &["train.steps=2"]);
    let shared = run.join("checkpoints/step-2/shared.safetensors");
    let bytes = std::fs::read(&shared).expect("the checkpoint's file");
    std::fs::write(&shared, &bytes[..bytes.len() / 2]).expect("the file is writable");
    assert_refused(&bench, &["run", "--resume", "run"], &["shared.safetensors"]);
    let checkpoint = run.join("checkpoints/step-2");
    let checkpoint = checkpoint.to_str().expect("a plain path");
    assert_refused(&bench, &["evaluate", "--checkpoint", checkpoint], &["shared.safetensors"]);
    std::fs::write(&shared, &bytes).expect("the file is writable");

    let wider = ["evaluate", "--checkpoint", checkpoint, "--set", "network.kind=causal"];
    assert_refused(&bench, &wider, &["--set network", "belongs to the checkpoint"]);

    let config = std::fs::read_to_string(run.join("run.toml")).expect("the resolved configuration");
    std::fs::write(run.join("run.toml"), config.replace("dimension = 16", "dimension = 32")).expect("writable");
    assert_refused(&bench, &["evaluate", "--checkpoint", checkpoint], &["run.toml", "another configuration"]);
    assert_refused(&bench, &["run", "--resume", "run"], &["step-2"]);
}

#[test]
fn the_best_parameters_that_patience_goes_back_to() {
    let bench = Bench::small();
    // Nothing is learned, so that the first validation stays the best.
    let settings = ["train.steps=8", "train.evaluate_every=1", "train.patience=50", "optimizer.learning_rate=1e-30"];
    let run = bench.run("run", &settings);
    let best = run.join("checkpoints/step-8/peer-0.best.safetensors");
    std::fs::write(best, "not what it was").expect("the last checkpoint has the best parameters");
    assert_refused(&bench, &["run", "--resume", "run"], &["step-8/peer-0.best.safetensors"]);
}

#[test]
fn port_in_use() {
    let bench = Bench::small();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("a bound address");
    let (setting, port) = (format!("launch.listen={address}"), address.port().to_string());
    assert_run_refused(&bench, &[&setting], &["launch.listen", "in use", &port]);
}

#[test]
fn worker_binary() {
    let bench = Bench::small();
    let run = ["run", "job.toml", "--out", "out"];
    let mut command = bench.command(&run);
    let output = command.env("MEDLEY_WORKER", "absent-worker").output().expect("medley starts");
    check(&output, &run, &["absent-worker", "MEDLEY_WORKER"]);

    let old = bench.path().join("old-worker");
    bench.write("old-worker", "#!/bin/sh\necho medley-worker 0.0.1\n");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&old, mode).expect("the file is ours");
    let mut command = bench.command(&run);
    let output = command.env("MEDLEY_WORKER", &old).output().expect("medley starts");
    check(&output, &run, &["0.0.1", medley_common::VERSION]);
    assert!(!bench.path().join("out").exists());
}

#[test]
fn coordinators_that_take_turns() {
    let bench = Bench::small();
    let etcd = ["--set", "store.kind=etcd", "--set", "store.endpoints=[\"http://127.0.0.1:1\"]"];
    let settings = [&etcd[..], &["--set", "store.request_ms=500", "--set", "store.retry_ms=500"]].concat();
    assert_refused(
        &bench,
        &[&["run", "job.toml"], &settings[..]].concat(),
        &["store.kind: \"etcd\" is for medley coordinate"],
    );
    let coordinate = |listen: &str, more: &[&str], says: &[&str]| {
        let arguments = [&["coordinate", "job.toml", "--out", "out", "--listen", listen], &settings[..], more].concat();
        assert_refused(&bench, &arguments, says);
    };
    coordinate("127.0.0.1:0", &[], &["launch.listen", "127.0.0.1:0", "port"]);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let taken_at = taken.local_addr().expect("a bound socket").to_string();
    coordinate(&taken_at, &[], &["launch.listen", "in use"]);
    drop(taken);
    coordinate(&taken_at, &["--set", "store.endpoints=[\"http://10.0.0.1:2379\"]"], &["store.endpoints", "plain text"]);
    // A coordinator has no use for a worker's key: without one it comes as far as etcd, of which there is none.
    let output = bench.medley(&["certs", "init", "--out", "certificates"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    for name in ["worker.pem", "worker.key"] {
        std::fs::remove_file(bench.path().join("certificates").join(name)).expect("it was made");
    }
    coordinate(&taken_at, &["--set", "security.certificates=certificates"], &["store.endpoints", "no etcd member"]);
    std::fs::create_dir(bench.path().join("out")).expect("a directory");
    bench.write("out/run.toml", "seed = 9\n[data]\npath = \"data.txt\"\n[train]\nsteps = 3\n");
    coordinate(&taken_at, &[], &["holds the run of another job"]);
}
