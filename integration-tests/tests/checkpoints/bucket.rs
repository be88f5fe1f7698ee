//! Checkpoints in a bucket.

use super::server::{BUCKET, Server};
use super::{committed, hashes, local, terminate, warnings};
use medley_common::exit;
use medley_common::manifest::{self, Manifest, ManifestFile, TrainingState};
use medley_common::storage::{Attempt, LATEST, Storage, StorageError};
use medley_common::summary::Evaluation;
use medley_integration_tests::{Bench, summary, text, until, wait};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

fn place(prefix: &str) -> String {
    format!("output.checkpoints=s3://{BUCKET}/{prefix}")
}

fn start(bench: &Bench, server: &Server, arguments: &[&str]) -> Child {
    let mut command = bench.command(arguments);
    server.introduce(&mut command).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("medley starts")
}

fn medley(bench: &Bench, server: &Server, arguments: &[&str]) -> Output {
    wait(start(bench, server, arguments))
}

/// Steps of the checkpoints that a server keeps, with their manifests.
fn kept(directory: &Path) -> BTreeMap<u64, Manifest> {
    let entries = fs::read_dir(directory).expect("the prefix is there").filter_map(Result::ok);
    let manifest = |entry: fs::DirEntry| {
        let step = medley_common::run_directory::checkpoint_step(entry.file_name().to_str()?)?;
        let text = fs::read(entry.path().join(manifest::FILE)).ok()?;
        Some((step, serde_json::from_slice(&text).expect("a manifest")))
    };
    entries.filter_map(manifest).collect()
}

