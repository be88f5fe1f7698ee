//! How the tables' jobs begin.

use super::*;
use std::fmt::Write;

/// Two workers that have joined and met.
pub(super) const BEGINNING: &str = "
    0 w1 joins
      -> log joined worker-1
    5 w0 joins
      -> log joined worker-0
      -> log generation 1 after 0
      -> keep
      -> assign w0 rank 0 of generation 1: peers [0]
      -> assign w1 rank 1 of generation 1: peers [1]
    10 w0 ready
    10 w1 ready
      -> log ready
      -> keep
";

/// What follows when those two have met.
pub(super) fn after_beginning(rest: &str) {
    play(settings(2), &format!("{BEGINNING}{rest}"));
}

/// Workers that have joined in the order of their slots, and met.
pub(super) fn met(workers: u32) -> String {
    let mut table = String::new();
    for slot in 0..workers {
        let _ = writeln!(table, "0 w{slot} joins\n  -> log joined worker-{slot}");
    }
    table += "  -> log generation 1 after 0\n  -> keep\n";
    for slot in 0..workers {
        let _ = writeln!(table, "  -> assign w{slot} rank {slot} of generation 1: peers [{slot}]");
    }
    for slot in 0..workers {
        let _ = writeln!(table, "10 w{slot} ready");
    }
    table + "  -> log ready\n  -> keep\n"
}

/// Settings under which a job bears two losses in a row.
pub(super) fn bearing(workers: u32, change: impl FnOnce(&mut Settings)) -> Settings {
    let mut bearing = settings(workers);
    bearing.recovery.attempts = 2;
    change(&mut bearing);
    bearing
}

/// The first step of three.
const STEP: &str = "
    20 w0 steps 1 1
    20 w1 steps 1 1
    20 w2 steps 1 1
      -> progress 1
";

/// The death of the second worker.
const LOSS: &str = "
    30 w1 exits by_signal_9_(SIGKILL)
    30 w1 session-ends
      -> log lost worker-1
      -> dismiss w1
      -> abort w0 of generation 1
      -> abort w2 of generation 1
      -> start w1
";

/// What follows when three workers have met and committed a step.
pub(super) fn after_three(change: impl FnOnce(&mut Settings), rest: &str) {
    play(bearing(3, change), &format!("{}{STEP}{rest}", met(3)));
}

/// What follows when the second of them has died.
pub(super) fn after_a_loss(change: impl FnOnce(&mut Settings), rest: &str) {
    after_three(change, &format!("{LOSS}{rest}"));
}
