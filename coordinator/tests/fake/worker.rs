//! The worker process: a client of the coordinator that plays one of a few roles.

use medley_common::manifest::TrainingState;
use medley_common::proto::coordinator_client::CoordinatorClient;
use medley_common::proto::coordinator_message::Body as Order;
use medley_common::proto::worker_message::Body;
use medley_common::{VERSION, hash, proto};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

/// Steps of the whole training.
const STEPS: u64 = 6;

/// Plays the worker that the environment describes, where it describes one.
pub fn play_if_asked() {
    let Ok(role) = std::env::var("MEDLEY_TEST_ROLE") else {
        return;
    };
    let arguments = std::env::var("MEDLEY_TEST_ARGUMENTS").unwrap();
    // A real worker ends with its standard input, which ends with the coordinator.
    std::thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(9);
    });
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(play(&role, &arguments));
    std::process::exit(0);
}

fn argument(arguments: &str, name: &str) -> String {
    let mut words = arguments.split_whitespace();
    words.find(|word| *word == name).unwrap();
    words.next().unwrap().to_owned()
}

async fn play(role: &str, arguments: &str) {
    if role == "never-join" {
        std::future::pending::<()>().await;
    }
    let slot: u32 = argument(arguments, "--slot").parse().unwrap();
    let client = CoordinatorClient::connect(argument(arguments, "--coordinator")).await.unwrap();
    let mut worker = Worker::join(client, slot, &argument(arguments, "--job")).await;
    let Some(Order::Assignment(assignment)) = worker.order().await else {
        panic!("no assignment");
    };
    worker.assignment = assignment;
    worker.train(role).await;
    match worker.order().await {
        Some(Order::Release(_)) => println!("released"),
        other => println!("ordered {other:?}"),
    }
}

struct Worker {
    name: String,
    generation: u64,
    outgoing: mpsc::Sender<proto::WorkerMessage>,
    incoming: Streaming<proto::CoordinatorMessage>,
    assignment: proto::Assignment,
    heartbeats: tokio::task::JoinHandle<()>,
}

