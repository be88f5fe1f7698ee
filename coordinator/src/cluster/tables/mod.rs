//! Whole lives of small jobs, as tables that a person can read: one line an event, then what it led to.

#![allow(clippy::unwrap_used)]

mod checkpoints;
mod stops;

use super::*;
use medley_common::events::Event as JobEvent;
use medley_common::manifest::ManifestFile;
use medley_common::proto;
use medley_common::summary::Evaluation;
use std::time::Duration;

pub(super) fn settings(workers: u32) -> Settings {
    Settings {
        peers: workers,
        workers,
        generation: 1,
        resume: None,
        log_every: 10,
        join: Duration::from_millis(60_000),
        death: Duration::from_millis(1_000),
        verdict: Duration::from_millis(500),
        stop: Duration::from_millis(60_000),
    }
}

/// Plays a script of `MILLISECONDS EVENT...` lines; each line `  -> ...` after one holds the actions it must lead to.
fn play(settings: Settings, script: &str) {
    let mut cluster = Cluster::new(settings);
    let mut actual = String::new();
    for line in script.lines().map(str::trim) {
        let Some((time, event)) = line.split_once(' ').filter(|(time, _)| *time != "->") else {
            continue;
        };
        let now = Duration::from_millis(time.parse().unwrap());
        actual += &format!("{line}\n");
        for action in cluster.apply(now, parse(event.trim())) {
            actual += &format!("  -> {}\n", describe(&action));
        }
    }
    let normal = |text: &str| {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        lines.collect::<Vec<_>>().join("\n")
    };
    assert_eq!(normal(&actual), normal(script), "\nplayed:\n{actual}");
}

fn parse(text: &str) -> Event {
    let words: Vec<&str> = text.split_whitespace().collect();
    if words == ["tick"] {
        return Event::Tick;
    }
    if words[0] == "stop" {
        return Event::StopRequested { reason: words[1].into() };
    }
    if words[0] == "committed" {
        let step = words[1].parse().unwrap();
        return Event::CheckpointCommitted { step, directory: format!("checkpoints/step-{step}"), bytes: 8 };
    }
    if words[0] == "not-committed" {
        return Event::CheckpointFailed { step: words[1].parse().unwrap(), message: "disk full".into() };
    }
    let slot: u32 = words[0].trim_start_matches('w').parse().unwrap();
    let number = |index: usize| words[index].parse::<u64>().unwrap();
    let report = |report| Event::Reported { slot, generation: 1, report };
    match words[1] {
        "joins" => Event::Joined { slot, process_id: 100 + slot, address: format!("h:{slot}"), device: "cpu".into() },
        "ready" => report(Report::Ready(proto::Ready {
            data_hash: words.get(2).unwrap_or(&"d").to_string(),
            total_steps: 25,
            ..proto::Ready::default()
        })),
        "beats" => report(Report::Heartbeat),
        "steps" => report(Report::Steps(
            (number(2)..=number(3)).map(|step| proto::StepRecord { step, ..Default::default() }).collect(),
        )),
        "evaluates" => report(Report::Evaluated(Evaluation {
            subject: format!("peer-{slot}"),
            step: 20,
            split: "test".into(),
            protocol: "uniform99".into(),
            candidates_hash: Some(words[2].into()),
            users: 9,
            metrics: Default::default(),
        })),
        "shards" => report(Report::ShardsWritten {
            step: number(2),
            staging: "staging".into(),
            files: vec![ManifestFile { name: format!("peer-{slot}"), bytes: 4, sha256: "h".into() }],
            state: if slot == 0 { "{}".into() } else { String::new() },
        }),
        "shards-fail" => report(Report::ShardsFailed { step: number(2), message: words[3].replace('_', " ") }),
        "completes" => report(Report::Completed(proto::Completed { reason: words[2].into(), ..Default::default() })),
        "fails" => report(Report::Failed {
            message: words[2].replace('_', " "),
            bad_input: words.get(3) == Some(&"bad-input"),
            because_of_rank: match words.get(3) {
                Some(&"because") => Some(words[4].parse().unwrap()),
                _ => None,
            },
        }),
        "session-ends" => Event::SessionLost { slot, reason: "reset".into() },
        "exits" => Event::Exited {
            slot,
            status: words[2].replace('_', " "),
            last_words: words.get(3).map(|words| words.replace('_', " ")),
        },
        other => panic!("no such event: {other}"),
    }
}

