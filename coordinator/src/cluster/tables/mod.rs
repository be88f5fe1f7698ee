//! Whole lives of small jobs, as tables that a person can read: one line an event, then what it led to.

#![allow(clippy::unwrap_used)]

mod adoption;
mod beginnings;
mod checkpoints;
mod recovery;
mod returns;
mod scaling;
mod script;
mod stops;

use super::*;
use beginnings::{BEGINNING, after_beginning};
use medley_common::config::RecoveryMode;
use medley_common::events::Event as JobEvent;
use medley_common::proto;
use script::{describe, parse};
use std::time::Duration;

pub(super) fn settings(workers: u32) -> Settings {
    Settings {
        cohort: CohortPlan { peers: workers, ..CohortPlan::default() },
        workers,
        spares: 0,
        generation: 1,
        resume: None,
        log_every: 10,
        join: Duration::from_millis(60_000),
        death: Duration::from_millis(1_000),
        verdict: Duration::from_millis(500),
        stop: Duration::from_millis(60_000),
        recovery: Recovery {
            mode: RecoveryMode::Exact,
            replace: Duration::from_millis(30_000),
            reform: Duration::from_millis(20_000),
            attempts: 0,
        },
    }
}

/// Plays a script of `MILLISECONDS EVENT...` lines; each line `  -> ...` after one holds the actions it must lead to.
/// Workers speak of the present generation, `w1/2` of generation 2; each process of a slot has a session of its own.
fn play(settings: Settings, script: &str) {
    play_with(&mut Cluster::new(settings), script);
}

fn play_with(cluster: &mut Cluster, script: &str) {
    play_on(cluster, &mut Lives::default(), script);
}

/// What the slots have seen so far.
#[derive(Default)]
struct Lives {
    /// Sessions of a slot.
    sessions: [SessionNumber; 32],
    /// Processes of a slot that joined.
    processes: [u32; 32],
}

impl Lives {
    /// The process that joined last.
    fn process_id(&self, slot: Slot) -> u32 {
        100 * self.processes[slot as usize] + slot
    }
}

fn play_on(cluster: &mut Cluster, lives: &mut Lives, script: &str) {
    let mut actual = String::new();
    for line in script.lines().map(str::trim) {
        let Some((time, event)) = line.split_once(' ').filter(|(time, _)| *time != "->") else {
            continue;
        };
        let now = Duration::from_millis(time.parse().unwrap());
        actual += &format!("{line}\n");
        for action in cluster.apply(now, parse(event.trim(), cluster.generation().max(1), lives)) {
            actual += &format!("  -> {}\n", describe(&action));
        }
    }
    let normal = |text: &str| {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        lines.collect::<Vec<_>>().join("\n")
    };
    assert_eq!(normal(&actual), normal(script), "\nplayed:\n{actual}");
}

#[test]
fn a_job_runs_to_its_end() {
    after_beginning(
        "
        20 w0 steps 1 2
        21 w1 steps 1 1
          -> progress 1
        22 w1 steps 2 2
          -> progress 2
        23 w0 shards 2
        24 w1 shards 2
          -> commit step 2 of 2 files
        25 w0 completes steps
          -> log completed worker-0
        26 w1 completes steps
          -> log completed worker-1
          -> log step 2
        27 w0 session-ends
        28 w0 exits with_exit_status_0
        30 committed 2
          -> log checkpoint 2
          -> log finished at 2: completed after step 2
          -> finish completed 0
        31 w1 fails too_late
        ",
    );
}

#[test]
fn every_tenth_step_and_the_last_are_logged() {
    let mut one = settings(1);
    one.log_every = 10;
    let mut cluster = Cluster::new(one);
    let mut logged = Vec::new();
    let mut lives = Lives::default();
    for event in ["w0 joins", "w0 ready", "w0 steps 1 25", "w0 completes steps"] {
        for action in cluster.apply(Duration::ZERO, parse(event, 1, &mut lives)) {
            if let Action::Record(JobEvent::Step(step)) = action {
                logged.push(step.step);
            }
        }
    }
    assert_eq!(logged, [10, 20, 25]);
}

