//! Workers that are away for a while or silent for good, late reports, and exchanges that fail though nobody is lost.

use super::beginnings::{after_a_loss, after_three, bearing};
use super::*;

#[test]
fn a_worker_that_is_silent_is_replaced_and_what_it_still_says_is_ignored() {
    play(
        bearing(2, |_| ()),
        &format!(
            "{BEGINNING}
        20 w0 steps 1 1
        20 w1 steps 1 1
          -> progress 1
        200 w0 beats
        400 w0 beats
        600 w0 beats
        800 w0 beats
        1000 w0 beats
        1020 tick
          -> log lost worker-1
          -> dismiss w1
          -> abort w0 of generation 1
          -> start w1
        1030 w0 leaves 1 hosting 0 keeping 1
        1200 w1 joins
          -> log joined worker-1
          -> log generation 2 after 1
          -> keep
          -> assign w0 rank 0 of generation 2: peers [0] after 1, shared of rank 0, 0 of rank 0, 1 of rank 0
          -> assign w1 rank 1 of generation 2: peers [1] after 1, shared of rank 0, 0 of rank 0, 1 of rank 0
        1300 w0 steps 2 2
        1310 w1 zombie-steps 2
        1320 w1/1 steps 2 2
        1330 w1/2 steps 2 2
          -> progress 2
          -> log recovered from [\"worker-1\"] at 1, 0 again, 310 ms
        "
        ),
    );
}

#[test]
fn a_worker_that_lost_only_its_session_goes_on() {
    after_three(
        |_| (),
        "
        30 w1 session-ends
        500 w0 beats
        500 w2 beats
        600 w1 returns
        610 w1 steps 2 2
        620 w0 steps 2 2
        620 w2 steps 2 2
          -> progress 2
        ",
    );
}

#[test]
fn an_exchange_that_fails_without_a_loss_is_formed_again_until_it_has_failed_too_often() {
    let mut script = String::new();
    for generation in 1..=2 {
        let now = generation * 1_000;
        let origins = "after 0, shared of rank 0, 0 of rank 0, 1 of rank 1";
        script += &format!(
            "
        {now} w0 leaves 0 hosting 0 keeping 1 missing 1
          -> abort w1 of generation {generation}
        {now} w1 leaves 0 hosting 1 keeping 0 missing 0
          -> log warning the exchange failed and is formed again: worker 1 was lost to worker 0, which reports: the exchange broke
        "
        );
        if generation == 2 {
            script += &format!("{} tick\n", now + 100);
        }
        script += &format!(
            "
          -> log generation {next} after 0
          -> keep
          -> assign w0 rank 0 of generation {next}: peers [0] {origins}
          -> assign w1 rank 1 of generation {next}: peers [1] {origins}
        {} w0 ready
        {} w1 ready
        {} w0 beats
        {} w1 beats
        ",
            now + 110,
            now + 110,
            now + 600,
            now + 600,
            next = generation + 1,
        );
    }
    script += "
        3000 w0 leaves 0 hosting 0 keeping 1 missing 1
          -> abort w1 of generation 3
        3000 w1 leaves 0 hosting 1 keeping 0 missing 0
          -> kill all
          -> log finished at 0: gave up after 3 losses in a row without a committed step (recovery.attempts); the first: worker 1 was lost to worker 0, which reports: the exchange broke
          -> finish failed 1
        ";
    play(bearing(2, |settings| settings.death = Duration::from_secs(2)), &format!("{BEGINNING}{script}"));
}

#[test]
fn a_survivor_that_does_not_leave_counts_as_dead() {
    after_a_loss(
        |settings| {
            settings.recovery.reform = Duration::from_millis(600);
            settings.death = Duration::from_secs(10);
        },
        "
        40 w0 leaves 1 hosting 0 keeping 2,1
        100 w1 joins
          -> log joined worker-1
        629 tick
        630 tick
          -> log lost worker-2
          -> dismiss w2
          -> start w2
        700 w2 joins
          -> log joined worker-2
          -> log generation 2 after 1
          -> keep
          -> assign w0 rank 0 of generation 2: peers [0] after 1, shared of rank 0, 0 of rank 0, 1 of rank 0, 2 of rank 0
          -> assign w1 rank 1 of generation 2: peers [1] after 1, shared of rank 0, 0 of rank 0, 1 of rank 0, 2 of rank 0
          -> assign w2 rank 2 of generation 2: peers [2] after 1, shared of rank 0, 0 of rank 0, 1 of rank 0, 2 of rank 0
        ",
    );
}

#[test]
fn a_peer_that_was_to_come_back_when_the_exchange_failed_comes_back_all_the_same() {
    let origins = "after 9, shared of rank 0, 0 of rank 0, 1 of rank 1, 2 of rank 1";
    after_a_loss(
        |settings| settings.recovery.mode = RecoveryMode::Continue,
        &format!(
            "
        40 w0 leaves 1 hosting 0 keeping 2
        41 w2 leaves 1 hosting 2 keeping 1
          -> log generation 2 after 1
          -> keep
          -> assign w0 rank 0 of generation 2: peers [0] after 1, shared of rank 0, 0 of rank 0, 2 of rank 1
          -> assign w2 rank 1 of generation 2: peers [2] after 1, shared of rank 0, 0 of rank 0, 2 of rank 1
        50 w0 ready
        50 w2 ready
        900 w1 joins
          -> log joined worker-1
          -> pause w0
          -> pause w2
        910 w0 leaves 9 hosting 0 keeping 2 paused
        911 w2 leaves 9 hosting 2 keeping 0,1@1 paused
          -> log generation 3 after 9
          -> keep
          -> assign w0 rank 0 of generation 3: peers [0] {origins}
          -> assign w2 rank 1 of generation 3: peers [2] {origins}
          -> assign w1 rank 2 of generation 3: peers [1] {origins}
        920 w0 leaves 9 hosting 0 keeping 2 missing 1
          -> abort w1 of generation 3
          -> abort w2 of generation 3
        921 w1 leaves 0
        922 w2 leaves 9 hosting 2 keeping 0,1@1
          -> log warning the exchange failed and is formed again: worker 2 was lost to worker 0, which reports: the exchange broke
        1030 tick
          -> log generation 4 after 9
          -> keep
          -> assign w0 rank 0 of generation 4: peers [0] {origins}
          -> assign w2 rank 1 of generation 4: peers [2] {origins}
          -> assign w1 rank 2 of generation 4: peers [1] {origins}
        "
        ),
    );
}

#[test]
fn a_step_that_is_reported_after_a_generation_ended_is_no_recovery() {
    after_three(
        |_| (),
        "
        25 w0 steps 2 2
        25 w1 steps 2 2
        30 w0 leaves 2 hosting 0 keeping 2 missing 1
          -> abort w1 of generation 1
          -> abort w2 of generation 1
        31 w2 steps 2 2
          -> progress 2
        32 w1 exits by_signal_9_(SIGKILL)
        32 w1 session-ends
          -> log lost worker-1
          -> dismiss w1
          -> start w1
        33 w2 leaves 2 hosting 2 keeping 1
        500 w1 joins
          -> log joined worker-1
          -> log generation 2 after 2
          -> keep
          -> assign w0 rank 0 of generation 2: peers [0] after 2, shared of rank 0, 0 of rank 0, 1 of rank 2, 2 of rank 2
          -> assign w1 rank 1 of generation 2: peers [1] after 2, shared of rank 0, 0 of rank 0, 1 of rank 2, 2 of rank 2
          -> assign w2 rank 2 of generation 2: peers [2] after 2, shared of rank 0, 0 of rank 0, 1 of rank 2, 2 of rank 2
        600 w0 steps 3 3
        600 w1 steps 3 3
        600 w2 steps 3 3
          -> progress 3
          -> log recovered from [\"worker-1\"] at 1, 0 again, 570 ms
        ",
    );
}

/// After the death of the second worker the third is away while the next generation is formed.
fn after_an_absence(rest: &str) {
    let absence = "
        40 w0 leaves 1 hosting 0 keeping 2
        41 w2 leaves 1 hosting 2 keeping 1
        42 w2 session-ends
        500 w1 joins
          -> log joined worker-1
          -> log generation 2 after 1
          -> keep
          -> assign w0 rank 0 of generation 2: peers [0] after 1, shared of rank 0, 0 of rank 0, 1 of rank 2, 2 of rank 2
          -> assign w1 rank 1 of generation 2: peers [1] after 1, shared of rank 0, 0 of rank 0, 1 of rank 2, 2 of rank 2
          -> assign w2 rank 2 of generation 2: peers [2] after 1, shared of rank 0, 0 of rank 0, 1 of rank 2, 2 of rank 2
";
    after_a_loss(|_| (), &format!("{absence}{rest}"));
}

#[test]
fn a_worker_that_was_away_when_it_was_assigned_is_told_when_it_returns() {
    after_an_absence(
        "
        600 w2/1 returns
          -> assign w2 rank 2 of generation 2: peers [2] after 1, shared of rank 0, 0 of rank 0, 1 of rank 2, 2 of rank 2
        ",
    );
}

#[test]
fn a_worker_that_missed_a_generation_which_is_over_learns_of_it_and_leaves_it() {
    after_an_absence(
        "
        510 w1 exits by_signal_9_(SIGKILL)
        510 w1 session-ends
          -> log lost worker-1
          -> dismiss w1
          -> abort w0 of generation 2
          -> abort w2 of generation 2
        600 w2/1 returns
          -> assign w2 rank 2 of generation 2: peers [2] after 1, shared of rank 0, 0 of rank 0, 1 of rank 2, 2 of rank 2
          -> abort w2 of generation 2
        610 w2 leaves 1 hosting 2 keeping 1
          -> start w1
        ",
    );
}

#[test]
fn a_process_that_ended_and_was_dealt_with_is_not_taken_for_its_successor() {
    after_a_loss(
        |_| (),
        "
        35 w1 exits by_signal_9_(SIGKILL)
        40 w0 leaves 1 hosting 0 keeping 2
        ",
    );
}
