//! A coordinator that takes over from another one.

use super::*;

const GRACE: Duration = Duration::from_secs(3);

/// What the leader of two workers at step 4 had kept when it died.
fn adopted() -> Cluster {
    let mut bearing = settings(2);
    bearing.recovery.attempts = 2;
    let mut led = Cluster::new(bearing.clone());
    let mut sessions = vec![0; 4];
    for event in ["w0 joins", "w1 joins", "w0 ready", "w1 ready", "w0 steps 1 4", "w1 steps 1 4"] {
        led.apply(Duration::ZERO, parse(event, 1, &mut sessions));
    }
    let kept = serde_json::to_string(&led.kept()).unwrap();
    Cluster::adopt(bearing, &serde_json::from_str(&kept).unwrap(), GRACE)
}

#[test]
fn workers_return_and_train_on() {
    play_with(
        &mut adopted(),
        "
        500 w0 returns
        900 w1 returns
        1000 w0 steps 6 7
        1001 w1 steps 5 7
          -> progress 6
          -> progress 7
        1100 w0 completes steps
          -> log completed worker-0
        1101 w1 completes steps
          -> log completed worker-1
          -> release w0
          -> release w1
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
    play_with(&mut adopted(), &script);
}

#[test]
fn a_worker_that_was_started_again_meanwhile_is_a_replacement() {
    play_with(
        &mut adopted(),
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
    play_with(
        &mut adopted(),
        "
        100 w0/9 returns
          -> log lost worker-0
          -> abort w1 of generation 1
          -> dismiss w0
          -> start w0
        ",
    );
}
