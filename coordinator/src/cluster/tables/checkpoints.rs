//! Checkpoints that come to nothing.

use super::{after_beginning, play, settings};

#[test]
fn a_checkpoint_that_is_not_written_is_a_warning_and_the_next_one_counts() {
    after_beginning(
        "
        20 w0 shards 2
        20 w1 shards 2
          -> commit step 2 of 2 files
        21 committed 2
          -> log checkpoint 2
        23 w0 shards 4
        24 w1 shards-fail 4 disk_full
          -> log warning the checkpoint of step 4 was not written by worker 1: disk full; training goes on, and the last good one is of step 2; make room or mend access there before the run ends
          -> discard step 4 of generation 1
        25 w0 shards 6
        26 w1 shards 6
          -> commit step 6 of 2 files
        27 committed 6
          -> log checkpoint 6
        28 w0 completes steps
          -> log completed worker-0
        28 w1 completes steps
          -> log completed worker-1
          -> log finished at 0: completed after step 0
          -> finish completed 0
        ",
    );
}

#[test]
fn what_several_workers_could_not_write_is_said_once_and_removed_when_nobody_writes_there() {
    after_beginning(
        "
        23 w1 shards-fail 4 disk_full
          -> log warning the checkpoint of step 4 was not written by worker 1: disk full; training goes on, and there is none before it; make room or mend access there before the run ends
        24 w1 shards-fail 4 disk_full
        25 w0 shards-fail 4 disk_full
          -> discard step 4 of generation 1
        26 w0 shards 4
        ",
    );
}

#[test]
fn a_checkpoint_that_is_not_committed_is_a_warning() {
    after_beginning(
        "
        23 w0 shards 2
        24 w1 shards 2
          -> commit step 2 of 2 files
        30 not-committed 2
          -> log warning the checkpoint of step 2 was not committed: disk full; training goes on, and there is none before it; make room or mend access there before the run ends
        31 not-committed 2
        31 w0 beats
        ",
    );
}

#[test]
fn a_run_whose_last_checkpoint_is_not_written_has_failed() {
    after_beginning(
        "
        20 w0 steps 1 2
        20 w1 steps 1 2
          -> progress 1
          -> progress 2
        23 w0 shards-fail 2 disk_full
          -> log warning the checkpoint of step 2 was not written by worker 0: disk full; training goes on, and there is none before it; make room or mend access there before the run ends
        24 w1 shards 2
          -> discard step 2 of generation 1
        25 w0 completes steps
          -> log completed worker-0
        26 w1 completes steps
          -> log completed worker-1
          -> log step 2
          -> log finished at 2: trained to step 2, but the last checkpoint, of step 2, was not written by worker 0: disk full; there is none before it
          -> finish failed 1
        ",
    );
}

#[test]
fn a_stopped_run_whose_last_checkpoint_is_not_committed_has_failed() {
    after_beginning(
        "
        20 w0 shards 1
        20 w1 shards 1
          -> commit step 1 of 2 files
        21 committed 1
          -> log checkpoint 1
        22 w0 steps 1 2
        22 w1 steps 1 2
          -> progress 1
          -> progress 2
        23 stop Ctrl-C
          -> stop w0
          -> stop w1
        24 w0 shards 2
        24 w1 shards 2
          -> commit step 2 of 2 files
        25 w0 completes stopped
          -> log completed worker-0
        26 w1 completes stopped
          -> log completed worker-1
          -> log step 2
        30 not-committed 2
          -> log warning the checkpoint of step 2 was not committed: disk full; the last good one is of step 1; make room or mend access there
          -> log finished at 2: trained to step 2, but the last checkpoint, of step 2, was not committed: disk full; --resume goes on from the one of step 1
          -> finish failed 1
        ",
    );
}

#[test]
fn a_last_checkpoint_that_is_never_committed_is_not_waited_for_without_end() {
    play(
        settings(1),
        "
        0 w0 joins
          -> log joined worker-0
          -> log generation 1 after 0
          -> keep
          -> assign w0 rank 0 of generation 1: peers [0]
        10 w0 ready
          -> log ready
          -> keep
        20 w0 steps 1 2
          -> progress 1
          -> progress 2
        23 w0 shards 2
          -> commit step 2 of 1 files
        25 w0 completes steps
          -> log completed worker-0
          -> log step 2
        60024 tick
        60025 tick
          -> log finished at 2: trained to step 2, but the last checkpoint, of step 2, was not committed within 60 s; there is none before it
          -> finish failed 1
        ",
    );
}