#[test]
fn a_run_keeps_its_checkpoints_in_a_bucket_and_goes_on_from_there() {
    let bench = Bench::small();
    let server = Server::start(&bench.path().join("objects"));
    let (in_bucket, objects) = (place("some/run"), server.directory("some/run"));
    let settings = ["train.steps=1200", "train.checkpoint_every=20", "output.keep_checkpoints=2", "train.threads=1"];
    let mut arguments = vec!["run", "job.toml", "--out", "run", "--set", &in_bucket];
    arguments.extend(settings.iter().flat_map(|setting| ["--set", setting]));
    let child = start(&bench, &server, &arguments);
    let run = bench.path().join("run");
    let named = || fs::read_to_string(objects.join(LATEST)).unwrap_or_default();
    until("the newest checkpoint is named", || named().starts_with("step-"));
    terminate(child.id());
    let output = wait(child);
    assert_eq!(output.status.code(), Some(exit::INTERRUPTED), "{}", text(&output.stderr));
    let stopped = summary(&run).steps;
    assert_eq!(named(), format!("step-{stopped}\n"));
    assert!(kept(&objects).contains_key(&stopped));

    // What a killed worker left half-written.
    let half = objects.join("step-5000/generation-1");
    fs::create_dir_all(&half).expect("a directory");
    fs::write(half.join("shared.safetensors"), "half").expect("a file");
    let output = medley(&bench, &server, &["run", "--resume", "run", "--quiet"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(!half.join("shared.safetensors").exists(), "what is half-written is removed");
    let whole = bench.run("whole", &settings);
    let last = &kept(&objects)[&1200];
    let files: BTreeMap<String, String> =
        last.files.iter().map(|file| (file.name.clone(), file.sha256.clone())).collect();
    assert_eq!(files, hashes(&local(&whole), 1200), "the same bits as of a run on the disk that was never stopped");
    assert_eq!(kept(&objects).keys().copied().collect::<Vec<_>>(), [1180, 1200]);
    assert_eq!(committed(&run).last(), Some(&1200));
    assert_eq!(local(&run).steps().expect("a listing"), [0_u64; 0], "nothing on the disk");

    reading_commands_read_it(&bench, &server, &run, &objects);
}

fn reading_commands_read_it(bench: &Bench, server: &Server, run: &Path, objects: &Path) {
    let checkpoint = format!("s3://{BUCKET}/some/run/step-1200");
    let arguments = ["evaluate", "--checkpoint", &checkpoint, "--config", "run/run.toml", "--threads", "1", "--json"];
    let output = medley(bench, server, &arguments);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let printed: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let again: Vec<Evaluation> = serde_json::from_value(printed["evaluations"].clone()).expect("evaluations");
    let of_run = summary(run).peers_evaluated;
    assert!(again.len() == 2 && again.iter().all(|evaluation| of_run.contains(evaluation)), "{again:?}");

    let output = medley(bench, server, &["checkpoint", "list", "run", "--json"]);
    let listed: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(listed["checkpoints"][1]["step"], 1200);
    assert_eq!(listed["checkpoints"][1]["latest"], true);
    let output = medley(bench, server, &["checkpoint", "export", "run", "--out", "model"]);
    assert!(output.status.success(), "{}", text(&output.stderr));

    let output = medley(bench, server, &["checkpoint", "verify", "run"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let generation = kept(objects)[&1200].generation;
    let damaged = objects.join(format!("step-1200/generation-{generation}/peer-1.safetensors"));
    fs::write(damaged, "cut").expect("a file");
    let output = medley(bench, server, &["checkpoint", "verify", &checkpoint]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(exit::FAILURE), "{said}");
    assert!(said.lines().count() == 1 && said.contains("peer-1.safetensors") && said.contains(&checkpoint), "{said}");
    let output = medley(bench, server, &["run", "--resume", "run"]);
    assert_eq!(output.status.code(), Some(exit::BAD_INPUT));
    assert!(text(&output.stderr).contains(&checkpoint), "{}", text(&output.stderr));
}

/// Set for the process that this test starts of itself, since who asks a bucket, and where, is in the environment.
const PLACE: &str = "MEDLEY_TEST_BUCKET";

#[test]
fn a_checkpoint_in_a_bucket_is_never_replaced_and_its_name_never_goes_back() {
    if let Ok(place) = std::env::var(PLACE) {
        return never_replaced(&place);
    }
    let bench = Bench::small();
    let server = Server::start(&bench.path().join("objects"));
    let mut again = Command::new(std::env::current_exe().expect("this test"));
    again.args(["--exact", "bucket::a_checkpoint_in_a_bucket_is_never_replaced_and_its_name_never_goes_back"]);
    again.env(PLACE, format!("s3://{BUCKET}/fenced"));
    let output = server.introduce(&mut again).output().expect("it starts");
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    let named = fs::read_to_string(server.directory("fenced").join(LATEST)).expect("a name");
    assert_eq!((named.as_str(), kept(&server.directory("fenced")).len()), ("step-20\n", 2));
}

fn never_replaced(place: &str) {
    let storage = Storage::of_run(Path::new("."), place).expect("a bucket");
    let put = |step, generation, contents: &[u8]| {
        let attempt = Attempt { step, generation };
        storage.put(attempt, "shared.safetensors", contents).expect("it is written");
        let (bytes, sha256) = storage.measure(attempt, "shared.safetensors").expect("it is there");
        let files = vec![ManifestFile { name: "shared.safetensors".into(), bytes, sha256 }];
        let manifest: Manifest = serde_json::from_value(serde_json::json!({
            "format": manifest::FORMAT, "version": "", "job": "job", "generation": generation, "step": step, "peers": 1,
            "config_hash": "", "data_hash": "", "state": TrainingState::default(), "files": files,
        }))
        .expect("a manifest");
        storage.commit(attempt, &manifest)
    };
    let read = |step| storage.open(step).and_then(|stored| stored.read("shared.safetensors")).expect("a checkpoint");
    put(10, 1, b"first").expect("the step is free");
    put(20, 1, b"later").expect("the step is free");
    let error = put(10, 2, b"second").expect_err("the step has a checkpoint");
    assert!(matches!(error, StorageError::Exists { .. }) && !error.to_string().contains('\n'), "{error}");
    assert_eq!(read(10), b"first");
    storage.set_aside(10).expect("it can be");
    put(10, 2, b"second").expect("the step is free again");
    assert_eq!(read(10), b"second");
    storage.set_latest(20).expect("a name");
    storage.set_latest(10).expect("no other name");
}

#[test]
fn files_larger_than_a_part_are_put_in_parts() {
    let bench = Bench::small();
    // Everybody has items of their own, so that a small data set has a catalogue of 9000.
    let lines = (0..300).flat_map(|user| (0..30).map(move |item| format!("{user} {}\n", 30 * user + item)));
    bench.write("data.txt", lines.collect::<String>());
    let server = Server::start(&bench.path().join("objects"));
    let settings =
        ["train.steps=2", "network.dimension=128", "network.heads=2", "evaluation.protocols=[\"uniform99\"]"];
    let mut arguments = vec!["run", "job.toml", "--out", "run"];
    let in_bucket = place("large");
    arguments.extend(settings.iter().chain([&in_bucket.as_str()]).flat_map(|setting| ["--set", setting]));
    let output = medley(&bench, &server, &arguments);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let manifest = &kept(&server.directory("large"))[&2];
    let moments = manifest.files.iter().find(|file| file.name == "shared.optimizer.safetensors").expect("moments");
    assert!(moments.bytes > 8 << 20, "{} bytes are one part", moments.bytes);
    let output = medley(&bench, &server, &["checkpoint", "verify", "run"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
}

#[test]
fn a_job_goes_on_while_its_bucket_is_away() {
    let bench = Bench::small();
    let root = bench.path().join("objects");
    let server = Server::start(&root);
    let address = server.address();
    let in_bucket = place("run");
    let settings = ["train.steps=1000000", "train.checkpoint_every=50", "cohort.workers=2", &in_bucket];
    let mut arguments = vec!["run", "job.toml", "--out", "run"];
    arguments.extend(settings.iter().flat_map(|setting| ["--set", setting]));
    let child = start(&bench, &server, &arguments);
    let run = bench.path().join("run");
    until("a checkpoint is committed", || run.join("events.jsonl").is_file() && !committed(&run).is_empty());
    drop(server);
    until("a checkpoint is lost", || !warnings(&run).is_empty());
    let warning = warnings(&run).remove(0);
    assert!(warning.contains(&format!("s3://{BUCKET}/run/step-")) && warning.contains("training goes on"), "{warning}");

    let before = committed(&run).len();
    let server = Server::start_at(&root, address);
    until("a later checkpoint is committed", || committed(&run).len() > before);
    terminate(child.id());
    let output = wait(child);
    assert_eq!(output.status.code(), Some(exit::INTERRUPTED), "{}", text(&output.stderr));
    assert_eq!(kept(&server.directory("run")).keys().last(), committed(&run).last());
}

#[test]
fn a_bucket_that_does_not_serve_is_refused_before_anything_is_written() {
    let bench = Bench::small();
    let server = Server::start(&bench.path().join("objects"));
    let faults = [
        (format!("s3://{BUCKET}/run"), "AWS_SECRET_ACCESS_KEY", "not that of the tests"),
        ("s3://nowhere/run".into(), "AWS_REGION", "us-east-1"),
        ("s3://".into(), "AWS_REGION", "us-east-1"),
        ("ftp://host/run".into(), "AWS_REGION", "us-east-1"),
        // A port where nobody listens.
        (format!("s3://{BUCKET}/run"), "AWS_ENDPOINT_URL", "http://127.0.0.1:9"),
    ];
    for (place, variable, value) in faults {
        let set = format!("output.checkpoints={place}");
        let mut command = bench.command(&["run", "job.toml", "--out", "run", "--set", &set]);
        server.introduce(&mut command).env(variable, value).stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = wait(command.spawn().expect("medley starts"));
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(exit::BAD_INPUT), "{place}: {said}");
        assert!(said.lines().count() == 1 && said.contains(&place), "{said}");
        assert!(!bench.path().join("run").exists());
    }

    // One place keeps the checkpoints of one run.
    let in_bucket = place("taken");
    let of = |name: &str| medley(&bench, &server, &["run", "job.toml", "--out", name, "--set", &in_bucket, "--quiet"]);
    assert!(of("first").status.success());
    let second = of("second");
    assert_eq!(second.status.code(), Some(exit::BAD_INPUT));
    let said = text(&second.stderr);
    assert!(said.contains("output.checkpoints") && said.contains("holds checkpoints already"), "{said}");
}
