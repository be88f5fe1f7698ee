//! Real processes, dropout on: exchange mode and placement must not change what is learned, nor must a break.

use medley_integration_tests::{Bench, difference, summary};

/// Mode and workers; with fewer workers than peers some host more than others.
fn assert_same_training(peers: usize, settings: &[&str]) {
    let bench = Bench::small();
    let peers_setting = format!("cohort.peers={peers}");
    let mut runs = Vec::new();
    for mode in ["hidden", "logits", "distributions"] {
        for workers in [1, 2, peers] {
            let name = format!("{mode}-{workers}");
            if bench.path().join(&name).exists() {
                continue;
            }
            let (mode, workers) = (format!("exchange.mode={mode}"), format!("cohort.workers={workers}"));
            let mut all = vec![peers_setting.as_str(), mode.as_str(), workers.as_str(), "train.threads=1"];
            all.extend(settings);
            runs.push(bench.run(&name, &all));
        }
    }
    for run in &runs[1..] {
        let worst = difference(&runs[0], run);
        assert!(worst < 1e-4, "{}: curves differ by {worst:e}", run.display());
    }
    let first = summary(&runs[0]);
    assert_eq!((first.steps, first.peers), (50, peers as u32));
}

#[test]
fn two_peers() {
    assert_same_training(2, &["method.beta=0.1"]);
}

#[test]
fn three_peers() {
    assert_same_training(3, &["method.beta=0.1", "method.name=peerrec"]);
}

#[test]
fn five_peers() {
    assert_same_training(5, &["method.beta=0.1"]);
}

#[test]
fn a_resumed_run_equals_an_uninterrupted_one() {
    let bench = Bench::small();
    let settings = ["train.checkpoint_every=20", "method.beta=0.1", "train.threads=2"];
    let whole = bench.run("whole", &settings);
    let broken = bench.run("broken", &settings);
    // What a crash after step 47 leaves: the checkpoints of steps 20 and 40, no result.
    std::fs::remove_dir_all(broken.join("checkpoints/step-50")).expect("the last checkpoint exists");
    std::fs::remove_file(broken.join("summary.json")).expect("the summary exists");
    let output = bench.medley(&["run", "--resume", "broken"]);
    assert!(output.status.success(), "{}", medley_integration_tests::text(&output.stderr));
    assert!(difference(&whole, &broken) == 0.0, "the same placement agrees bit for bit");
    let (whole, broken) = (summary(&whole), summary(&broken));
    assert_eq!(whole.peers_evaluated, broken.peers_evaluated);
    assert_eq!((broken.steps, broken.generations), (50, 2));
}
