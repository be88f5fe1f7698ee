//! Another T, and other workers, in the middle of a training.

use super::beginnings::{bearing, met};
use super::*;
use medley_common::config::CohortChange;

#[test]
fn a_peer_that_is_added_starts_fresh_where_there_is_least_to_do() {
    after_beginning(
        "
        20 w0 steps 1 1
        20 w1 steps 1 1
          -> progress 1
        30 scale 3
          -> keep
          -> pause w0
          -> pause w1
        40 w0 leaves 4 hosting 0 keeping 1 paused
        41 w0 beats
        42 w1 leaves 4 hosting 1 keeping 0 paused
          -> log generation 2 after 4
          -> keep
          -> assign w0 rank 0 of generation 2: peers [0, 2] after 4, shared of rank 0, 0 of rank 0, 1 of rank 1, 2 fresh
          -> assign w1 rank 1 of generation 2: peers [1] after 4, shared of rank 0, 0 of rank 0, 1 of rank 1, 2 fresh
        ",
    );
}

#[test]
fn a_peer_that_is_removed_comes_back_from_the_checkpoint_that_it_left_in() {
    let mut three = settings(2);
    three.cohort.peers = 3;
    let beginning = BEGINNING.replace("rank 0 of generation 1: peers [0]", "rank 0 of generation 1: peers [0, 1]");
    let beginning = beginning.replace("rank 1 of generation 1: peers [1]", "rank 1 of generation 1: peers [2]");
    play(
        three,
        &format!(
            "{beginning}
        30 scale 2
          -> keep
          -> pause w0 with a checkpoint
          -> pause w1 with a checkpoint
        40 w0 shards 4
        41 w1 shards 4
          -> commit step 4 of 2 files
        42 w0 leaves 4 hosting 0,1 keeping 2 paused
        43 w1 leaves 4 hosting 2 keeping 0,1 paused
        44 committed 4
          -> log checkpoint 4
          -> log generation 2 after 4
          -> keep
          -> assign w0 rank 0 of generation 2: peers [0] after 4, shared of rank 0, 0 of rank 0, 1 of rank 0
          -> assign w1 rank 1 of generation 2: peers [1] after 4, shared of rank 0, 0 of rank 0, 1 of rank 0
        45 w0 ready
        45 w1 ready
        50 w0 steps 5 5
        50 w1 steps 5 5
          -> progress 5
        60 scale 3
          -> keep
          -> pause w0
          -> pause w1
        70 w0 leaves 6 hosting 0 keeping 1 paused
        71 w1 leaves 6 hosting 1 keeping 0 paused
          -> log generation 3 after 6
          -> keep
          -> assign w0 rank 0 of generation 3: peers [0, 2] after 6, shared of rank 0, 0 of rank 0, 1 of rank 1, 2 of checkpoints/step-4
          -> assign w1 rank 1 of generation 3: peers [1] after 6, shared of rank 0, 0 of rank 0, 1 of rank 1, 2 of checkpoints/step-4
        "
        ),
    );
}

#[test]
fn a_scheduled_change_needs_no_request() {
    let mut scheduled = settings(2);
    scheduled.cohort.changes = vec![CohortChange { step: 5, peers: 4 }];
    scheduled.cohort.new_peers = NewPeer::CopyOf { peer: 1, noise: 0.1 };
    play(
        scheduled,
        &format!(
            "{BEGINNING}
        20 w0 steps 1 5
        20 w1 steps 1 4
          -> progress 1
          -> progress 2
          -> progress 3
          -> progress 4
        21 w0 leaves 5 hosting 0 keeping 1 paused
        22 w1 steps 5 5
          -> progress 5
        23 w1 leaves 5 hosting 1 keeping 0 paused
          -> log generation 2 after 5
          -> keep
          -> assign w0 rank 0 of generation 2: peers [0, 2] after 5, shared of rank 0, 0 of rank 0, 1 of rank 1, 2 like 1 of rank 1, 3 like 1 of rank 1
          -> assign w1 rank 1 of generation 2: peers [1, 3] after 5, shared of rank 0, 0 of rank 0, 1 of rank 1, 2 like 1 of rank 1, 3 like 1 of rank 1
        "
        ),
    );
}

#[test]
fn a_worker_that_is_added_takes_peers_and_one_that_is_removed_leaves_them() {
    let mut one = settings(1);
    one.cohort.peers = 2;
    play(
        one,
        "
        0 w0 joins
          -> log joined worker-0
          -> log generation 1 after 0
          -> keep
          -> assign w0 rank 0 of generation 1: peers [0, 1]
        10 w0 ready
          -> log ready
          -> keep
        20 scale 2 2
          -> keep
          -> start w1
        30 w1 joins
          -> log joined worker-1
          -> pause w0
        40 w0 leaves 3 hosting 0,1 paused
          -> log generation 2 after 3
          -> keep
          -> assign w0 rank 0 of generation 2: peers [0] after 3, shared of rank 0, 0 of rank 0, 1 of rank 0
          -> assign w1 rank 1 of generation 2: peers [1] after 3, shared of rank 0, 0 of rank 0, 1 of rank 0
        50 w0 ready
        50 w1 ready
        60 scale 2 1
          -> keep
          -> pause w0
          -> pause w1
        70 w0 leaves 4 hosting 0 keeping 1 paused
        71 w1 leaves 4 hosting 1 keeping 0 paused
          -> log generation 3 after 4
          -> keep
          -> assign w0 rank 0 of generation 3: peers [0, 1] after 4, shared of rank 0, 0 of rank 0, 1 of rank 0
        ",
    );
}

