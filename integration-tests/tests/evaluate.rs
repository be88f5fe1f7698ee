//! `medley evaluate`: a checkpoint's peers are measured as the run measured them, under any protocol.

use medley_common::summary::Evaluation;
use medley_integration_tests::{Bench, summary, text};

/// Evaluates the last checkpoint of `run`.
fn evaluate(bench: &Bench, arguments: &[&str]) -> Vec<Evaluation> {
    let mut all = vec!["evaluate", "--checkpoint", "run/checkpoints/step-30", "--json"];
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
    let run = bench.run("run", &["train.steps=30", protocols]);
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
}
