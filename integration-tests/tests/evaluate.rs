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
fn a_reader_that_has_seen_enough_is_no_failure() {
    let bench = Bench::small();
    bench.run("run", &["train.steps=2"]);
    let mut command = bench.command(&["evaluate", "--checkpoint", "run/checkpoints/step-2"]);
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let output = command.stdout(writer).output().expect("medley starts");
    assert!(output.status.success() && output.stderr.is_empty(), "{}", text(&output.stderr));
}
