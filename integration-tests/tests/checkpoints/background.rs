//! Writing checkpoints beside training changes nothing of it.

use super::{committed, hashes, local};
use medley_common::events::Event;
use medley_common::storage::LATEST;
use medley_integration_tests::{Bench, difference, events, text};
use std::fs;

const SETTINGS: [&str; 3] = ["train.steps=40", "cohort.workers=2", "output.keep_checkpoints=0"];

#[test]
fn a_checkpoint_every_step_leaves_the_same_bits_as_one_at_the_end() {
    let bench = Bench::small();
    let with = |name: &str, every: &str| bench.run(name, &[&SETTINGS[..], &[every]].concat());
    let (alone, always) = (with("alone", "train.checkpoint_every=0"), with("always", "train.checkpoint_every=1"));
    assert_eq!(local(&alone).steps().expect("a listing"), [40]);
    assert_eq!(committed(&always), (1..=40).collect::<Vec<u64>>(), "in order, each once");
    let expected = hashes(&local(&alone), 40);
    assert_eq!(expected.len(), 6, "shared parameters and two encoders, each with its moments");
    assert_eq!(hashes(&local(&always), 40), expected);
    assert_eq!(difference(&alone, &always), 0.0);
}

#[test]
fn a_checkpoint_that_was_written_while_training_went_on_is_of_its_own_step() {
    let bench = Bench::small();
    let whole = bench.run("whole", &[&SETTINGS[..], &["train.checkpoint_every=1"]].concat());
    let expected = hashes(&local(&whole), 40);
    for step in [1, 23] {
        for later in step + 1..=40 {
            let _ = fs::remove_dir_all(whole.join(format!("checkpoints/step-{later}")));
        }
        let output = bench.medley(&["run", "--resume", "whole"]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        let from = events(&whole).into_iter().rev().find_map(|event| match event {
            Event::JobStarted { resumed_from, .. } => Some(resumed_from),
            _ => None,
        });
        assert_eq!(from, Some(Some(step)), "although `latest` names another");
        assert_eq!(hashes(&local(&whole), 40), expected, "from step {step}");
    }
}

#[test]
fn what_is_half_written_is_neither_loaded_nor_in_the_way() {
    let bench = Bench::small();
    let run = bench.run("run", &SETTINGS);
    let checkpoints = run.join("checkpoints");
    let staging = checkpoints.join(".step-99.staging");
    fs::create_dir(&staging).expect("a directory");
    fs::write(staging.join("shared.safetensors"), "half").expect("a file");
    fs::create_dir(checkpoints.join("step-77")).expect("a directory");
    fs::write(checkpoints.join(LATEST), "step-77\n").expect("a file");
    assert_eq!(local(&run).latest().expect("a listing"), Some(40));

    let output = bench.medley(&["run", "--resume", "run", "--quiet"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(!staging.exists());
    assert_eq!(fs::read_to_string(checkpoints.join(LATEST)).expect("a name"), "step-40\n", "mended");
    let resumed = |event: &Event| matches!(event, Event::JobStarted { resumed_from: Some(40), .. });
    assert!(events(&run).iter().any(resumed));
}

#[test]
fn a_run_whose_t_has_changed_goes_on_with_the_t_that_it_had() {
    let bench = Bench::small();
    let change = "cohort.schedule=[{ step = 15, peers = 3 }, { step = 25, peers = 2 }]";
    // Who hosts whom after a change differs from who would from the beginning, and with it the order of sums.
    let settings = [&SETTINGS[..], &["train.checkpoint_every=5", "cohort.workers=1", change]].concat();
    let whole = bench.run("whole", &settings);
    let expected = hashes(&local(&whole), 40);
    for step in [30, 20, 15] {
        for later in local(&whole).steps().expect("a listing").into_iter().filter(|later| *later > step) {
            fs::remove_dir_all(whole.join(format!("checkpoints/step-{later}"))).expect("it is listed");
        }
        let output = bench.medley(&["run", "--resume", "whole"]);
        assert!(output.status.success(), "from step {step}: {}", text(&output.stderr));
        assert_eq!(hashes(&local(&whole), 40), expected, "from step {step}");
    }
}
