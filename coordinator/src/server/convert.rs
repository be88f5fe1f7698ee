//! Wire messages into what the cluster is told, and back.

use crate::cluster::{self, Origin, Report, Suspended};
use medley_common::manifest::ManifestFile;
use medley_common::proto;
use medley_common::summary::{Estimate, Evaluation};
use proto::worker_message::Body;

/// What a worker's message says; `None` for an empty one, which a newer worker may send.
pub fn report(body: Option<Body>) -> Option<Report> {
    Some(match body? {
        Body::Heartbeat(_) => Report::Heartbeat,
        Body::Ready(ready) => Report::Ready(ready),
        Body::Steps(report) => Report::Steps(report.steps),
        Body::Evaluation(evaluation) => Report::Evaluated(self::evaluation(evaluation)),
        Body::Shards(shards) => Report::ShardsWritten {
            step: shards.step,
            staging: shards.staging,
            files: shards
                .files
                .into_iter()
                .map(|file| ManifestFile { name: file.name, bytes: file.bytes, sha256: file.sha256 })
                .collect(),
            state: shards.state,
        },
        Body::ShardsFailed(failed) => Report::ShardsFailed { step: failed.step, message: one_line(&failed.message) },
        Body::Completed(completed) => Report::Completed(completed),
        Body::Failed(failed) => Report::Failed {
            message: one_line(&failed.message),
            bad_input: failed.bad_input,
            is_final: failed.is_final,
        },
        Body::Suspended(held) => Report::Suspended(Suspended {
            step: held.step,
            is_prepared: held.is_prepared,
            peers: held.peers,
            replicas: held.replicas.into_iter().map(|replica| (replica.peer, replica.step)).collect(),
            state: held.state,
            is_pause: held.is_pause,
            reason: one_line(&held.reason),
            because_of_rank: u32::try_from(held.because_of_rank).ok(),
        }),
    })
}

fn evaluation(evaluation: proto::Evaluation) -> Evaluation {
    Evaluation {
        subject: plain(evaluation.subject),
        step: evaluation.step,
        split: plain(evaluation.split),
        protocol: plain(evaluation.protocol),
        candidates_hash: Some(plain(evaluation.candidates_hash)).filter(|hash| !hash.is_empty()),
        users: evaluation.users,
        metrics: evaluation
            .metrics
            .into_iter()
            .map(|metric| {
                let estimate = Estimate { mean: metric.mean, half_width: metric.half_width };
                (plain(metric.name), estimate)
            })
            .collect(),
    }
}

/// Names that messages for people quote have no line ends in them, nor anything that a terminal obeys.
fn plain(name: String) -> String {
    if name.contains(char::is_control) { name.escape_debug().to_string() } else { name }
}

/// Messages for people are one line.
fn one_line(message: &str) -> String {
    let lines = message.lines().map(str::trim).filter(|line| !line.is_empty());
    match lines.collect::<Vec<_>>().join("; ") {
        empty if empty.is_empty() => "it gave no reason".into(),
        line => line,
    }
}

/// An assignment as a worker receives it. `job` is the part that is the same for all.
pub fn assignment(assignment: &cluster::Assignment, job: &proto::Assignment) -> proto::CoordinatorMessage {
    let members = assignment.members.iter().map(|member| proto::Member {
        rank: member.rank,
        address: member.address.clone(),
        peers: member.peers.clone(),
        buddy: member.buddy,
    });
    let start = &assignment.start;
    let peers = start.peers.iter().map(|(peer, from)| proto::PeerOrigin { peer: *peer, origin: Some(origin(from)) });
    let assigned = proto::Assignment {
        rank: assignment.rank,
        members: members.collect(),
        shared: Some(origin(&start.shared)),
        peers: peers.collect(),
        step: start.step,
        state: start.state.clone(),
        checkpoint_step: assignment.checkpoint_step,
        ..job.clone()
    };
    proto::CoordinatorMessage {
        generation: assignment.generation,
        body: Some(proto::coordinator_message::Body::Assignment(assigned)),
    }
}

fn origin(from: &Origin) -> proto::Origin {
    use proto::origin::From;
    let from = match from {
        Origin::Fresh => From::Fresh(proto::Fresh {}),
        Origin::Checkpoint(directory) => From::Checkpoint(directory.clone()),
        Origin::Rank(rank) => From::Rank(*rank),
        Origin::CopyOf { peer, rank, noise } => From::Copy(proto::PeerCopy { peer: *peer, rank: *rank, noise: *noise }),
    };
    proto::Origin { from: Some(from) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn failures_become_one_line() {
        let failed = |message: &str| {
            report(Some(Body::Failed(proto::Failed { message: message.into(), ..Default::default() }))).unwrap()
        };
        let Report::Failed { message, .. } = failed("panicked\n  at the disco\n") else {
            panic!("not a failure");
        };
        assert_eq!(message, "panicked; at the disco");
        assert!(matches!(failed(""), Report::Failed { message, .. } if !message.is_empty()));
    }

    #[test]
    fn minus_one_is_nobody() {
        let suspended = |because_of_rank| {
            report(Some(Body::Suspended(proto::Suspended { because_of_rank, ..Default::default() }))).unwrap()
        };
        assert!(matches!(suspended(-1), Report::Suspended(Suspended { because_of_rank: None, .. })));
        assert!(matches!(suspended(2), Report::Suspended(Suspended { because_of_rank: Some(2), .. })));
    }

    #[test]
    fn names_of_several_lines_become_one() {
        let evaluation = proto::Evaluation {
            protocol: "full\n\u{1b}[2J".into(),
            candidates_hash: "a\nb".into(),
            ..proto::Evaluation::default()
        };
        let Some(Report::Evaluated(evaluation)) = report(Some(Body::Evaluation(evaluation))) else {
            panic!("not an evaluation");
        };
        assert_eq!(evaluation.protocol, "full\\n\\u{1b}[2J");
        assert_eq!(evaluation.candidates_hash.as_deref(), Some("a\\nb"));
    }
}
