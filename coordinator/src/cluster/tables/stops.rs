//! Stops that were asked for.

use super::{after_beginning, play, settings};

#[test]
fn ctrl_c_stops_with_a_checkpoint() {
    after_beginning(
        "
        20 w0 steps 1 4
        20 w1 steps 1 4
          -> progress 1
          -> progress 2
          -> progress 3
          -> progress 4
        30 stop Ctrl-C
          -> stop w0
          -> stop w1
        40 w0 shards 4
        40 w1 shards 4
          -> commit step 4 of 2 files
        50 w0 completes stopped
          -> log completed worker-0
        50 w1 completes stopped
          -> log completed worker-1
          -> log step 4
        60 committed 4
          -> log checkpoint 4
          -> log finished at 4: stopped (Ctrl-C) after step 4; --resume goes on from there
          -> finish stopped 130
        ",
    );
}

#[test]
fn ctrl_c_twice_stops_now() {
    after_beginning(
        "
        30 stop Ctrl-C
          -> stop w0
          -> stop w1
        1030 stop Ctrl-C
          -> kill all
          -> log finished at 0: stopped (Ctrl-C, a second time) before there was a checkpoint
          -> finish stopped 130
        ",
    );
}

#[test]
fn a_signal_that_comes_twice_at_once_is_one_request() {
    after_beginning(
        "
        20 w0 steps 1 1
        20 w1 steps 1 1
          -> progress 1
        30 stop SIGTERM
          -> stop w0
          -> stop w1
        31 stop SIGTERM
        40 w0 shards 1
        40 w1 shards 1
          -> commit step 1 of 2 files
        50 w0 completes stopped
          -> log completed worker-0
        50 w1 completes stopped
          -> log completed worker-1
          -> log step 1
        1029 stop SIGTERM
        1040 committed 1
          -> log checkpoint 1
          -> log finished at 1: stopped (SIGTERM) after step 1; --resume goes on from there
          -> finish stopped 130
        ",
    );
}

#[test]
fn a_stop_asked_for_at_the_end_leaves_the_last_checkpoint_its_time() {
    after_beginning(
        "
        20 w0 steps 1 1
        20 w1 steps 1 1
          -> progress 1
        40 w0 shards 1
        40 w1 shards 1
          -> commit step 1 of 2 files
        50 w0 completes steps
          -> log completed worker-0
        50 w1 completes steps
          -> log completed worker-1
          -> log step 1
        60 stop Ctrl-C
        1060 stop Ctrl-C
          -> log finished at 1: completed after step 1
          -> finish completed 0
        ",
    );
}

#[test]
fn ctrl_c_before_the_beginning_stops_at_once() {
    play(
        settings(2),
        "
        0 w1 joins
          -> log joined worker-1
        1 stop SIGTERM
          -> kill all
          -> log finished at 0: stopped (SIGTERM) before there was a checkpoint
          -> finish stopped 130
        ",
    );
}