impl Worker {
    async fn join(mut client: CoordinatorClient<Channel>, slot: u32, job: &str) -> Self {
        let request = proto::JoinRequest {
            job: job.into(),
            version: VERSION.into(),
            token: std::env::var("MEDLEY_LAUNCH_TOKEN").unwrap(),
            slot,
            data_address: format!("127.0.0.1:{}", 1000 + slot),
            device: "cpu".into(),
            process_id: std::process::id(),
            ..proto::JoinRequest::default()
        };
        for (fault, expected) in [
            ("token", tonic::Code::PermissionDenied),
            ("version", tonic::Code::FailedPrecondition),
            ("job", tonic::Code::NotFound),
            ("slot", tonic::Code::InvalidArgument),
        ] {
            let mut wrong = request.clone();
            match fault {
                "token" => wrong.token.push('x'),
                "version" => wrong.version = "99.0.0".into(),
                "job" => wrong.job.push('x'),
                _ => wrong.slot = 65_536,
            }
            let status = client.join(wrong).await.expect_err(fault);
            assert_eq!(status.code(), expected, "{status}");
            if fault == "version" {
                let both = ["99.0.0", VERSION];
                assert!(both.iter().all(|v| status.message().contains(v)), "{status}");
            }
        }
        let reply = client.join(request).await.unwrap().into_inner();

        let (outgoing, messages) = mpsc::channel(64);
        let heartbeat = |generation| proto::WorkerMessage {
            worker: reply.worker.clone(),
            generation,
            sequence: 0,
            body: Some(Body::Heartbeat(proto::Heartbeat { step: 0 })),
        };
        outgoing.send(heartbeat(0)).await.unwrap();
        let incoming = client.session(ReceiverStream::new(messages)).await.unwrap().into_inner();
        let beat = heartbeat(0);
        let beats = outgoing.clone();
        let heartbeats = tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_millis(reply.heartbeat_ms)).await;
                if beats.send(beat.clone()).await.is_err() {
                    return;
                }
            }
        });
        Self {
            name: reply.worker,
            generation: 0,
            outgoing,
            incoming,
            assignment: proto::Assignment::default(),
            heartbeats,
        }
    }

    async fn order(&mut self) -> Option<Order> {
        let message = self.incoming.message().await.ok()??;
        self.generation = message.generation;
        message.body
    }

    async fn say(&self, body: Body) {
        let (worker, generation) = (self.name.clone(), self.generation);
        let message = proto::WorkerMessage { worker, generation, sequence: 0, body: Some(body) };
        self.outgoing.send(message).await.unwrap();
    }

    async fn train(&mut self, role: &str) {
        let rank = self.assignment.rank;
        if rank == 1 && role == "bad-input-at-once" {
            self.report_bad_input().await;
            std::future::pending::<()>().await;
        }
        self.say(Body::Ready(proto::Ready { data_hash: "data".into(), total_steps: STEPS, ..proto::Ready::default() }))
            .await;
        let mut step = self.assignment.step;
        let mut reason = "steps";
        while step < STEPS || matches!(role, "until-stopped" | "deaf") {
            step += 1;
            self.step(step, rank).await;
            if rank + 1 == self.assignment.members.len() as u32 && step == 3 {
                self.misbehave(role).await;
            }
            if role == "until-stopped" {
                let pause = tokio::time::timeout(Duration::from_millis(20), self.order());
                // Ranks agree on the step to stop at, as real ones do by an exchange: here they stop far ahead.
                if let Ok(Some(Order::Stop(_))) = pause.await {
                    for later in step + 1..=1_000 {
                        self.step(later, rank).await;
                    }
                    (step, reason) = (1_000, "stopped");
                    break;
                }
                // Later steps would only be sent to catch up with a rank that stopped.
                assert!(step < 900, "nobody stopped it");
            }
            if role == "deaf" && step > STEPS {
                std::future::pending::<()>().await;
            }
        }
        self.checkpoint(step, rank, role).await;
        self.say(Body::Evaluation(proto::Evaluation {
            subject: format!("peer-{rank}"),
            step,
            split: "test".into(),
            protocol: "uniform99".into(),
            candidates_hash: "c".into(),
            users: 3,
            metrics: Vec::new(),
        }))
        .await;
        self.say(Body::Completed(proto::Completed { step, reason: reason.into(), ..proto::Completed::default() }))
            .await;
    }

    async fn step(&self, step: u64, rank: u32) {
        let record = proto::StepRecord {
            step,
            rows: 5,
            losses: vec![proto::PeerLoss { peer: rank, ..proto::PeerLoss::default() }],
            ..proto::StepRecord::default()
        };
        self.say(Body::Steps(proto::StepReport { steps: vec![record] })).await;
    }

    async fn checkpoint(&self, step: u64, rank: u32, role: &str) {
        let staging = format!("checkpoints/.step-{step}.staging");
        let directory = std::path::Path::new(&self.assignment.run_directory).join(&staging);
        std::fs::create_dir_all(&directory).unwrap();
        let mut names = vec![format!("peer-{rank}.safetensors")];
        if rank == 0 {
            names.push("shared.safetensors".into());
        }
        let files = names.into_iter().map(|name| {
            let contents = format!("{name} at {step}");
            std::fs::write(directory.join(&name), &contents).unwrap();
            let claimed = if role == "bad-shard" { "something else" } else { &contents };
            proto::ShardFile { name, bytes: contents.len() as u64, sha256: hash::sha256(claimed.as_bytes()) }
        });
        let state =
            TrainingState { best_step: step, train_seconds: 0.5, rows: 5 * step, bytes_sent: 7, ..Default::default() };
        self.say(Body::Shards(proto::ShardsWritten {
            step,
            staging,
            files: files.collect(),
            state: if rank == 0 { serde_json::to_string(&state).unwrap() } else { String::new() },
        }))
        .await;
    }

    async fn misbehave(&mut self, role: &str) {
        match role {
            "killed" => {
                println!("about to die");
                let itself = rustix::process::getpid();
                rustix::process::kill_process(itself, rustix::process::Signal::KILL).unwrap();
            }
            "silent" => self.heartbeats.abort(),
            "hang-up" => {
                self.heartbeats.abort();
                let _ = self.heartbeats.is_finished();
                let (closed, _) = mpsc::channel(1);
                self.outgoing = closed;
            }
            "bad-input" => self.report_bad_input().await,
            _ => return,
        }
        std::future::pending::<()>().await;
    }

    async fn report_bad_input(&self) {
        self.say(Body::Failed(proto::Failed {
            message: "train.batch_size: too small".into(),
            bad_input: true,
            is_final: false,
        }))
        .await;
    }
}
