//! `medley checkpoint`: list, verify, export.

use medley_common::summary::Evaluation;
use medley_common::{exit, run_directory};
use medley_integration_tests::{Bench, summary, text};
use std::fs;

fn json(bench: &Bench, arguments: &[&str]) -> serde_json::Value {
    let output = bench.medley(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("--json prints JSON")
}

fn evaluate(bench: &Bench, model: &str, split: &str) -> Vec<Evaluation> {
    let printed = json(bench, &["evaluate", "--checkpoint", model, "--split", split, "--threads", "1", "--json"]);
    serde_json::from_value(printed["evaluations"].clone()).expect("evaluations have their documented form")
}

#[test]
fn a_listing_names_the_best_the_newest_and_what_is_not_complete() {
    let bench = Bench::small();
    let run = bench.run(
        "run",
        &["train.steps=30", "train.checkpoint_every=10", "train.evaluate_every=10", "output.keep_checkpoints=0"],
    );
    fs::create_dir(run.join("checkpoints/.step-40.staging")).expect("a directory");
    let listed = json(&bench, &["checkpoint", "list", "run", "--json"]);
    let rows = listed["checkpoints"].as_array().expect("checkpoints");
    let steps: Vec<u64> = rows.iter().filter_map(|row| row["step"].as_u64()).collect();
    assert_eq!(steps, [10, 20, 30, 40]);
    let complete: Vec<bool> = rows.iter().filter_map(|row| row["complete"].as_bool()).collect();
    assert_eq!(complete, [true, true, true, false]);
    let metric = |row: &serde_json::Value| row["metric"].as_f64();
    let best = rows.iter().filter_map(metric).fold(f64::MIN, f64::max);
    let marked = |mark: &str| rows.iter().filter(|row| row[mark] == true).collect::<Vec<_>>();
    assert_eq!(marked("best").len(), 1);
    assert_eq!(metric(marked("best")[0]), Some(best));
    assert_eq!((marked("latest").len(), &marked("latest")[0]["step"]), (1, &30.into()));
    let size: u64 = fs::read_dir(run_directory::checkpoint(&run, 10))
        .expect("the checkpoint")
        .filter_map(|entry| Some(entry.ok()?).filter(|entry| entry.file_name() != "manifest.json")?.metadata().ok())
        .map(|metadata| metadata.len())
        .sum();
    assert_eq!(rows[0]["bytes"], size);
    assert!(rows[0]["age_seconds"].as_f64().is_some_and(|age| (0.0..600.0).contains(&age)));

    let table = text(&bench.medley(&["checkpoint", "list", "run"]).stdout);
    assert!(table.contains("best") && table.contains("latest") && table.lines().count() == 6, "{table}");
    let missing = bench.medley(&["checkpoint", "list", "nowhere"]);
    assert_eq!(missing.status.code(), Some(exit::BAD_INPUT));
}

#[test]
fn every_damage_is_a_line_and_the_exit_code_says_so() {
    let bench = Bench::small();
    let run = bench.run("run", &["train.steps=20", "train.checkpoint_every=10"]);
    let verify = |arguments: &[&str]| {
        let output = bench.medley(&[&["checkpoint", "verify"], arguments].concat());
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let (code, whole, said) = verify(&["run"]);
    assert_eq!((code, whole.lines().count(), said.as_str()), (Some(exit::SUCCESS), 2, ""));

    let damaged = run_directory::checkpoint(&run, 10);
    let shard = damaged.join("peer-0.safetensors");
    let mut bytes = fs::read(&shard).expect("a shard");
    *bytes.last_mut().expect("it is not empty") ^= 1;
    fs::write(&shard, bytes).expect("a file");
    fs::remove_file(damaged.join("shared.safetensors")).expect("a shard");
    for arguments in [&["run"][..], &["run", "--step", "10"], &["run/checkpoints/step-10"]] {
        let (code, _, said) = verify(arguments);
        assert_eq!(code, Some(exit::FAILURE), "{arguments:?}");
        assert_eq!(said.lines().count(), 2, "{said}");
        assert!(said.contains("peer-0.safetensors") && said.contains("shared.safetensors"), "{said}");
    }
    assert_eq!(verify(&["run", "--step", "latest"]).0, Some(exit::SUCCESS));
    for arguments in [&["run", "--step", "7"][..], &["nowhere"], &["run/checkpoints/step-20", "--step", "20"]] {
        let (code, _, said) = verify(arguments);
        assert_eq!((code, said.lines().count()), (Some(exit::BAD_INPUT), 1), "{said}");
    }
}

#[test]
fn an_exported_peer_is_measured_as_the_run_measured_it() {
    let bench = Bench::small();
    let run = bench.run("run", &["train.steps=30", "train.threads=1", "cohort.peers=3"]);
    let of_run = summary(&run);
    let best = of_run.best_peer.expect("a best peer");
    let exports: [(&str, Vec<&str>, u32); 2] = [("best", vec![], best), ("other", vec!["--peer", "2"], 2)];
    for (out, arguments, peer) in exports {
        let mut all = vec!["checkpoint", "export", "run", "--out", out, "--json"];
        all.extend(arguments);
        let exported = json(&bench, &all);
        assert_eq!((&exported["peers"][0], &exported["step"]), (&peer.into(), &30.into()));
        for split in ["valid", "test"] {
            let again = evaluate(&bench, out, split);
            assert_eq!(again.len(), 1);
            assert_eq!(again[0].subject, format!("peer-{peer}"));
            assert!(of_run.peers_evaluated.contains(&again[0]), "{:?}", again[0]);
        }
    }
    let described = fs::read(bench.path().join("best/model.json")).expect("a description");
    let described: serde_json::Value = serde_json::from_slice(&described).expect("JSON");
    assert_eq!((&described["data_hash"], &described["items"]), (&of_run.data_hash.as_str().into(), &100.into()));
    assert_eq!(described["checkpoint"], "run/checkpoints/step-30");
    let valid = |evaluation: &&Evaluation| evaluation.split == "valid" && evaluation.subject == format!("peer-{best}");
    let expected = of_run.peers_evaluated.iter().find(valid).expect("its validation").metrics["NDCG@10"].mean;
    assert_eq!(described["chosen_by"]["value"]["mean"], expected);

    for (arguments, named) in [
        (vec!["--out", "best"], "exists"),
        (vec!["--out", "new", "--peer", "3"], "no such peer, but 0, 1, 2"),
        (vec!["--out", "new", "--step", "7"], "it has 30"),
    ] {
        let output = bench.medley(&[&["checkpoint", "export", "run"], &arguments[..]].concat());
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(exit::BAD_INPUT), "{said}");
        assert!(said.contains(named) && said.lines().count() == 1, "{said}");
        assert!(!bench.path().join("new").exists());
    }
    // As after the loss of a peer without a replacement.
    let path = run.join("checkpoints/step-30/manifest.json");
    let mut manifest: serde_json::Value = serde_json::from_slice(&fs::read(&path).expect("a manifest")).expect("JSON");
    manifest["peers"] = 2.into();
    let files = manifest["files"].as_array_mut().expect("files");
    files.retain(|file| !file["name"].as_str().expect("a name").starts_with("peer-1."));
    fs::write(&path, manifest.to_string()).expect("a file");
    let subjects: Vec<String> =
        evaluate(&bench, "run/checkpoints/step-30", "test").into_iter().map(|evaluation| evaluation.subject).collect();
    assert_eq!(subjects, ["peer-0", "peer-2"]);
    let exported = json(&bench, &["checkpoint", "export", "run", "--out", "third", "--peer", "2", "--json"]);
    assert_eq!(exported["peers"][0], 2);
    let (one, other) = ("other/model.safetensors", "third/model.safetensors");
    let [one, other] = [one, other].map(|path| fs::read(bench.path().join(path)).expect("tensors"));
    assert!(one == other, "the same peer");
    json(&bench, &["checkpoint", "export", "run", "--out", "best-of-two", "--json"]);

    let tensors = bench.path().join("best/model.safetensors");
    let mut bytes = fs::read(&tensors).expect("tensors");
    *bytes.last_mut().expect("it is not empty") ^= 1;
    fs::write(&tensors, bytes).expect("a file");
    let output = bench.medley(&["evaluate", "--checkpoint", "best"]);
    assert_eq!(output.status.code(), Some(exit::BAD_INPUT));
    assert!(text(&output.stderr).contains("model.safetensors"), "{}", text(&output.stderr));
}

/// Peers that have hardly been trained rank by chance, so that among some steps the average is better here and worse there.
#[test]
fn the_average_is_exported_where_it_is_better_and_both_figures_are_told() {
    let bench = Bench::small();
    bench.run(
        "run",
        &["train.steps=16", "train.checkpoint_every=1", "output.keep_checkpoints=0", "optimizer.learning_rate=0.02"],
    );
    let (mut better, mut worse) = (0, 0);
    for step in 1..=16_u64 {
        let (out, step) = (format!("model-{step}"), step.to_string());
        let exported =
            json(&bench, &["checkpoint", "export", "run", "--step", &step, "--average", "--out", &out, "--json"]);
        let (chosen, average) = (&exported["chosen_by"]["value"]["mean"], &exported["average"]["mean"]);
        let of_model = evaluate(&bench, &out, "valid").remove(0);
        assert_eq!(
            &serde_json::json!(of_model.metrics["NDCG@10"].mean),
            chosen,
            "what is exported is what was measured"
        );
        assert_eq!(exported["subject"], of_model.subject.as_str());
        if exported["subject"] == "average" {
            better += 1;
            assert_eq!((chosen, exported["peers"].as_array().map(Vec::len)), (average, Some(2)));
        } else {
            worse += 1;
            assert!(average.as_f64() <= chosen.as_f64());
        }
    }
    assert!(better > 0 && worse > 0, "{better} better, {worse} not: neither case may go untested");
    let output = bench.medley(&["checkpoint", "export", "run", "--step", "16", "--average", "--out", "last"]);
    let said = text(&output.stdout);
    assert!(said.contains("NDCG@10") && said.lines().count() == 1, "{said}");
}
