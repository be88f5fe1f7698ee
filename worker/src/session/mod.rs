//! The line to the coordinator: join, hear orders, report, and come back when it breaks.
//!
//! gRPC runs on a small runtime of its own ([`mod@line`]); training stays on the thread that called. When the coordinator is
//! gone training goes on, reports wait ([`outbox`]), and the line tries all addresses in turn until one leads; only when
//! none does for as long as [`Settings::patience`], or when a coordinator says that this worker was replaced, the session
//! ends, and with it the group, so that no wait outlives it. An order to abandon a generation reaches its group at once,
//! also when it comes before the group has formed. [`watch`] sees to it that a worker never outlives whoever launched
//! it.

mod line;
mod outbox;
pub mod watch;

use crate::collective::AbortHandle;
use medley_common::certificates::Certificates;
use medley_common::certificates::channel::ChannelError;
use medley_common::proto::coordinator_message::Body;
use medley_common::proto::worker_message::Body as Report;
use medley_common::proto::{Assignment, CoordinatorMessage, JoinRequest, Pause};
use outbox::Outbox;
use std::io::Read;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The address is none, or nobody answers there who can be trusted.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// The coordinator does not want this worker.
    #[error("the coordinator refused this worker: {0}")]
    Refused(String),
    /// At every address one end does not take the other's certificate.
    #[error("no trust between this worker and the coordinator at {0}")]
    Distrusted(String),
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
    /// The system gives no random numbers.
    #[error("/dev/urandom: cannot read random bytes to join with: {0}")]
    Random(std::io::Error),
}

/// Where the coordinator is, and how hard to look for it.
#[derive(Clone)]
pub struct Settings {
    /// URLs of all coordinators, of which one leads.
    pub addresses: Vec<String>,
    /// How long there may be none.
    pub patience: Duration,
    /// Whether a silent coordinator is asked if it is still there. A launched worker need not: it ends with its launcher,
    /// and goes on with one that was only paused.
    pub probes: bool,
    /// With them the way to the coordinator is encrypted, and both ends prove who they are.
    pub certificates: Option<Certificates>,
}

/// What the coordinator wants of a worker that waits.
#[derive(Debug)]
pub enum Order {
    /// Take part in a generation.
    Assignment {
        /// Its number.
        generation: u64,
        /// Its members, and where states come from.
        assignment: Box<Assignment>,
    },
    /// Leave a generation.
    Abort {
        /// Which.
        generation: u64,
        /// One line.
        reason: String,
    },
    /// Exit.
    Release,
}

/// A worker's session.
pub struct Session {
    shared: Arc<Shared>,
    orders: Receiver<Order>,
    runtime: tokio::runtime::Runtime,
}

/// What the session's tasks and the training thread share.
#[derive(Debug, Default)]
struct Shared {
    outbox: Outbox,
    generation: AtomicU64,
    rank: AtomicU32,
    step: AtomicU64,
    stop: AtomicBool,
    group: Mutex<Group>,
}

/// The group that this worker is in, or enters next.
#[derive(Debug, Default)]
struct Group {
    /// That of the current generation.
    abort: Option<AbortHandle>,
    /// The generation that was last aborted, and why.
    aborted: Option<(u64, String)>,
    pause: Option<(u64, Pause)>,
    /// Why there will be no more orders.
    ended: Option<Ended>,
}

#[derive(Debug, Clone)]
enum Ended {
    Refused(String),
    Distrusted(String),
    Lost(String),
    Released,
}

impl Ended {
    fn reason(&self) -> String {
        match self {
            Self::Refused(reason) => format!("the coordinator refused this worker: {reason}"),
            Self::Distrusted(reason) => format!("no trust between this worker and the coordinator at {reason}"),
            Self::Lost(reason) => format!("lost the coordinator: {reason}"),
            Self::Released => "the coordinator released this worker".into(),
        }
    }
}

