//! The line to the coordinator: join, hear the assignment, report, obey.
//!
//! gRPC runs on a small runtime of its own; training stays on the thread that called. A coordinator that is gone ends
//! the worker: the session aborts the exchange, so that no wait outlives it ([`Session::on_loss`]). [`watch`] sees to
//! it that a worker never outlives whoever launched it.

pub mod channel;
pub mod watch;
mod watched;

use crate::collective::AbortHandle;
use channel::{ChannelError, Way};
use medley_common::certificates::Certificates;
use medley_common::proto::coordinator_client::CoordinatorClient;
use medley_common::proto::coordinator_message::Body as Order;
use medley_common::proto::worker_message::Body as Report;
use medley_common::proto::{Assignment, CoordinatorMessage, Heartbeat, JoinRequest, WorkerMessage};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

/// Reports that may wait for the wire before training waits for them.
const QUEUE: usize = 1024;

/// Bound on connecting and joining.
const JOIN_DEADLINE: Duration = Duration::from_secs(20);

/// A coordinator may pause (Ctrl-Z, a slow disk) and go on, and losing it ends the job: it has this many times as long
/// to answer as a worker.
const PATIENCE: u32 = 5;

/// Seconds after which TCP may probe a silent connection: the kernel's own bounds.
const TCP_KEEPALIVE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(32_767);

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The address is none, or nobody answers there who can be trusted.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// The coordinator does not want this worker.
    #[error("the coordinator refused this worker: {0}")]
    Refused(String),
    /// The coordinator is gone.
    #[error("lost the coordinator: {0}")]
    Lost(String),
    /// Nothing came in time.
    #[error("no {what} from the coordinator within {waited:?}")]
    Deadline {
        /// What was awaited.
        what: &'static str,
        /// How long.
        waited: Duration,
    },
    /// The runtime could not be started.
    #[error("cannot start the session's threads: {0}")]
    Runtime(std::io::Error),
}

/// A worker's session.
pub struct Session {
    worker: String,
    shared: Arc<Shared>,
    reports: mpsc::Sender<WorkerMessage>,
    orders: std::sync::mpsc::Receiver<CoordinatorMessage>,
    runtime: tokio::runtime::Runtime,
}

/// What the session's tasks and the training thread share.
#[derive(Default)]
struct Shared {
    generation: AtomicU64,
    step: AtomicU64,
    stop: AtomicBool,
    lost: Mutex<Loss>,
}

#[derive(Default)]
struct Loss {
    reason: Option<String>,
    abort: Option<AbortHandle>,
}

impl Session {
    /// Joins a job. With `probes` a silent coordinator is asked whether it is still there. A launched worker need not: it
    /// ends with its launcher, and goes on with one that was only paused.
    ///
    /// # Errors
    /// When the coordinator cannot be reached or refuses.
    pub fn join(
        address: &str,
        request: JoinRequest,
        probes: bool,
        certificates: Option<&Certificates>,
    ) -> Result<Self, SessionError> {
        let way = Way::new(address, certificates)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("medley-session")
            .enable_all()
            .build()
            .map_err(SessionError::Runtime)?;
        let (reports, outgoing) = mpsc::channel(QUEUE);
        let (incoming, orders) = std::sync::mpsc::channel();
        let shared = Arc::new(Shared::default());
        let joining = open(way, request, probes, reports.clone(), outgoing, Arc::clone(&shared));
        let (worker, stream, heartbeat) = runtime.block_on(async {
            tokio::time::timeout(JOIN_DEADLINE, joining)
                .await
                .map_err(|_| SessionError::Deadline { what: "answer", waited: JOIN_DEADLINE })?
        })?;
        runtime.spawn(listen(stream, incoming, Arc::clone(&shared)));
        runtime.spawn(beat(worker.clone(), heartbeat, reports.clone(), Arc::clone(&shared)));
        Ok(Self { worker, shared, reports, orders, runtime })
    }

    /// Waits for the assignment; from then on all reports carry its generation.
    ///
    /// # Errors
    /// When none comes in time, or the coordinator is lost or releases the worker instead.
    pub fn assignment(&self, deadline: Duration) -> Result<Assignment, SessionError> {
        let message = self.order(deadline, "assignment")?;
        self.shared.generation.store(message.generation, Ordering::SeqCst);
        match message.body {
            Some(Order::Assignment(assignment)) => Ok(assignment),
            _ => Err(SessionError::Lost("it released this worker before the job began".into())),
        }
    }

    /// Waits for the release after the job's end.
    ///
    /// # Errors
    /// When none comes in time or the coordinator is lost.
    pub fn released(&self, deadline: Duration) -> Result<(), SessionError> {
        self.order(deadline, "release").map(|_| ())
    }