#[test]
fn a_cohort_that_shrinks_keeps_the_workers_that_hold_what_stays() {
    let mut two = settings(3);
    two.cohort.peers = 4;
    two.cohort.changes = vec![CohortChange { step: 4, peers: 6 }, CohortChange { step: 8, peers: 2 }];
    play(
        two,
        "
        0 w0 joins
          -> log joined worker-0
        0 w1 joins
          -> log joined worker-1
        0 w2 joins
          -> log joined worker-2
          -> log generation 1 after 0
          -> keep
          -> assign w0 rank 0 of generation 1: peers [0, 1]
          -> assign w1 rank 1 of generation 1: peers [2]
          -> assign w2 rank 2 of generation 1: peers [3]
        10 w0 ready
        10 w1 ready
        10 w2 ready
          -> log ready
          -> keep
        20 w0 leaves 4 hosting 0 keeping 3 paused
        20 w1 leaves 4 hosting 2 paused
        20 w2 leaves 4 hosting 3 keeping 1,2 paused
          -> log generation 2 after 4
          -> keep
          -> assign w0 rank 0 of generation 2: peers [0, 1] after 4, shared of rank 0, 0 of rank 0, 1 of rank 2, 2 of rank 1, 3 of rank 2, 4 fresh, 5 fresh
          -> assign w1 rank 1 of generation 2: peers [2, 4] after 4, shared of rank 0, 0 of rank 0, 1 of rank 2, 2 of rank 1, 3 of rank 2, 4 fresh, 5 fresh
          -> assign w2 rank 2 of generation 2: peers [3, 5] after 4, shared of rank 0, 0 of rank 0, 1 of rank 2, 2 of rank 1, 3 of rank 2, 4 fresh, 5 fresh
        30 w0 leaves 8 hosting 1 keeping 5 paused
        30 w1 leaves 8 hosting 2,4 paused
        30 w2 leaves 8 hosting 3,5 keeping 0 paused
          -> log generation 3 after 8
          -> keep
          -> assign w0 rank 0 of generation 3: peers [0] after 8, shared of rank 0, 0 of rank 1, 1 of rank 0
          -> assign w2 rank 1 of generation 3: peers [1] after 8, shared of rank 0, 0 of rank 1, 1 of rank 0
        ",
    );
}

#[test]
fn a_peer_that_was_to_join_when_the_exchange_failed_joins_all_the_same() {
    let two = bearing(2, |two| two.cohort.changes = vec![CohortChange { step: 5, peers: 3 }]);
    play(
        two,
        &format!(
            "{BEGINNING}
        20 w0 leaves 5 hosting 0 keeping 1 paused
        21 w1 leaves 5 hosting 1 keeping 0 paused
          -> log generation 2 after 5
          -> keep
          -> assign w0 rank 0 of generation 2: peers [0, 2] after 5, shared of rank 0, 0 of rank 0, 1 of rank 1, 2 fresh
          -> assign w1 rank 1 of generation 2: peers [1] after 5, shared of rank 0, 0 of rank 0, 1 of rank 1, 2 fresh
        30 w0 leaves 5 hosting 0 keeping 1 missing 1
          -> abort w1 of generation 2
        31 w1 leaves 5 hosting 1 keeping 0 missing 0
          -> log warning the exchange failed and is formed again: worker 1 was lost to worker 0, which reports: the exchange broke
          -> log generation 3 after 5
          -> keep
          -> assign w0 rank 0 of generation 3: peers [0, 2] after 5, shared of rank 0, 0 of rank 0, 1 of rank 1, 2 fresh
          -> assign w1 rank 1 of generation 3: peers [1] after 5, shared of rank 0, 0 of rank 0, 1 of rank 1, 2 fresh
        "
        ),
    );
}

#[test]
fn a_peer_that_is_to_leave_stays_where_a_loss_comes_first_until_a_checkpoint_holds_it() {
    let four = bearing(4, |_| ());
    let rest = "
        20 scale 3
          -> keep
          -> pause w0 with a checkpoint
          -> pause w1 with a checkpoint
          -> pause w2 with a checkpoint
          -> pause w3 with a checkpoint
        30 w1 exits by_signal_9_(SIGKILL)
        30 w1 session-ends
          -> log lost worker-1
          -> dismiss w1
          -> abort w0 of generation 1
          -> abort w2 of generation 1
          -> abort w3 of generation 1
          -> start w1
        40 w0 leaves 0 hosting 0 keeping 3
        41 w2 leaves 0 hosting 2 keeping 1
        42 w3 leaves 0 hosting 3 keeping 2
          -> log generation 2 after 0
          -> keep
          -> assign w0 rank 0 of generation 2: peers [0, 1] after 0, shared of rank 0, 0 of rank 0, 1 of rank 1, 2 of rank 1, 3 of rank 2
          -> assign w2 rank 1 of generation 2: peers [2] after 0, shared of rank 0, 0 of rank 0, 1 of rank 1, 2 of rank 1, 3 of rank 2
          -> assign w3 rank 2 of generation 2: peers [3] after 0, shared of rank 0, 0 of rank 0, 1 of rank 1, 2 of rank 1, 3 of rank 2
        50 w0 ready
        50 w2 ready
        50 w3 ready
          -> pause w0 with a checkpoint
          -> pause w2 with a checkpoint
          -> pause w3 with a checkpoint
        ";
    play(four, &format!("{}{rest}", met(4)));
}
