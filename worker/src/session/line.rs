//! Keeps a stream to some coordinator open.

use super::{Ended, Order, SessionError, Settings, Shared};
use crate::random::unit;
use medley_common::COORDINATOR_PATIENCE;
use medley_common::certificates::channel::{ChannelError, Way};
use medley_common::proto::coordinator_client::CoordinatorClient;
use medley_common::proto::worker_message::Body as Report;
use medley_common::proto::{CoordinatorMessage, Heartbeat, JoinRequest, WorkerMessage};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

/// Bound on connecting, on joining, and on opening the stream, each.
const ATTEMPT_DEADLINE: Duration = Duration::from_secs(5);

/// Waits between attempts: from the shorter to the longer, each with up to half of it more, so that workers that lost the
/// same coordinator do not come back in step.
const WAITS: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(1);

/// Seconds after which TCP may probe a silent connection: the kernel's own bounds.
const TCP_KEEPALIVE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(32_767);

/// Messages between the outbox and the wire.
const UNDER_WAY: usize = 64;

/// The line of one worker.
pub struct Line {
    ways: Vec<Way>,
    patience: Duration,
    probes: bool,
    request: JoinRequest,
    shared: Arc<Shared>,
    orders: Sender<Order>,
}

/// Why a connection ended, or did not come about.
enum Broken {
    /// Another attempt may succeed.
    ForNow(String),
    /// None will.
    ForGood(String),
    /// The worker itself has no more use for it.
    Unwanted,
}

impl From<Status> for Broken {
    fn from(status: Status) -> Self {
        let reason = status.message().to_owned();
        match status.code() {
            Code::PermissionDenied
            | Code::Unauthenticated
            | Code::FailedPrecondition
            | Code::InvalidArgument
            | Code::Aborted => Self::ForGood(reason),
            code if reason.is_empty() => Self::ForNow(code.description().to_owned()),
            _ => Self::ForNow(reason),
        }
    }
}

impl Line {
    /// A line to one of several coordinators.
    ///
    /// # Errors
    /// When an address is none.
    pub fn new(
        settings: &Settings,
        request: JoinRequest,
        shared: Arc<Shared>,
        orders: Sender<Order>,
    ) -> Result<Self, SessionError> {
        let way = |address: &String| {
            let way = Way::new(address, settings.certificates.as_ref())?;
            Ok::<_, SessionError>(way.with(|endpoint| endpoint.connect_timeout(ATTEMPT_DEADLINE)))
        };
        let ways = settings.addresses.iter().map(way).collect::<Result<_, _>>()?;
        Ok(Self { ways, patience: settings.patience, probes: settings.probes, request, shared, orders })
    }

