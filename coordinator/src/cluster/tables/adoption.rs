//! A coordinator that takes over from another one.

use super::beginnings::bearing;
use super::*;

const GRACE: Duration = Duration::from_secs(3);

/// Whom it had met.
fn lives() -> Lives {
    Lives { sessions: [1; 32], processes: [1; 32] }
}

/// What the leader of two workers at step 4 had kept when it died.
fn adopted() -> Cluster {
    let bearing = bearing(2, |_| ());
    let mut led = Cluster::new(bearing.clone());
    let mut lives = Lives::default();
    for event in ["w0 joins", "w1 joins", "w0 ready", "w1 ready", "w0 steps 1 4", "w1 steps 1 4"] {
        led.apply(Duration::ZERO, parse(event, 1, &mut lives));
    }
    let kept = serde_json::to_string(&led.kept()).unwrap();
    Cluster::adopt(bearing, &serde_json::from_str(&kept).unwrap(), GRACE)
}

#[test]
fn workers_return_and_train_on() {
    play_on(
        &mut adopted(),
        &mut lives(),
        "
        500 w0 returns
        900 w1 returns
        1000 w0 steps 6 7
        1001 w1 steps 5 7
          -> progress 5
          -> progress 6
          -> progress 7
        1100 w0 completes steps
          -> log completed worker-0
        1101 w1 completes steps
          -> log completed worker-1
          -> log step 7
          -> log finished at 7: completed after step 7
          -> finish completed 0
        ",
    );
}

#[test]
fn a_worker_that_died_meanwhile_is_lost_once_its_time_is_up() {
    let mut script = String::from("100 w0 returns\n");
    for time in (300..=4000).step_by(200) {
        script += &format!("{time} w0 beats\n");
    }
    script += "
        4010 tick
          -> log lost worker-1
          -> dismiss w1
          -> abort w0 of generation 1
          -> start w1
        4020 w0 leaves 5 hosting 0 keeping 1
        4100 w1 joins
          -> log joined worker-1
          -> log generation 2 after 5
          -> keep
          -> assign w0 rank 0 of generation 2: peers [0] after 5, shared of rank 0, 0 of rank 0, 1 of rank 0
          -> assign w1 rank 1 of generation 2: peers [1] after 5, shared of rank 0, 0 of rank 0, 1 of rank 0
        ";
    play_on(&mut adopted(), &mut lives(), &script);
}

#[test]
fn a_worker_that_was_started_again_meanwhile_is_a_replacement() {
    play_on(
        &mut adopted(),
        &mut lives(),
        "
        100 w0 returns
        110 w1 joins
          -> log lost worker-1
          -> abort w0 of generation 1
          -> log joined worker-1
        120 w0 leaves 5 hosting 0 keeping 1
          -> log generation 2 after 5
          -> keep
          -> assign w0 rank 0 of generation 2: peers [0] after 5, shared of rank 0, 0 of rank 0, 1 of rank 0
          -> assign w1 rank 1 of generation 2: peers [1] after 5, shared of rank 0, 0 of rank 0, 1 of rank 0
        ",
    );
}

#[test]
fn a_worker_of_another_generation_is_a_zombie() {
    play_on(
        &mut adopted(),
        &mut lives(),
        "
        100 w0/9 comes-back
          -> dismiss w0
        200 w0 returns
        300 w1 returns
        310 w0 steps 6 6
        311 w1 steps 5 6
          -> progress 5
          -> progress 6
        ",
    );
}

/// What the leader had kept that died before it could tell anybody of the second generation.
fn unassigned() -> Cluster {
    let bearing = bearing(3, |_| ());
    let mut led = Cluster::new(bearing.clone());
    let mut lives = Lives::default();
    let events = "w0 joins;w1 joins;w2 joins;w0 ready;w1 ready;w2 ready;w0 steps 1 1;w1 steps 1 1;w2 steps 1 1;\
        w1 exits by_signal_9;w1 session-ends;w0 leaves 1 hosting 0 keeping 2;w2 leaves 1 hosting 2 keeping 1;w1 joins";
    let mut kept = None;
    for event in events.split(';') {
        let actions = led.apply(Duration::ZERO, parse(event.trim(), 1, &mut lives));
        kept = actions.into_iter().find_map(|action| match action {
            Action::Keep(kept) => Some(serde_json::to_string(&kept).unwrap()),
            _ => None,
        });
    }
    let kept: Kept = serde_json::from_str(&kept.unwrap()).unwrap();
    assert_eq!(kept.generation, 2);
    Cluster::adopt(bearing, &kept, GRACE)
}

#[test]
fn a_generation_that_was_kept_and_told_to_nobody_begins_with_all_that_its_members_hold() {
    let mut lives = lives();
    lives.processes[1] = 2;
    play_on(
        &mut unassigned(),
        &mut lives,
        "
        100 w0/1 returns
          -> assign w0 rank 0 of generation 2: peers [0] after 1, shared of rank 0, 0 of rank 0, 1 of rank 2, 2 of rank 2
        110 w1/0 returns
          -> assign w1 rank 1 of generation 2: peers [1] after 1, shared of rank 0, 0 of rank 0, 1 of rank 2, 2 of rank 2
        120 w2/1 returns
          -> assign w2 rank 2 of generation 2: peers [2] after 1, shared of rank 0, 0 of rank 0, 1 of rank 2, 2 of rank 2
        200 w0 steps 2 2
        201 w1 steps 2 2
        202 w2 steps 2 2
          -> progress 2
        ",
    );
}

#[test]
fn a_worker_that_had_no_part_in_the_last_generation_waits_for_the_next() {
    play_on(
        &mut adopted(),
        &mut lives(),
        "
        100 w0 returns
        110 w1 returns
        120 w2/1 comes-back
          -> abort w2 of generation 1
          -> log joined worker-2
        130 w0 steps 5 5
        130 w1 steps 5 5
          -> progress 5
        140 scale 3 3
          -> keep
          -> pause w0
          -> pause w1
        ",
    );
}
