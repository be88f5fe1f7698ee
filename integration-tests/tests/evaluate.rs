//! `medley evaluate`: a checkpoint's peers are measured as the run measured them, under any protocol.

use medley_common::summary::Evaluation;
use medley_integration_tests::{Bench, summary, text};

/// Evaluates the last checkpoint of `run`.
fn evaluate(bench: &Bench, arguments: &[&str]) -> Vec<Evaluation> {
    let mut all = vec!["evaluate", "--checkpoint", "run/checkpoints/step-30", "--threads", "1", "--json"];
    all.extend(arguments);
    let output = bench.medley(&all);
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    let printed: serde_json::Value = serde_json::from_slice(&output.stdout).expect("--json prints JSON");
    serde_json::from_value(printed["evaluations"].clone()).expect("evaluations have their documented form")
}

#[test]
fn a_checkpoint_is_measured_as_the_run_measured_it_and_under_other_protocols() {
    let bench = Bench::small();
    let protocols = "evaluation.protocols=[\"uniform99\", \"full\"]";
    let run = bench.run("run", &["train.steps=30", "train.threads=1", "train.metric_protocol=full", protocols]);
    let of_run = summary(&run).peers_evaluated;
    for split in ["valid", "test"] {
        let expected: Vec<&Evaluation> = of_run.iter().filter(|evaluation| evaluation.split == split).collect();
        let again = evaluate(&bench, &["--split", split]);
        assert_eq!(again.len(), 4, "two peers, two protocols");
        for evaluation in &again {
            assert!(expected.contains(&evaluation), "{evaluation:?} is not among {expected:?}");
        }
    }
    let others = evaluate(&bench, &["--set", "evaluation.protocols=[\"popularity99\", \"full-unseen\"]"]);
    let protocols: Vec<&str> = others.iter().map(|evaluation| evaluation.protocol.as_str()).collect();
    assert_eq!(protocols, ["popularity99", "full-unseen", "popularity99", "full-unseen"]);
    assert!(others.iter().all(|evaluation| evaluation.users == 80 && evaluation.step == 30));

    let mut beside = bench.command(&["evaluate", "--checkpoint", "step-30"]);
    let output = beside.current_dir(run.join("checkpoints")).env("PWD", run.join("checkpoints")).output();
    // The data's path is relative to where the run was started, so that it is not found from here: the run is.
    let message = text(&output.expect("medley starts").stderr);
    assert!(message.contains("data.txt") && !message.contains("run.toml"), "{message}");
}

#[test]
fn runs_with_other_seeds_rank_the_same_candidates_unless_evaluation_has_another_seed() {
    let bench = Bench::small();
    let hashes = |name: &str, setting: &str| -> Vec<String> {
        let protocols = "evaluation.protocols=[\"uniform99\", \"popularity99\"]";
        let run = bench.run(name, &["train.steps=2", protocols, setting]);
        let hashes = summary(&run).peers_evaluated.into_iter().filter_map(|evaluation| evaluation.candidates_hash);
        hashes.collect()
    };
    let first = hashes("first", "seed=1");
    assert_eq!(first.len(), 8, "two peers, two splits, two protocols");
    assert_eq!(first, hashes("second", "seed=2"));
    let other = hashes("third", "evaluation.seed=2");
    assert!(first.iter().zip(&other).all(|(first, other)| first != other));
}

#[test]
fn a_full_disk_under_the_output_is_a_failure_and_no_bad_input() {
    let bench = Bench::small();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("Linux has it");
    let mut command = bench.command(&["data", "stats", "data.txt"]);
    let output = command.stdout(full).output().expect("medley starts");
    assert_eq!(output.status.code(), Some(medley_common::exit::FAILURE), "{}", text(&output.stderr));
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let bench = Bench::small();
    bench.run("run", &["train.steps=2"]);
    let mut command = bench.command(&["evaluate", "--checkpoint", "run/checkpoints/step-2"]);
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let output = command.stdout(writer).output().expect("medley starts");
    assert!(output.status.success() && output.stderr.is_empty(), "{}", text(&output.stderr));
}
