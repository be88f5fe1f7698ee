//! The words of the tables.

use super::*;
use medley_common::manifest::ManifestFile;
use medley_common::summary::Evaluation;

pub(super) fn parse(text: &str, generation: u64, lives: &mut Lives) -> Event {
    let words: Vec<&str> = text.split_whitespace().collect();
    if words == ["tick"] {
        return Event::Tick;
    }
    if words[0] == "stop" {
        return Event::StopRequested { reason: words[1].into() };
    }
    if words[0] == "scale" {
        let workers = words.get(2).map(|workers| workers.parse().unwrap());
        return Event::ScaleRequested(Scale { peers: words[1].parse().unwrap(), workers, new_peers: None });
    }
    if words[0] == "committed" {
        let step = words[1].parse().unwrap();
        return Event::CheckpointCommitted { step, directory: format!("checkpoints/step-{step}"), bytes: 8 };
    }
    if words[0] == "not-committed" {
        return Event::CheckpointFailed { step: words[1].parse().unwrap(), message: "disk full".into() };
    }
    let (slot, generation) = match words[0].trim_start_matches('w').split_once('/') {
        Some((slot, generation)) => (slot.parse().unwrap(), generation.parse().unwrap()),
        None => (words[0].trim_start_matches('w').parse().unwrap(), generation),
    };
    let number = |index: usize| words[index].parse::<u64>().unwrap();
    let session = lives.sessions[slot as usize];
    let report = |report| Event::Reported { slot, session, generation, report };
    match words[1] {
        // `w1 joins`: a new process; `w1 returns`: the same one over another session; `w1/2 comes-back`: a process of
        // generation 2 that the present coordinator has never heard of.
        "joins" | "returns" | "comes-back" => {
            lives.sessions[slot as usize] += 1;
            lives.processes[slot as usize] += u32::from(words[1] == "joins");
            let process_id = if words[1] == "comes-back" { 99 } else { lives.process_id(slot) };
            Event::Joined(Joined {
                slot,
                session: lives.sessions[slot as usize],
                process_id,
                incarnation: process_id.to_string(),
                address: format!("h:{slot}"),
                host: "h".into(),
                device: "cpu".into(),
                generation: if words[1] == "joins" { 0 } else { generation },
            })
        }
        "ready" => report(Report::Ready(proto::Ready {
            data_hash: words.get(2).unwrap_or(&"d").to_string(),
            total_steps: 25,
            ..proto::Ready::default()
        })),
        "beats" => report(Report::Heartbeat),
        // What an earlier process of the slot still says.
        "zombie-steps" => Event::Reported {
            slot,
            session: session - 1,
            generation,
            report: Report::Steps(vec![proto::StepRecord { step: number(2), ..Default::default() }]),
        },
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
            is_final: words.get(3) == Some(&"for-good"),
        }),
        // `w0 leaves STEP hosting P,P keeping P@STEP,P [prepared|paused|missing RANK]`
        "leaves" => report(Report::Suspended(suspended(&words))),
        "session-ends" => Event::SessionLost { slot, session, reason: "reset".into() },
        // The last that joined, or the one after it, which has not.
        "exits" | "exits-early" => Event::Exited {
            slot,
            process_id: lives.process_id(slot) + if words[1] == "exits" { 0 } else { 100 },
            status: words[2].replace('_', " "),
            last_words: words.get(3).map(|words| words.replace('_', " ")),
        },
        other => panic!("no such event: {other}"),
    }
}

fn suspended(words: &[&str]) -> Suspended {
    let step: u64 = words[2].parse().unwrap();
    let after = |word| words.iter().position(|other| *other == word).map(|at| words[at + 1]);
    let list = |word| after(word).into_iter().flat_map(|list| list.split(','));
    let replica = |text: &str| match text.split_once('@') {
        Some((peer, step)) => (peer.parse().unwrap(), step.parse().unwrap()),
        None => (text.parse().unwrap(), step),
    };
    Suspended {
        step,
        is_prepared: words.contains(&"prepared"),
        peers: list("hosting").map(|peer| peer.parse().unwrap()).collect(),
        replicas: list("keeping").map(replica).collect(),
        state: "{}".into(),
        is_pause: words.contains(&"paused"),
        reason: "the exchange broke".into(),
        because_of_rank: after("missing").map(|rank| rank.parse().unwrap()),
    }
}

pub(super) fn describe(action: &Action) -> String {
    match action {
        Action::Assign { slot, assignment } => format!(
            "assign w{slot} rank {} of generation {}: peers {:?}{}",
            assignment.rank,
            assignment.generation,
            assignment.members[assignment.rank as usize].peers,
            from(&assignment.start),
        ),
        Action::Abort { slot, generation, .. } => format!("abort w{slot} of generation {generation}"),
        Action::Pause { slot, checkpoint, .. } => {
            format!("pause w{slot}{}", if *checkpoint { " with a checkpoint" } else { "" })
        }
        Action::Dismiss { slot, .. } => format!("dismiss w{slot}"),
        Action::Start { slot } => format!("start w{slot}"),
        Action::Keep(_) => "keep".into(),
        Action::SendStop { slot, .. } => format!("stop w{slot}"),
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
            JobEvent::Generation { generation, step, .. } => format!("log generation {generation} after {step}"),
            JobEvent::Recovered { lost, step, replayed, seconds, .. } => {
                format!("log recovered from {lost:?} at {step}, {replayed} again, {} ms", (seconds * 1e3).round())
            }
            JobEvent::Ready { .. } => "log ready".into(),
            JobEvent::Evaluation(evaluation) => format!("log evaluation of {}", evaluation.subject),
            JobEvent::Led { .. } => "log led".into(),
            JobEvent::JobStarted { .. } => "log started".into(),
        },
    }
}

/// Where a generation takes its state from, where that is not the seed.
fn from(start: &Start) -> String {
    if start.shared == Origin::Fresh {
        return String::new();
    }
    let peers: Vec<String> =
        start.peers.iter().map(|(peer, origin)| format!("{peer} {}", origin_name(origin))).collect();
    format!(" after {}, shared {}, {}", start.step, origin_name(&start.shared), peers.join(", "))
}

fn origin_name(origin: &Origin) -> String {
    match origin {
        Origin::Fresh => "fresh".into(),
        Origin::Checkpoint(directory) => format!("of {directory}"),
        Origin::Rank(rank) => format!("of rank {rank}"),
        Origin::CopyOf { peer, rank, .. } => format!("like {peer} of rank {rank}"),
    }
}