#[test]
fn a_killed_worker_is_named_and_not_those_who_missed_it() {
    after_beginning(
        "
        20 w0 leaves 0 hosting 0 missing 1
          -> abort w1 of generation 1
        23 w1 session-ends
        24 w1 exits by_signal_9_(SIGKILL) step_7
          -> log lost worker-1
          -> kill all
          -> log finished at 0: worker 1 ended by signal 9 (SIGKILL) before its work was done; logs/worker-1.log says: step 7
          -> finish failed 1
        ",
    );
}

#[test]
fn a_workers_own_words_are_preferred_to_its_exit_status() {
    after_beginning(
        "
        20 w1 exits with_exit_status_1
        21 w1 fails out_of_memory
          -> log lost worker-1
          -> kill all
          -> log finished at 0: worker 1 failed: out of memory
          -> finish failed 1
        ",
    );
}

#[test]
fn workers_that_blame_each_other_still_give_a_verdict() {
    after_beginning(
        "
        20 w0 leaves 0 hosting 0 missing 1
          -> abort w1 of generation 1
        900 w0 beats
        901 w1 beats
        1000 w1 leaves 0 hosting 1 missing 0
          -> kill all
          -> log finished at 0: worker 1 was lost to worker 0, which reports: the exchange broke
          -> finish failed 1
        ",
    );
}

#[test]
fn bad_input_is_passed_on_as_it_is() {
    after_beginning(
        "
        20 w1 fails data.path:_empty bad-input
          -> log lost worker-1
          -> kill all
          -> log finished at 0: data.path: empty
          -> finish failed 2
        ",
    );
}

#[test]
fn silence_is_death() {
    after_beginning(
        "
        200 w0 beats
        400 w0 beats
        600 w0 beats
        800 w0 beats
        1000 w0 beats
        1010 tick
          -> log lost worker-1
          -> kill all
          -> log finished at 0: worker 1 said nothing for 1000 ms (launch.death_ms)
          -> finish failed 1
        ",
    );
}

#[test]
fn a_coordinator_that_slept_does_not_take_its_sleep_for_silence() {
    after_beginning(
        "
        900000 tick
        900010 w0 beats
        900010 w1 beats
        900900 tick
        ",
    );
}

#[test]
fn a_worker_that_never_joins_is_named() {
    play(
        settings(3),
        "
        0 w1 joins
          -> log joined worker-1
        200 w1 beats
        59000 w1 beats
        59900 w1 beats
        60000 tick
          -> kill all
          -> log finished at 0: workers 0, 2 did not join within 60000 ms (launch.join_ms); logs/worker-0.log says what held it up
          -> finish failed 1
        ",
    );
}

#[test]
fn peers_must_be_ranked_among_the_same_candidates() {
    after_beginning(
        "
        20 w0 evaluates abc
          -> log evaluation of peer-0
        21 w1 evaluates abd
          -> kill all
          -> log finished at 0: worker 1 ranked other candidates than worker 0 for uniform99 (test), so their metrics cannot be compared: abd against abc
          -> finish failed 1
        ",
    );
}

#[test]
fn workers_must_read_the_same_data() {
    play(
        settings(2),
        &BEGINNING.replace(
            "w1 ready\n      -> log ready\n      -> keep",
            "w1 ready other\n          -> kill all
          -> log finished at 0: worker 1 reads other data than worker 0; all workers need the same data.path contents
          -> finish failed 1",
        ),
    );
}

#[test]
fn a_resumed_job_starts_from_its_checkpoint_and_refuses_other_data() {
    let mut resumed = settings(1);
    resumed.generation = 3;
    resumed.resume = Some(Resume {
        step: 20,
        directory: "checkpoints/step-20".into(),
        data_hash: "the data it was trained on".into(),
        peers: vec![0],
    });
    assert_eq!(Cluster::new(resumed.clone()).committed_step(), 20);
    play(
        resumed,
        "
        0 w0 joins
          -> log joined worker-0
          -> log generation 3 after 20
          -> keep
          -> assign w0 rank 0 of generation 3: peers [0] after 20, shared of checkpoints/step-20, 0 of checkpoints/step-20
        1 w0/1 ready
        2 w0/3 ready
          -> kill all
          -> log finished at 20: data.path: the data is not what checkpoints/step-20 was trained on; put the old file back, or start a new run
          -> finish failed 2
        ",
    );
}
