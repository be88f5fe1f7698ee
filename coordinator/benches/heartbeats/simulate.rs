//! Simulated workers: gRPC clients that speak as `medley-worker` does, over connections as it opens them.

use crate::load::{JOB, Load, Said};
use medley_common::proto::coordinator_client::CoordinatorClient;
use medley_common::proto::coordinator_message::Body as Order;
use medley_common::proto::worker_message::Body;
use medley_common::{VERSION, proto};
use std::ops::Range;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Endpoint;

/// Messages that may wait for the wire.
const QUEUE: usize = 64;
/// Bound on everything that a worker waits for.
const DEADLINE: Duration = Duration::from_secs(120);

/// Lives of the workers of some slots, from joining to their release.
///
/// # Panics
/// Where a worker is refused, lost, or kept waiting for too long.
pub async fn simulate(url: &str, token: &str, slots: Range<u32>, load: Load) -> Said {
    let mut workers = JoinSet::new();
    for slot in slots {
        let worker = live(url.to_owned(), token.to_owned(), slot, load);
        workers.spawn(async move { tokio::time::timeout(DEADLINE + load.step * load.steps as u32, worker).await });
    }
    let mut said = Said::default();
    while let Some(worker) = workers.join_next().await {
        said += worker.expect("no worker panics").expect("no worker waits for ever");
    }
    said
}

async fn live(url: String, token: String, slot: u32, load: Load) -> Said {
    let endpoint = Endpoint::from_shared(url).expect("a URL").tcp_nodelay(true);
    let mut session = Session::open(&endpoint, token, slot).await;
    let ready = proto::Ready { data_hash: "data".into(), total_steps: load.steps, ..proto::Ready::default() };
    let mut said = Said::default();
    // Heartbeats from the first moment, as in a worker; everything else after the assignment.
    let mut heartbeats = session.ticks(load.heartbeat, load);
    let Some(Order::Assignment(_)) = session.order_while_beating(&mut heartbeats, &mut said).await else {
        panic!("worker {slot} was not assigned");
    };
    session.say(Body::Ready(ready)).await;
    let mut steps = session.ticks(load.step, load);
    while said.steps < load.steps {
        tokio::select! {
            _ = heartbeats.tick() => session.beat(&mut said).await,
            _ = steps.tick() => session.report_step(&mut said).await,
        }
    }
    session.say(Body::Completed(proto::Completed { reason: "steps".into(), ..proto::Completed::default() })).await;
    // No more heartbeats, so that every one was sent before the job could end.
    match session.order().await {
        Some(Order::Release(_)) => said,
        other => panic!("worker {slot} was not released but told {other:?}"),
    }
}

struct Session {
    worker: String,
    slot: u32,
    generation: u64,
    outgoing: mpsc::Sender<proto::WorkerMessage>,
    incoming: Streaming<proto::CoordinatorMessage>,
}

impl Session {
    /// Joins over one connection and opens the session over another.
    async fn open(endpoint: &Endpoint, token: String, slot: u32) -> Self {
        let request = proto::JoinRequest {
            job: JOB.into(),
            version: VERSION.into(),
            token,
            slot,
            data_address: format!("127.0.0.1:{slot}"),
            device: "cpu".into(),
            process_id: std::process::id(),
            ..proto::JoinRequest::default()
        };
        let channel = endpoint.connect().await.expect("a coordinator that listens");
        let reply = CoordinatorClient::new(channel).join(request).await.expect("admission").into_inner();
        let channel = endpoint.connect().await.expect("a coordinator that listens");
        let (outgoing, messages) = mpsc::channel(QUEUE);
        let first = proto::WorkerMessage {
            worker: reply.worker.clone(),
            generation: 0,
            sequence: 0,
            body: Some(Body::Heartbeat(proto::Heartbeat::default())),
        };
        outgoing.send(first).await.expect("an open queue");
        let session = CoordinatorClient::new(channel).session(ReceiverStream::new(messages)).await;
        let incoming = session.expect("a session").into_inner();
        Self { worker: reply.worker, slot, generation: 0, outgoing, incoming }
    }

    /// Ticks every `period`: at the same moments in all processes, or each worker after the one before.
    fn ticks(&self, period: Duration, load: Load) -> Interval {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let into = Duration::from_nanos((since_epoch.as_nanos() % period.as_nanos().max(1)) as u64);
        let own = if load.is_aligned { Duration::ZERO } else { period * self.slot / load.workers };
        let mut ticks = tokio::time::interval_at(Instant::now() + (period - into) + own, period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks
    }

    async fn say(&self, body: Body) {
        let (worker, generation) = (self.worker.clone(), self.generation);
        let message = proto::WorkerMessage { worker, generation, sequence: 0, body: Some(body) };
        self.outgoing.send(message).await.expect("an open session");
    }

    async fn beat(&self, said: &mut Said) {
        self.say(Body::Heartbeat(proto::Heartbeat { step: said.steps })).await;
        said.heartbeats += 1;
    }

    /// Reports the next step. Its `seconds` say when it was reported, since the epoch.
    async fn report_step(&self, said: &mut Said) {
        said.steps += 1;
        let loss = proto::PeerLoss { peer: self.slot, total: 1.0, cross_entropy: 1.0, ..proto::PeerLoss::default() };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let record = proto::StepRecord {
            step: said.steps,
            learning_rate: 1e-3,
            gradient_norm: 1.0,
            rows: 1024,
            bytes_sent: 1 << 20,
            bytes_received: 1 << 20,
            losses: vec![loss],
            stage: "train".into(),
            seconds: now.as_secs_f64(),
            ..proto::StepRecord::default()
        };
        self.say(Body::Steps(proto::StepReport { steps: vec![record] })).await;
    }

    async fn order(&mut self) -> Option<Order> {
        let message = self.incoming.message().await.expect("an open session")?;
        self.generation = message.generation;
        message.body
    }

    async fn order_while_beating(&mut self, heartbeats: &mut Interval, said: &mut Said) -> Option<Order> {
        loop {
            tokio::select! {
                order = self.order() => return order,
                _ = heartbeats.tick() => {}
            }
            self.beat(said).await;
        }
    }
}