    /// Connects, talks, and does so again for as long as it makes sense. `joined` is told of the first success, and
    /// dropped when there is none.
    pub async fn keep(self, joined: oneshot::Sender<()>) {
        let mut joined = Some(joined);
        let mut alive = Instant::now();
        let mut wait = *WAITS.start();
        let mut jitter = ChaCha8Rng::seed_from_u64(
            self.request.incarnation.iter().fold(0, |seed, byte| seed << 8 | u64::from(*byte)),
        );
        let ended = 'line: loop {
            let mut last = "there is no address to try".to_owned();
            // A certificate is mended by people: of several reasons it is the one to name.
            let mut distrusted = None;
            let mut hopeless = 0;
            for way in &self.ways {
                let broken = match self.open(way).await {
                    Ok(connection) => {
                        if let Some(joined) = joined.take() {
                            let _ = joined.send(());
                        }
                        let began = Instant::now();
                        let broken = self.talk(connection).await;
                        // One that takes workers in and at once ends their sessions is no coordinator to wait for.
                        if began.elapsed() >= *WAITS.end() {
                            (alive, wait) = (Instant::now(), *WAITS.start());
                        }
                        broken
                    }
                    Err(broken) => broken,
                };
                hopeless += usize::from(way.is_distrusted_for_good());
                match broken {
                    Broken::ForNow(reason) if way.is_distrusted() => distrusted = Some((way.address(), reason)),
                    Broken::ForNow(reason) => last = format!("{}: {reason}", way.address()),
                    Broken::ForGood(reason) => break 'line Ended::Refused(reason),
                    Broken::Unwanted => break 'line Ended::Released,
                }
            }
            // Of a worker that was in before, somebody else may only have taken a coordinator's place.
            if let Some((address, reason)) = &distrusted {
                last = format!("{address}: {reason}");
                if joined.is_some() && hopeless == self.ways.len() {
                    break Ended::Distrusted(last);
                }
            }
            if alive.elapsed() >= self.patience {
                break Ended::Lost(last);
            }
            if wait == *WAITS.start() {
                tracing::warn!(reason = %last, "no coordinator; trying again for {:?}", self.patience);
            }
            let longest = self.patience.saturating_sub(alive.elapsed());
            tokio::time::sleep(wait.mul_f64(1.0 + 0.5 * unit(&mut jitter)).min(longest)).await;
            wait = (2 * wait).min(*WAITS.end());
        };
        self.shared.end_with(ended);
        self.shared.outbox.close();
        // `orders` and `joined` drop here: whoever waits for them learns that nothing more will come.
    }

    async fn open(&self, way: &Way) -> Result<Connection, Broken> {
        let shared = &self.shared;
        let request = JoinRequest {
            generation: shared.generation.load(Ordering::SeqCst),
            rank: shared.rank.load(Ordering::SeqCst),
            step: shared.step.load(Ordering::SeqCst),
            ..self.request.clone()
        };
        let joining = async {
            Ok::<_, Broken>(client(way).await?.join(request).await.map_err(|status| refused(way, status))?.into_inner())
        };
        let reply = in_time(joining).await?;
        // A connection of its own: only now is it known how long one may be silent.
        let death = Duration::from_millis(reply.death_ms.max(1));
        let way = if self.probes {
            let tcp = death.clamp(*TCP_KEEPALIVE.start(), *TCP_KEEPALIVE.end());
            way.clone().with(|endpoint| {
                let endpoint = endpoint.tcp_keepalive(Some(tcp)).http2_keep_alive_interval(death);
                endpoint.keep_alive_timeout(COORDINATOR_PATIENCE * death)
            })
        } else {
            way.clone()
        };
        let (sender, outgoing) = mpsc::channel(UNDER_WAY);
        // The first message opens the session on the coordinator's side: it must be on its way before the call is made.
        let first = self.heartbeat(&reply.worker);
        sender.send(first).await.map_err(|_| Broken::ForNow("the session's queue closed".into()))?;
        let opening = async {
            let stream = client(&way).await?.session(ReceiverStream::new(outgoing)).await;
            let stream = stream.map_err(|status| refused(&way, status))?;
            Ok::<_, Broken>(stream.into_inner())
        };
        let incoming = in_time(opening).await?;
        let heartbeat = Duration::from_millis(reply.heartbeat_ms.max(1));
        Ok(Connection { worker: reply.worker, heartbeat, received: reply.received, sender, incoming })
    }

    /// Until the stream ends.
    async fn talk(&self, connection: Connection) -> Broken {
        let Connection { worker, heartbeat, received, sender, incoming } = connection;
        tokio::select! {
            broken = self.listen(incoming) => broken,
            broken = self.speak(&worker, heartbeat, received, sender) => broken,
        }
    }

    async fn listen(&self, mut incoming: Streaming<CoordinatorMessage>) -> Broken {
        loop {
            match incoming.next().await {
                Some(Ok(message)) => {
                    if !self.shared.hear(message, &self.orders) {
                        return Broken::Unwanted;
                    }
                }
                Some(Err(status)) => return status.into(),
                None if self.is_released() => return Broken::Unwanted,
                None => return Broken::ForNow("it ended the session".into()),
            }
        }
    }

    fn is_released(&self) -> bool {
        matches!(self.shared.group().ended, Some(Ended::Released))
    }

    /// Sends heartbeats, and reports in order from the first one that the coordinator does not have.
    async fn speak(&self, worker: &str, every: Duration, mut sent: u64, sender: mpsc::Sender<WorkerMessage>) -> Broken {
        let mut ticks = tokio::time::interval(every);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let message = match self.shared.outbox.after(sent) {
                Some(mut report) => {
                    sent = report.sequence;
                    worker.clone_into(&mut report.worker);
                    report
                }
                None => {
                    tokio::select! {
                        _ = ticks.tick() => self.heartbeat(worker),
                        () = self.shared.outbox.written.notified() => continue,
                    }
                }
            };
            if sender.send(message).await.is_err() {
                return Broken::ForNow("its session broke".into());
            }
        }
    }

    fn heartbeat(&self, worker: &str) -> WorkerMessage {
        WorkerMessage {
            worker: worker.to_owned(),
            generation: self.shared.generation.load(Ordering::SeqCst),
            sequence: 0,
            body: Some(Report::Heartbeat(Heartbeat { step: self.shared.step.load(Ordering::Relaxed) })),
        }
    }
}

/// An open session.
struct Connection {
    worker: String,
    heartbeat: Duration,
    /// The last report that the coordinator has: where to go on from. It may still lose it, so nothing is dropped for it.
    received: u64,
    sender: mpsc::Sender<WorkerMessage>,
    incoming: Streaming<CoordinatorMessage>,
}

async fn client(way: &Way) -> Result<CoordinatorClient<Channel>, Broken> {
    let channel = way.connect().await.map_err(|error| {
        Broken::ForNow(match error {
            // Whoever tells it names the address.
            ChannelError::Unreachable { reason, .. } => reason,
            error => error.to_string(),
        })
    })?;
    Ok(CoordinatorClient::new(channel))
}

/// A refusal, in words that name what is wrong with a certificate where that is the cause.
fn refused(way: &Way, status: Status) -> Broken {
    let reason = way.explain(&status);
    match Broken::from(status) {
        Broken::ForNow(_) => Broken::ForNow(reason),
        Broken::ForGood(_) => Broken::ForGood(reason),
        Broken::Unwanted => Broken::Unwanted,
    }
}

async fn in_time<T>(attempt: impl Future<Output = Result<T, Broken>>) -> Result<T, Broken> {
    let late = || Broken::ForNow(format!("no answer within {ATTEMPT_DEADLINE:?}"));
    tokio::time::timeout(ATTEMPT_DEADLINE, attempt).await.map_err(|_| late())?
}