impl Session {
    /// Joins a job: waits, as long as patience lasts, for a coordinator that takes this worker in.
    ///
    /// # Errors
    /// When no coordinator can be reached, or one refuses for good.
    pub fn join(settings: &Settings, request: JoinRequest) -> Result<Self, SessionError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("medley-session")
            .enable_all()
            .build()
            .map_err(SessionError::Runtime)?;
        let shared = Arc::new(Shared::default());
        let (sender, orders) = channel();
        let line = line::Line::new(settings, request, Arc::clone(&shared), sender)?;
        let (joined, first) = tokio::sync::oneshot::channel();
        runtime.spawn(line.keep(joined));
        let session = Self { shared, orders, runtime };
        match session.runtime.block_on(first) {
            Ok(()) => Ok(session),
            Err(_) => Err(session.end()),
        }
    }

    /// The next order. What concerns a group has reached it already.
    ///
    /// # Errors
    /// When none comes in time, or none ever will.
    pub fn order(&self, what: &'static str, deadline: Duration) -> Result<Order, SessionError> {
        self.orders.recv_timeout(deadline).map_err(|error| match error {
            RecvTimeoutError::Timeout => SessionError::Deadline { what, waited: deadline },
            RecvTimeoutError::Disconnected => self.end(),
        })
    }

    /// Takes part in a generation from now on: reports carry it, and its group is abandoned when the coordinator says so or
    /// is lost, at once if that has happened already. An earlier request to pause is forgotten.
    pub fn enter(&self, generation: u64, rank: u32, abort: &AbortHandle) {
        let mut group = self.shared.group();
        self.shared.generation.store(generation, Ordering::SeqCst);
        self.shared.rank.store(rank, Ordering::SeqCst);
        group.pause.take_if(|(of, _)| *of < generation);
        let reason = match (&group.ended, &group.aborted) {
            (Some(ended), _) => Some(ended.reason()),
            (None, Some((aborted, reason))) if *aborted >= generation => Some(reason.clone()),
            _ => None,
        };
        group.abort = Some(abort.clone());
        drop(group);
        if let Some(reason) = reason {
            abort.abort(reason);
        }
    }

    /// The current generation; 0 before the first.
    pub fn generation(&self) -> u64 {
        self.shared.generation.load(Ordering::SeqCst)
    }

    /// Sends a report, now or when there is a coordinator again.
    pub fn report(&self, report: Report) {
        if !self.shared.outbox.write(self.generation(), report) {
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

    /// What the coordinator asked the current generation to do before its membership changes.
    pub fn pause_requested(&self) -> Option<Pause> {
        let generation = self.generation();
        self.shared.group().pause.as_ref().filter(|(of, _)| *of == generation).map(|(_, pause)| *pause)
    }

    /// Waits until the coordinator has all reports, within limits.
    pub fn settle(&self, patience: Duration) {
        self.shared.outbox.wait_empty(patience);
    }

    /// Ends the session, giving reports under way a moment to leave.
    pub fn close(self) {
        self.settle(FAREWELL);
        self.runtime.shutdown_timeout(FAREWELL);
    }

    fn end(&self) -> SessionError {
        match self.shared.group().ended.clone() {
            Some(Ended::Refused(reason)) => SessionError::Refused(reason),
            Some(Ended::Distrusted(reason)) => SessionError::Distrusted(reason),
            Some(Ended::Lost(reason)) => SessionError::Lost(reason),
            Some(ended @ Ended::Released) => SessionError::Lost(ended.reason()),
            None => SessionError::Lost("its session ended".into()),
        }
    }
}

/// How long a worker that leaves waits for its last reports to be heard.
const FAREWELL: Duration = Duration::from_secs(1);

impl Shared {
    fn group(&self) -> MutexGuard<'_, Group> {
        self.group.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a message from the coordinator means; false where nobody listens any more.
    fn hear(&self, message: CoordinatorMessage, orders: &Sender<Order>) -> bool {
        let generation = message.generation;
        match message.body {
            Some(Body::Stop(stop)) => {
                tracing::info!(reason = %stop.reason, "asked to stop after this step");
                self.stop.store(true, Ordering::SeqCst);
            }
            Some(Body::Pause(pause)) => {
                tracing::info!(checkpoint = pause.checkpoint, "asked to leave the generation after this step");
                self.group().pause = Some((generation, pause));
            }
            Some(Body::Abort(abort)) => {
                self.abort(generation, &abort.reason);
                return orders.send(Order::Abort { generation, reason: abort.reason }).is_ok();
            }
            Some(Body::Assignment(assignment)) => {
                let assignment = Box::new(assignment);
                return orders.send(Order::Assignment { generation, assignment }).is_ok();
            }
            Some(Body::Release(_)) => {
                self.end_with(Ended::Released);
                return orders.send(Order::Release).is_ok();
            }
            Some(Body::Acknowledged(acknowledged)) => self.outbox.acknowledge(acknowledged.sequence),
            None => {}
        }
        true
    }

    /// Aborts the group of a generation; one that is still to come finds itself aborted.
    fn abort(&self, generation: u64, reason: &str) {
        let mut group = self.group();
        // The training thread enters under the same lock, so that an order and an entry cannot miss one another.
        let current = self.generation.load(Ordering::SeqCst);
        if generation < current {
            return;
        }
        group.aborted = Some((generation, reason.to_owned()));
        let abort = group.abort.clone().filter(|_| generation == current);
        drop(group);
        if let Some(abort) = abort {
            abort.abort(reason);
        }
    }

    /// There will be no more orders but those that came already.
    fn end_with(&self, ended: Ended) {
        let mut group = self.group();
        let reason = ended.reason();
        group.ended.get_or_insert(ended);
        let abort = group.abort.take();
        drop(group);
        if let Some(abort) = abort {
            abort.abort(reason);
        }
    }
}

/// 16 random bytes that tell this process from any other that ever filled its place.
///
/// # Errors
/// Where the system has no source of them.
pub fn incarnation() -> Result<Vec<u8>, SessionError> {
    let mut bytes = vec![0; 16];
    let read = std::fs::File::open("/dev/urandom").and_then(|mut source| source.read_exact(&mut bytes));
    read.map(|()| bytes).map_err(SessionError::Random)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use medley_common::proto;

    fn order(generation: u64, body: Body) -> CoordinatorMessage {
        CoordinatorMessage { generation, body: Some(body) }
    }

    fn abort(generation: u64) -> CoordinatorMessage {
        order(generation, Body::Abort(proto::Abort { reason: format!("of {generation}") }))
    }

    struct Scene {
        session: Session,
        orders: Sender<Order>,
    }

    impl Scene {
        fn new() -> Self {
            let (orders, received) = channel();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            Self { session: Session { shared: Arc::default(), orders: received, runtime }, orders }
        }

        fn hear(&self, message: CoordinatorMessage) {
            assert!(self.session.shared.hear(message, &self.orders));
        }

        fn enter(&self, generation: u64) -> AbortHandle {
            let abort = AbortHandle::new();
            self.session.enter(generation, 0, &abort);
            abort
        }
    }

    #[test]
    fn an_abort_reaches_its_generation_and_no_other() {
        let scene = Scene::new();
        let fifth = scene.enter(5);
        scene.hear(abort(4));
        assert!(fifth.reason().is_none(), "an abort of an older generation is late");
        scene.hear(abort(6));
        assert!(fifth.reason().is_none(), "an abort of a generation to come is early");
        assert_eq!(scene.enter(6).reason().as_deref(), Some("of 6"), "it finds itself aborted");
        let seventh = scene.enter(7);
        assert!(seventh.reason().is_none());
        scene.hear(abort(7));
        assert_eq!(seventh.reason().as_deref(), Some("of 7"));
    }

    #[test]
    fn a_pause_is_for_one_generation_and_a_stop_for_all() {
        let scene = Scene::new();
        scene.enter(1);
        scene.hear(order(1, Body::Pause(Pause { checkpoint: true })));
        scene.hear(order(1, Body::Stop(proto::Stop { reason: "enough".into() })));
        assert_eq!(scene.session.pause_requested(), Some(Pause { checkpoint: true }));
        scene.enter(2);
        assert_eq!(scene.session.pause_requested(), None);
        assert!(scene.session.stop_requested());
        scene.hear(order(3, Body::Pause(Pause { checkpoint: false })));
        assert_eq!(scene.session.pause_requested(), None);
        scene.enter(3);
        assert_eq!(scene.session.pause_requested(), Some(Pause { checkpoint: false }));
    }

    #[test]
    fn a_release_ends_the_group_that_trains() {
        let scene = Scene::new();
        let group = scene.enter(1);
        scene.hear(order(1, Body::Release(proto::Release {})));
        assert!(group.reason().unwrap().contains("released"));
        assert!(scene.enter(2).reason().is_some());
        assert!(matches!(scene.session.order("order", Duration::ZERO), Ok(Order::Release)));
    }
}