fn describe(action: &Action) -> String {
    match action {
        Action::Assign { slot, assignment } => format!(
            "assign w{slot} rank {} of generation {}: peers {:?}{}",
            assignment.rank,
            assignment.generation,
            assignment.members[assignment.rank as usize].peers,
            assignment.checkpoint.as_ref().map(|c| format!(" from {c}")).unwrap_or_default(),
        ),
        Action::SendStop { slot, .. } => format!("stop w{slot}"),
        Action::Release { slot, .. } => format!("release w{slot}"),
        Action::CommitCheckpoint(commit) => {
            format!("commit step {} of {} files", commit.step, commit.files.len())
        }
        Action::DiscardCheckpoint { step, generation } => format!("discard step {step} of generation {generation}"),
        Action::Progress(step) => format!("progress {}", step.step),
        Action::KillAll => "kill all".into(),
        Action::Finish(outcome) => format!("finish {} {}", outcome.outcome, outcome.exit_code),
        Action::Record(event) => match event {
            JobEvent::Step(step) => format!("log step {}", step.step),
            JobEvent::WorkerLost { worker, .. } => format!("log lost {worker}"),
            JobEvent::Finished { message, step, .. } => {
                format!("log finished at {step}: {message}")
            }
            JobEvent::Warning { message } => format!("log warning {message}"),
            JobEvent::Checkpoint { step, .. } => format!("log checkpoint {step}"),
            JobEvent::WorkerCompleted { worker, .. } => format!("log completed {worker}"),
            JobEvent::WorkerJoined { worker, .. } => format!("log joined {worker}"),
            JobEvent::Generation { generation, .. } => format!("log generation {generation}"),
            JobEvent::Ready { .. } => "log ready".into(),
            JobEvent::Evaluation(evaluation) => format!("log evaluation of {}", evaluation.subject),
            JobEvent::JobStarted { .. } => "log started".into(),
        },
    }
}

/// Two workers that have joined and met.
const BEGINNING: &str = "
    0 w1 joins
      -> log joined worker-1
    5 w0 joins
      -> log joined worker-0
      -> log generation 1
      -> assign w0 rank 0 of generation 1: peers [0]
      -> assign w1 rank 1 of generation 1: peers [1]
    10 w0 ready
    10 w1 ready
      -> log ready
";

fn after_beginning(rest: &str) {
    play(settings(2), &format!("{BEGINNING}{rest}"));
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
          -> release w0
          -> release w1
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
    for event in ["w0 joins", "w0 ready", "w0 steps 1 25", "w0 completes steps"] {
        for action in cluster.apply(Duration::ZERO, parse(event)) {
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
        20 w0 fails no_rows_from_rank_1 because 1
        21 w0 session-ends
        22 w0 exits with_exit_status_1
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
fn the_wait_for_the_cause_is_bounded() {
    after_beginning(
        "
        20 w0 fails no_rows_from_rank_1 because 1
        519 tick
        520 tick
          -> log lost worker-1
          -> kill all
          -> log finished at 0: worker 1 was lost to worker 0, which reports: no rows from rank 1
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
            "w1 ready\n      -> log ready",
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
    });
    let mut cluster = Cluster::new(resumed);
    assert_eq!(cluster.committed_step(), 20);
    let mut actions = cluster.apply(Duration::ZERO, parse("w0 joins"));
    let assigned = describe(&actions.pop().unwrap());
    assert_eq!(assigned, "assign w0 rank 0 of generation 3: peers [0] from checkpoints/step-20");
    // A report of an older generation is a zombie's.
    assert_eq!(cluster.apply(Duration::ZERO, parse("w0 ready")), []);
    let ready = Event::Reported { slot: 0, generation: 3, report: Report::Ready(proto::Ready::default()) };
    let actions = cluster.apply(Duration::ZERO, ready);
    assert!(matches!(actions.last(), Some(Action::Finish(outcome)) if outcome.exit_code == 2));
}
