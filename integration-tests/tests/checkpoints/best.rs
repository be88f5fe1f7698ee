//! With patience training goes back to the best validation, whose own checkpoint may never have come about.

use super::{committed, local};
use medley_integration_tests::{Bench, summary, text};
use std::fs;

#[test]
fn a_run_is_resumed_without_the_checkpoint_of_its_best_validation() {
    let bench = Bench::small();
    // Nothing is learned, so that the first validation stays the best.
    let settings = [
        "train.steps=20",
        "train.threads=1",
        "train.evaluate_every=5",
        "train.patience=9",
        "train.checkpoint_every=10",
        "output.keep_checkpoints=0",
        "optimizer.learning_rate=1e-30",
    ];
    let run = bench.run("run", &settings);
    assert_eq!(committed(&run), [5, 10, 20], "the best, and those that were due");
    let expected = summary(&run).peers_evaluated;
    assert!(expected.iter().all(|evaluation| evaluation.step == 5), "{expected:?}");
    for step in [5, 20] {
        fs::remove_dir_all(run.join(format!("checkpoints/step-{step}"))).expect("it was committed");
    }
    let output = bench.medley(&["run", "--resume", "run"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(local(&run).steps().expect("a listing"), [10, 20]);
    assert_eq!(summary(&run).peers_evaluated, expected);
}