    fn order(&self, deadline: Duration, what: &'static str) -> Result<CoordinatorMessage, SessionError> {
        self.orders.recv_timeout(deadline).map_err(|error| match error {
            std::sync::mpsc::RecvTimeoutError::Timeout => SessionError::Deadline { what, waited: deadline },
            std::sync::mpsc::RecvTimeoutError::Disconnected => SessionError::Lost(self.loss()),
        })
    }

    /// The current generation.
    pub fn generation(&self) -> u64 {
        self.shared.generation.load(Ordering::SeqCst)
    }

    /// Sends a report. A coordinator that is lost is noticed elsewhere; here reports to it fall silently.
    pub fn report(&self, report: Report) {
        let message = WorkerMessage { worker: self.worker.clone(), generation: self.generation(), body: Some(report) };
        if self.reports.blocking_send(message).is_err() {
            tracing::debug!("a report found no coordinator");
        }
    }

    /// What heartbeats say of progress.
    pub fn set_step(&self, step: u64) {
        self.shared.step.store(step, Ordering::Relaxed);
    }

    /// Whether the coordinator asked for a stop.
    pub fn stop_requested(&self) -> bool {
        self.shared.stop.load(Ordering::SeqCst)
    }

    /// Aborts a group when the coordinator is lost, at once if it already is.
    pub fn on_loss(&self, abort: AbortHandle) {
        let mut lost = self.shared.lost.lock().unwrap_or_else(PoisonError::into_inner);
        match &lost.reason {
            Some(reason) => abort.abort(reason.clone()),
            None => lost.abort = Some(abort),
        }
    }

    fn loss(&self) -> String {
        let lost = self.shared.lost.lock().unwrap_or_else(PoisonError::into_inner);
        lost.reason.clone().unwrap_or_else(|| "its session ended".into())
    }

    /// Ends the session, giving reports under way a moment to leave.
    pub fn close(self) {
        drop(self.reports);
        self.runtime.shutdown_timeout(Duration::from_secs(1));
    }
}

async fn open(
    way: Way,
    request: JoinRequest,
    probes: bool,
    reports: mpsc::Sender<WorkerMessage>,
    outgoing: mpsc::Receiver<WorkerMessage>,
    shared: Arc<Shared>,
) -> Result<(String, Streaming<CoordinatorMessage>, Duration), SessionError> {
    let channel = way.connect().await?;
    let explain = way.clone();
    let refused = |status: tonic::Status| SessionError::Refused(explain.explain(&status));
    let reply = CoordinatorClient::new(channel).join(request).await.map_err(refused)?.into_inner();
    // A connection of its own: only now is it known how long one may be silent.
    let death = Duration::from_millis(reply.death_ms.max(1));
    let way = if probes {
        let tcp = death.clamp(*TCP_KEEPALIVE.start(), *TCP_KEEPALIVE.end());
        way.with(|endpoint| {
            endpoint.tcp_keepalive(Some(tcp)).http2_keep_alive_interval(death).keep_alive_timeout(PATIENCE * death)
        })
    } else {
        way
    };
    let mut client = CoordinatorClient::new(way.connect().await?);
    // The first message opens the session on the coordinator's side: it must be on its way before the call is made.
    let first = heartbeat(&reply.worker, &shared);
    reports.send(first).await.map_err(|_| SessionError::Lost("the session's queue closed".into()))?;
    let stream = client.session(ReceiverStream::new(outgoing)).await.map_err(refused)?.into_inner();
    Ok((reply.worker, stream, Duration::from_millis(reply.heartbeat_ms.max(1))))
}

fn heartbeat(worker: &str, shared: &Shared) -> WorkerMessage {
    WorkerMessage {
        worker: worker.to_owned(),
        generation: shared.generation.load(Ordering::SeqCst),
        body: Some(Report::Heartbeat(Heartbeat { step: shared.step.load(Ordering::Relaxed) })),
    }
}

async fn beat(worker: String, every: Duration, reports: mpsc::Sender<WorkerMessage>, shared: Arc<Shared>) {
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if reports.send(heartbeat(&worker, &shared)).await.is_err() {
            return;
        }
    }
}

async fn listen(
    mut stream: Streaming<CoordinatorMessage>,
    orders: std::sync::mpsc::Sender<CoordinatorMessage>,
    shared: Arc<Shared>,
) {
    let reason = loop {
        match stream.next().await {
            Some(Ok(CoordinatorMessage { body: Some(Order::Stop(stop)), .. })) => {
                tracing::info!(reason = %stop.reason, "asked to stop after this step");
                shared.stop.store(true, Ordering::SeqCst);
            }
            Some(Ok(message)) => {
                if orders.send(message).is_err() {
                    return;
                }
            }
            Some(Err(status)) => break format!("its session broke: {}", status.message()),
            None => break "it ended the session".to_owned(),
        }
    };
    let mut lost = shared.lost.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(abort) = lost.abort.take() {
        abort.abort(format!("lost the coordinator: {reason}"));
    }
    lost.reason = Some(reason);
}
