//! From a membership to a connected group: the higher rank dials the lower, until everybody is linked.

use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use super::handshake::{self, HandshakeError};
use super::hello::MAX_JOB_BYTES;
use super::listener::Door;
use super::stream::{Security, Stream};
use super::{AbortHandle, CollectiveError};

/// Who forms a group: what the coordinator's assignment says about one generation.
#[derive(Clone, PartialEq, Eq)]
pub struct Membership {
    /// Job id, up to 255 bytes.
    pub job: String,
    /// Generation of the membership.
    pub generation: u64,
    /// This worker's rank.
    pub rank: usize,
    /// `host:port` of every rank's [`Listener`](super::Listener), own one included; their number is the world size.
    pub addresses: Vec<String>,
    /// The secret of this generation, known to its workers only.
    pub secret: Vec<u8>,
}

impl std::fmt::Debug for Membership {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Membership")
            .field("job", &self.job)
            .field("generation", &self.generation)
            .field("rank", &self.rank)
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

impl Membership {
    pub(super) fn check(&self) -> Result<(), CollectiveError> {
        let refuse = |what: String| Err(CollectiveError::Argument(what));
        if self.rank >= self.addresses.len() || self.addresses.len() > usize::from(u16::MAX) {
            return refuse(format!("rank {} of {} workers does not exist", self.rank, self.addresses.len()));
        }
        if self.job.is_empty() || self.job.len() > MAX_JOB_BYTES {
            return refuse(format!("the job id has {} bytes; 1 to {MAX_JOB_BYTES} are allowed", self.job.len()));
        }
        if self.secret.is_empty() {
            return refuse("the secret of the generation is empty; the coordinator must send one".to_owned());
        }
        Ok(())
    }
}

/// Limits of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Bounds every collective call. Default 30 s.
    pub deadline: Duration,
    /// Bounds the formation of the group, from the first dial to the last link. Default 30 s.
    pub connect_deadline: Duration,
    /// Largest payload of one message, in bytes. Default 1 GiB.
    pub max_frame_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { deadline: Duration::from_secs(30), connect_deadline: Duration::from_secs(30), max_frame_bytes: 1 << 30 }
    }
}

/// What the formation hears from the threads that dial, accept and abort.
#[derive(Debug)]
pub(super) enum Event {
    /// A rank has proven itself.
    Linked { rank: usize, stream: Arc<Stream> },
    /// An attempt to dial a rank failed and is repeated.
    Tried { rank: usize, reason: HandshakeError },
    /// A rank cannot be joined.
    Failed(CollectiveError),
    /// The group was aborted before it stood.
    Aborted,
}

/// Links this worker with all others; the result has one stream per rank, none for the own one. The door stays open
/// for the group on success, for its owner to close.
pub(super) fn form(
    door: &Door,
    membership: &Membership,
    options: &Options,
    abort: &AbortHandle,
) -> Result<Vec<Option<Arc<Stream>>>, CollectiveError> {
    let (events, heard) = mpsc::channel();
    door.open_group(membership, events.clone())?;
    let given_up = Arc::new(AtomicBool::new(false));
    let links = start_dialling(door, membership, options, &events, &given_up).and_then(|()| {
        abort.on_abort({
            let events = events.clone();
            move |_| _ = events.send(Event::Aborted)
        });
        await_links(&heard, membership, options, abort)
    });
    given_up.store(true, Ordering::Relaxed);
    if links.is_err() {
        door.close_group();
    }
    links
}

fn start_dialling(
    door: &Door,
    membership: &Membership,
    options: &Options,
    events: &Sender<Event>,
    given_up: &Arc<AtomicBool>,
) -> Result<(), CollectiveError> {
    let until = Instant::now() + options.connect_deadline;
    for target in 0..membership.rank {
        let dialler = Dialler {
            membership: membership.clone(),
            security: door.security().cloned(),
            target,
            until,
            given_up: Arc::clone(given_up),
            events: events.clone(),
        };
        // Not joined: a name lookup or connect that is under way when the formation ends finds nobody to report to.
        thread::Builder::new()
            .name(format!("medley-dial-{target}"))
            .spawn(move || dialler.run())
            .map_err(CollectiveError::setup)?;
    }
    Ok(())
}

fn await_links(
    heard: &mpsc::Receiver<Event>,
    membership: &Membership,
    options: &Options,
    abort: &AbortHandle,
) -> Result<Vec<Option<Arc<Stream>>>, CollectiveError> {
    let world_size = membership.addresses.len();
    let started = Instant::now();
    let mut links = vec![None; world_size];
    let mut last_failure: Vec<Option<HandshakeError>> = vec![None; world_size];
    loop {
        abort.check()?;
        let Some(missing) = (0..world_size).find(|&rank| rank != membership.rank && links[rank].is_none()) else {
            return Ok(links);
        };
        match heard.recv_timeout(options.connect_deadline.saturating_sub(started.elapsed())) {
            Ok(Event::Linked { rank, stream }) => links[rank] = Some(stream),
            Ok(Event::Tried { rank, reason }) => last_failure[rank] = Some(reason),
            Ok(Event::Failed(error)) => return Err(error),
            Ok(Event::Aborted) => {}
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                let address = &membership.addresses[missing];
                let detail = match last_failure[missing].take() {
                    Some(reason) => format!("dialled {address}: {reason}"),
                    None if missing < membership.rank => {
                        format!("dialled {address}: nothing came back")
                    }
                    None => "it did not dial this worker".to_owned(),
                };
                return Err(CollectiveError::Deadline {
                    rank: missing,
                    operation: "connect",
                    waited: started.elapsed(),
                    detail,
                });
            }
        }
    }
}

/// Dials one lower rank until it answers.
struct Dialler {
    membership: Membership,
    security: Option<Security>,
    target: usize,
    until: Instant,
    given_up: Arc<AtomicBool>,
    events: Sender<Event>,
}

impl Dialler {
    /// Workers start at different times: the pause between attempts grows from the first to the second of these.
    const PAUSES: [Duration; 2] = [Duration::from_millis(5), Duration::from_millis(200)];

    fn run(&self) {
        let mut pause = Self::PAUSES[0];
        while !self.given_up.load(Ordering::Relaxed) {
            let reason = match self.attempt() {
                Ok(stream) => {
                    let _ = self.events.send(Event::Linked { rank: self.target, stream: Arc::new(stream) });
                    return;
                }
                Err(reason) => reason,
            };
            let address = &self.membership.addresses[self.target];
            tracing::debug!(rank = self.target, %address, %reason, "could not join a rank");
            if !reason.is_worth_another_try(self.membership.generation) {
                let failure =
                    CollectiveError::Handshake { rank: self.target, address: address.clone(), source: reason };
                let _ = self.events.send(Event::Failed(failure));
                return;
            }
            let _ = self.events.send(Event::Tried { rank: self.target, reason });
            thread::sleep(pause);
            pause = (pause * 2).min(Self::PAUSES[1]);
        }
    }

    fn attempt(&self) -> Result<Stream, HandshakeError> {
        let mut last = None;
        for address in self.membership.addresses[self.target].to_socket_addrs()? {
            let remaining = self.until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            match TcpStream::connect_timeout(&address, remaining) {
                Ok(socket) => {
                    let stream = Stream::dial(socket, self.security.as_ref(), self.until)?;
                    handshake::dial(&stream, &self.membership, self.target, self.until)?;
                    return Ok(stream);
                }
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| std::io::Error::other("the name has no address")).into())
    }
}
