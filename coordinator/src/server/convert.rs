//! Between the wire's messages and the cluster's.

use crate::cluster::{Assignment, Event, Report, Slot};
use medley_common::manifest::ManifestFile;
use medley_common::proto;
use medley_common::proto::coordinator_message::Body as Order;
use medley_common::proto::worker_message::Body;
use medley_common::summary::{Estimate, Evaluation};

/// What the cluster is told when a worker has opened its session.
pub fn joined(request: &proto::JoinRequest) -> Event {
    Event::Joined {
        slot: request.slot,
        process_id: request.process_id,
        address: request.data_address.clone(),
        device: request.device.clone(),
    }
}

/// What a worker says; `None` for a message that this version does not know.
pub fn reported(slot: Slot, message: proto::WorkerMessage) -> Option<Event> {
    let report = match message.body? {
        Body::Heartbeat(_) => Report::Heartbeat,
        Body::Ready(ready) => Report::Ready(ready),
        Body::Steps(steps) => Report::Steps(steps.steps),
        Body::Evaluation(evaluation) => Report::Evaluated(evaluated(evaluation)),
        Body::Shards(shards) => Report::ShardsWritten {
            step: shards.step,
            staging: shards.staging,
            files: shards.files.into_iter().map(file).collect(),
            state: shards.state,
        },
        Body::Completed(completed) => Report::Completed(completed),
        Body::Failed(failed) => Report::Failed {
            message: failed.message,
            bad_input: failed.bad_input,
            because_of_rank: u32::try_from(failed.because_of_rank).ok(),
        },
    };
    Some(Event::Reported { slot, generation: message.generation, report })
}

fn file(file: proto::ShardFile) -> ManifestFile {
    ManifestFile { name: file.name, bytes: file.bytes, sha256: file.sha256 }
}

fn evaluated(evaluation: proto::Evaluation) -> Evaluation {
    let metric = |metric: proto::Metric| (metric.name, Estimate { mean: metric.mean, half_width: metric.half_width });
    Evaluation {
        subject: evaluation.subject,
        step: evaluation.step,
        split: evaluation.split,
        protocol: evaluation.protocol,
        candidates_hash: Some(evaluation.candidates_hash).filter(|hash| !hash.is_empty()),
        users: evaluation.users,
        metrics: evaluation.metrics.into_iter().map(metric).collect(),
    }
}

/// What all workers of a job are told alike.
#[derive(Debug, Clone)]
pub struct JobTerms {
    /// The job.
    pub job: String,
    /// The resolved configuration, as TOML.
    pub config: String,
    /// The run directory.
    pub run_directory: String,
    /// The secret of the generation's data plane.
    pub secret: Vec<u8>,
}

/// An assignment as it goes to a worker.
pub fn assignment(assignment: Assignment, terms: &JobTerms) -> proto::CoordinatorMessage {
    let members = assignment.members.into_iter().map(|member| proto::Member {
        rank: member.rank,
        address: member.address,
        peers: member.peers,
    });
    let order = Order::Assignment(proto::Assignment {
        job: terms.job.clone(),
        rank: assignment.rank,
        members: members.collect(),
        config: terms.config.clone(),
        run_directory: terms.run_directory.clone(),
        secret: terms.secret.clone(),
        checkpoint: assignment.checkpoint.unwrap_or_default(),
    });
    proto::CoordinatorMessage { generation: assignment.generation, body: Some(order) }
}

/// A request to stop.
pub fn stop(generation: u64, reason: String) -> proto::CoordinatorMessage {
    proto::CoordinatorMessage { generation, body: Some(Order::Stop(proto::Stop { reason })) }
}

/// A release.
pub fn release(generation: u64) -> proto::CoordinatorMessage {
    proto::CoordinatorMessage { generation, body: Some(Order::Release(proto::Release {})) }
}
