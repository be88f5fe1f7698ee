//! Wire messages into what the cluster is told, and back.

use crate::cluster::{self, Report};
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
        Body::Completed(completed) => Report::Completed(completed),
        Body::Failed(failed) => Report::Failed {
            message: one_line(&failed.message),
            bad_input: failed.bad_input,
            because_of_rank: u32::try_from(failed.because_of_rank).ok(),
        },
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
    });
    let assigned = proto::Assignment {
        rank: assignment.rank,
        members: members.collect(),
        checkpoint: assignment.checkpoint.clone().unwrap_or_default(),
        ..job.clone()
    };
    proto::CoordinatorMessage {
        generation: assignment.generation,
        body: Some(proto::coordinator_message::Body::Assignment(assigned)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn failures_become_one_line_and_minus_one_blames_nobody() {
        let failed = |message: &str, because_of_rank| {
            report(Some(Body::Failed(proto::Failed { message: message.into(), bad_input: false, because_of_rank })))
                .unwrap()
        };
        let Report::Failed { message, because_of_rank, .. } = failed("panicked\n  at the disco\n", -1) else {
            panic!("not a failure");
        };
        assert_eq!((message.as_str(), because_of_rank), ("panicked; at the disco", None));
        assert!(matches!(failed("", 2), Report::Failed { because_of_rank: Some(2), .. }));
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
