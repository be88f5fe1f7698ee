//! Losses that a job goes on from.

use super::beginnings::{after_a_loss, after_three, bearing, met};
use super::*;

#[test]
fn a_lost_peer_comes_back_from_its_copy_at_the_step_that_failed() {
    after_a_loss(
        |_| (),
        "
        40 w0 leaves 1 hosting 0 keeping 2 missing 1
        41 w2 leaves 1 hosting 2 keeping 1
        500 w1 joins
          -> log joined worker-1
          -> log generation 2 after 1
          -> keep
          -> assign w0 rank 0 of generation 2: peers [0] after 1, shared of rank 0, 0 of rank 0, 1 of rank 2, 2 of rank 2
          -> assign w1 rank 1 of generation 2: peers [1] after 1, shared of rank 0, 0 of rank 0, 1 of rank 2, 2 of rank 2
          -> assign w2 rank 2 of generation 2: peers [2] after 1, shared of rank 0, 0 of rank 0, 1 of rank 2, 2 of rank 2
        510 w0/1 steps 2 2
        520 w0 ready
        520 w1 ready
        520 w2 ready
        600 w0 steps 2 2
        600 w1 steps 2 2
        600 w2 steps 2 2
          -> progress 2
          -> log recovered from [\"worker-1\"] at 1, 0 again, 570 ms
        ",
    );
}

#[test]
fn a_step_that_one_survivor_committed_is_committed_by_all() {
    after_three(
        |_| (),
        "
        25 w0 steps 2 2
        30 w1 exits by_signal_9_(SIGKILL)
        30 w1 session-ends
          -> log lost worker-1
          -> dismiss w1
          -> abort w0 of generation 1
          -> abort w2 of generation 1
          -> start w1
        40 w0 leaves 2 hosting 0 keeping 2
        41 w2 leaves 1 hosting 2 keeping 1 prepared
        500 w1 joins
          -> log joined worker-1
          -> log generation 2 after 2
          -> keep
          -> assign w0 rank 0 of generation 2: peers [0] after 2, shared of rank 0, 0 of rank 0, 1 of rank 2, 2 of rank 2
          -> assign w1 rank 1 of generation 2: peers [1] after 2, shared of rank 0, 0 of rank 0, 1 of rank 2, 2 of rank 2
          -> assign w2 rank 2 of generation 2: peers [2] after 2, shared of rank 0, 0 of rank 0, 1 of rank 2, 2 of rank 2
        510 w2 steps 2 2
          -> progress 2
          -> log recovered from [\"worker-1\"] at 1, 0 again, 480 ms
        ",
    );
}

#[test]
fn a_peer_that_dies_with_its_copy_sends_the_cohort_back_to_the_checkpoint() {
    after_three(
        |_| (),
        "
        21 w0 shards 1
        21 w1 shards 1
        21 w2 shards 1
          -> commit step 1 of 3 files
        22 committed 1
          -> log checkpoint 1
        25 w0 steps 2 2
        25 w1 steps 2 2
        25 w2 steps 2 2
          -> progress 2
        30 w1 exits by_signal_9_(SIGKILL)
        30 w1 session-ends
          -> log lost worker-1
          -> dismiss w1
          -> abort w0 of generation 1
          -> abort w2 of generation 1
          -> start w1
        31 w2 exits by_signal_9_(SIGKILL)
        31 w2 session-ends
          -> log lost worker-2
          -> dismiss w2
          -> start w2
        40 w0 leaves 2 hosting 0 keeping 2
        500 w1 joins
          -> log joined worker-1
        510 w2 joins
          -> log joined worker-2
          -> log generation 2 after 1
          -> keep
          -> assign w0 rank 0 of generation 2: peers [0] after 1, shared of checkpoints/step-1, 0 of checkpoints/step-1, 1 of checkpoints/step-1, 2 of checkpoints/step-1
          -> assign w1 rank 1 of generation 2: peers [1] after 1, shared of checkpoints/step-1, 0 of checkpoints/step-1, 1 of checkpoints/step-1, 2 of checkpoints/step-1
          -> assign w2 rank 2 of generation 2: peers [2] after 1, shared of checkpoints/step-1, 0 of checkpoints/step-1, 1 of checkpoints/step-1, 2 of checkpoints/step-1
        600 w0 steps 2 3
        600 w1 steps 2 3
        600 w2 steps 2 3
          -> progress 3
          -> log recovered from [\"worker-1\", \"worker-2\"] at 2, 1 again, 570 ms
        ",
    );
}

#[test]
fn a_spare_takes_over_at_once() {
    play(
        bearing(2, |settings| settings.spares = 1),
        "
        0 w0 joins
          -> log joined worker-0
        0 w1 joins
          -> log joined worker-1
          -> log generation 1 after 0
          -> keep
          -> assign w0 rank 0 of generation 1: peers [0]
          -> assign w1 rank 1 of generation 1: peers [1]
        5 w2 joins
          -> log joined worker-2
        10 w0 ready
        10 w1 ready
          -> log ready
          -> keep
        30 w1 exits by_signal_9_(SIGKILL)
        30 w1 session-ends
          -> log lost worker-1
          -> dismiss w1
          -> abort w0 of generation 1
          -> start w1
        40 w0 leaves 0 hosting 0 keeping 1
          -> log generation 2 after 0
          -> keep
          -> assign w0 rank 0 of generation 2: peers [0] after 0, shared of rank 0, 0 of rank 0, 1 of rank 0
          -> assign w2 rank 1 of generation 2: peers [1] after 0, shared of rank 0, 0 of rank 0, 1 of rank 0
        600 w1 joins
          -> log joined worker-1
        ",
    );
}

#[test]
fn a_survivor_hosts_the_lost_peer_where_no_replacement_comes_and_gives_it_back_when_one_does() {
    after_a_loss(
        |settings| settings.recovery.replace = Duration::from_millis(700),
        "
        40 w0 leaves 1 hosting 0 keeping 2
        41 w2 leaves 1 hosting 2 keeping 1
        700 w0 beats
        700 w2 beats
        729 tick
        730 tick
          -> log generation 2 after 1
          -> keep
          -> assign w0 rank 0 of generation 2: peers [0, 1] after 1, shared of rank 0, 0 of rank 0, 1 of rank 1, 2 of rank 1
          -> assign w2 rank 1 of generation 2: peers [2] after 1, shared of rank 0, 0 of rank 0, 1 of rank 1, 2 of rank 1
        740 w0 ready
        740 w2 ready
        800 w0 steps 2 2
        800 w2 steps 2 2
          -> progress 2
          -> log recovered from [\"worker-1\"] at 1, 0 again, 770 ms
        900 w1 joins
          -> log joined worker-1
          -> pause w0
          -> pause w2
        910 w0 leaves 3 hosting 0,1 keeping 2 paused
        911 w2 leaves 3 hosting 2 keeping 0,1 paused
          -> log generation 3 after 3
          -> keep
          -> assign w0 rank 0 of generation 3: peers [0] after 3, shared of rank 0, 0 of rank 0, 1 of rank 0, 2 of rank 1
          -> assign w2 rank 1 of generation 3: peers [2] after 3, shared of rank 0, 0 of rank 0, 1 of rank 0, 2 of rank 1
          -> assign w1 rank 2 of generation 3: peers [1] after 3, shared of rank 0, 0 of rank 0, 1 of rank 0, 2 of rank 1
        ",
    );
}

#[test]
fn in_continue_mode_the_others_go_on_at_once_and_take_the_peer_back() {
    after_a_loss(
        |settings| settings.recovery.mode = RecoveryMode::Continue,
        "
        40 w0 leaves 1 hosting 0 keeping 2
        41 w2 leaves 1 hosting 2 keeping 1
          -> log generation 2 after 1
          -> keep
          -> assign w0 rank 0 of generation 2: peers [0] after 1, shared of rank 0, 0 of rank 0, 2 of rank 1
          -> assign w2 rank 1 of generation 2: peers [2] after 1, shared of rank 0, 0 of rank 0, 2 of rank 1
        50 w0 ready
        50 w2 ready
        80 w0 steps 2 2
        80 w2 steps 2 2
          -> progress 2
          -> log recovered from [\"worker-1\"] at 1, 0 again, 50 ms
        900 w1 joins
          -> log joined worker-1
          -> pause w0
          -> pause w2
        910 w0 leaves 9 hosting 0 keeping 2 paused
        911 w2 leaves 9 hosting 2 keeping 0,1@1 paused
          -> log generation 3 after 9
          -> keep
          -> assign w0 rank 0 of generation 3: peers [0] after 9, shared of rank 0, 0 of rank 0, 1 of rank 1, 2 of rank 1
          -> assign w2 rank 1 of generation 3: peers [2] after 9, shared of rank 0, 0 of rank 0, 1 of rank 1, 2 of rank 1
          -> assign w1 rank 2 of generation 3: peers [1] after 9, shared of rank 0, 0 of rank 0, 1 of rank 1, 2 of rank 1
        ",
    );
}

#[test]
fn a_crash_loop_backs_off_and_names_the_first_error() {
    play(
        bearing(1, |_| ()),
        "
        0 w0 joins
          -> log joined worker-0
          -> log generation 1 after 0
          -> keep
          -> assign w0 rank 0 of generation 1: peers [0]
        10 w0 fails out_of_memory
          -> log lost worker-0
          -> dismiss w0
          -> start w0
        20 w0 exits-early with_exit_status_1 no_such_file
          -> log lost worker-0
          -> dismiss w0
        119 tick
        120 tick
          -> start w0
        130 w0 exits-early with_exit_status_1 no_such_file
          -> log lost worker-0
          -> kill all
          -> log finished at 0: gave up after 3 losses in a row without a committed step (recovery.attempts); the first: worker 0 failed: out of memory
          -> finish failed 1
        ",
    );
}

#[test]
fn an_error_that_would_come_again_ends_the_job_at_once() {
    after_three(
        |_| (),
        "
        30 w1 fails the_loss_is_not_finite for-good
          -> log lost worker-1
          -> kill all
          -> log step 1
          -> log finished at 1: worker 1 failed: the loss is not finite
          -> finish failed 1
        ",
    );
}

#[test]
fn a_worker_lost_in_the_last_evaluation_is_replaced_and_its_peer_evaluated() {
    play(
        bearing(2, |_| ()),
        &format!(
            "{BEGINNING}
        20 w0 steps 25 25
        20 w1 steps 25 25
          -> progress 25
          -> log step 25
        30 w0 completes steps
          -> log completed worker-0
        40 w1 exits by_signal_9_(SIGKILL)
        40 w1 session-ends
          -> log lost worker-1
          -> dismiss w1
          -> abort w0 of generation 1
          -> start w1
        50 w0 leaves 25 hosting 0 keeping 1
        60 w1 joins
          -> log joined worker-1
          -> log generation 2 after 25
          -> keep
          -> assign w0 rank 0 of generation 2: peers [0] after 25, shared of rank 0, 0 of rank 0, 1 of rank 0
          -> assign w1 rank 1 of generation 2: peers [1] after 25, shared of rank 0, 0 of rank 0, 1 of rank 0
        70 w0 completes steps
          -> log completed worker-0
        80 w1 completes steps
          -> log completed worker-1
          -> log recovered from [\"worker-1\"] at 25, 0 again, 40 ms
          -> log finished at 25: completed after step 25
          -> finish completed 0
        "
        ),
    );
}

#[test]
fn in_continue_mode_one_of_two_lost_workers_takes_its_share_back_alone() {
    let rest = "
        30 w1 exits by_signal_9_(SIGKILL)
        30 w1 session-ends
          -> log lost worker-1
          -> dismiss w1
          -> abort w0 of generation 1
          -> abort w2 of generation 1
          -> abort w3 of generation 1
          -> start w1
        31 w3 exits by_signal_9_(SIGKILL)
        31 w3 session-ends
          -> log lost worker-3
          -> dismiss w3
          -> start w3
        40 w0 leaves 0 hosting 0 keeping 3
        41 w2 leaves 0 hosting 2 keeping 1
          -> log generation 2 after 0
          -> keep
          -> assign w0 rank 0 of generation 2: peers [0] after 0, shared of rank 0, 0 of rank 0, 2 of rank 1
          -> assign w2 rank 1 of generation 2: peers [2] after 0, shared of rank 0, 0 of rank 0, 2 of rank 1
        50 w0 ready
        50 w2 ready
        900 w1 joins
          -> log joined worker-1
          -> pause w0
          -> pause w2
        910 w0 leaves 4 hosting 0 keeping 2,3@0 paused
        911 w2 leaves 4 hosting 2 keeping 0,1@0 paused
          -> log generation 3 after 4
          -> keep
          -> assign w0 rank 0 of generation 3: peers [0] after 4, shared of rank 0, 0 of rank 0, 1 of rank 1, 2 of rank 1
          -> assign w2 rank 1 of generation 3: peers [2] after 4, shared of rank 0, 0 of rank 0, 1 of rank 1, 2 of rank 1
          -> assign w1 rank 2 of generation 3: peers [1] after 4, shared of rank 0, 0 of rank 0, 1 of rank 1, 2 of rank 1
        920 w0 ready
        920 w2 ready
        920 w1 ready
        ";
    play(bearing(4, |settings| settings.recovery.mode = RecoveryMode::Continue), &format!("{}{rest}", met(4)));
}
