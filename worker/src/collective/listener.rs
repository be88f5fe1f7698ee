//! The open port of a worker: lets the higher ranks of the group in, and refuses everybody else.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::CollectiveError;
use super::formation::{Event, Membership};
use super::handshake::{self, HandshakeError, Refusal};
use super::stream::{Security, Stream};
use medley_common::certificates::Certificates;

/// A connection that has not proven itself by then is closed.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);
/// Handshakes in progress; one more drops the oldest, so that silent strangers cannot keep the workers out.
const MAX_HANDSHAKES: usize = 128;
/// Handshakes in progress from one address; one more drops the oldest of them, so that one machine cannot push the
/// workers of others out. A machine may have many workers, which come at once, but are done within milliseconds and
/// dial again.
const MAX_HANDSHAKES_PER_SOURCE: usize = 64;

/// A worker's data port. Bound once, before the worker tells the coordinator its address, and used for the groups of
/// all generations, one at a time. While no group forms, and once a group stands, connections are refused and logged.
#[derive(Debug)]
pub struct Listener {
    pub(super) door: Arc<Door>,
}

impl Listener {
    /// Binds the port, in plain text; port 0 takes any free one.
    pub fn bind(address: impl ToSocketAddrs + std::fmt::Display) -> Result<Self, CollectiveError> {
        Self::bind_with(address, None)
    }

    /// Binds the port. With certificates the connections of all groups are encrypted, those that come in and those that
    /// go out, and are with holders of a worker's certificate of the same authority alone.
    pub fn bind_with(
        address: impl ToSocketAddrs + std::fmt::Display,
        certificates: Option<&Certificates>,
    ) -> Result<Self, CollectiveError> {
        let security = certificates.map(Security::new).transpose()?;
        let listen =
            |source: io::Error| CollectiveError::Listen { address: address.to_string(), source: Arc::new(source) };
        let socket = TcpListener::bind(&address).map_err(listen)?;
        let address = socket.local_addr().map_err(CollectiveError::setup)?;
        let shared = Arc::new(Shared { security, state: Mutex::default() });
        let keeper = thread::Builder::new()
            .name("medley-accept".to_owned())
            .spawn({
                let shared = Arc::clone(&shared);
                move || keep(&socket, &shared)
            })
            .map_err(CollectiveError::setup)?;
        Ok(Self { door: Arc::new(Door { address, shared, keeper: Some(keeper) }) })
    }

    /// The bound address, with the port that was chosen.
    pub fn local_addr(&self) -> SocketAddr {
        self.door.address
    }
}

/// The listener and the thread behind it, shared by the [`Listener`] and the group that uses it.
#[derive(Debug)]
pub(super) struct Door {
    address: SocketAddr,
    shared: Arc<Shared>,
    keeper: Option<JoinHandle<()>>,
}

impl Door {
    /// Lets the higher ranks of a group in; each is reported as [`Event::Linked`]. The group's identity keeps being
    /// checked until [`Door::close_group`], so that latecomers hear why they are refused.
    pub(super) fn open_group(&self, membership: &Membership, events: Sender<Event>) -> Result<(), CollectiveError> {
        let mut state = self.shared.lock();
        if let Some(group) = &state.group {
            return Err(CollectiveError::Argument(format!(
                "the data port still serves generation {}; drop that group first",
                group.membership.generation
            )));
        }
        state.group = Some(Arc::new(Group {
            taken: Mutex::new(vec![false; membership.addresses.len()]),
            membership: membership.clone(),
            events,
        }));
        Ok(())
    }

    /// How connections are encrypted; none: they are not.
    pub(super) fn security(&self) -> Option<&Security> {
        self.shared.security.as_ref()
    }

    pub(super) fn close_group(&self) {
        self.shared.lock().group = None;
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        {
            let mut state = self.shared.lock();
            state.closed = true;
            for visitor in state.handshakes.drain(..) {
                visitor.turn_away();
            }
        }
        // The thread sleeps in accept: a connection wakes it, and it then sees that the door is closed.
        let mut wake = self.address;
        if wake.ip().is_unspecified() {
            wake.set_ip(match wake.ip() {
                IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
            });
        }
        let woken = TcpStream::connect_timeout(&wake, Duration::from_secs(1));
        if let (Ok(_), Some(keeper)) = (woken, self.keeper.take()) {
            let _ = keeper.join();
        }
    }
}

/// The group that the door lets in.
#[derive(Debug)]
struct Group {
    membership: Membership,
    taken: Mutex<Vec<bool>>,
    events: Sender<Event>,
}

#[derive(Debug)]
struct Shared {
    security: Option<Security>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    closed: bool,
    group: Option<Arc<Group>>,
    /// Connections that have not proven themselves yet, oldest first.
    handshakes: VecDeque<Visitor>,
}

#[derive(Debug)]
struct Visitor {
    number: u64,
    source: IpAddr,
    socket: Arc<TcpStream>,
}

impl Visitor {
    /// Ends the connection, which wakes the thread of its handshake.
    fn turn_away(&self) {
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

impl State {
    /// Notes a visitor, and ends the handshake of the oldest where there are too many.
    fn admit(&mut self, visitor: Visitor) {
        let of_source = self.handshakes.iter().filter(|other| other.source == visitor.source).count();
        let oldest = if of_source >= MAX_HANDSHAKES_PER_SOURCE {
            self.handshakes.iter().position(|other| other.source == visitor.source)
        } else {
            (self.handshakes.len() >= MAX_HANDSHAKES).then_some(0)
        };
        if let Some(oldest) = oldest.and_then(|oldest| self.handshakes.remove(oldest)) {
            tracing::warn!(peer = %oldest.source, "too many unproven connections; dropped the oldest");
            oldest.turn_away();
        }
        self.handshakes.push_back(visitor);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread of the door: accepts, and gives each connection a thread of its own to prove itself.
fn keep(socket: &TcpListener, shared: &Arc<Shared>) {
    for number in 0_u64.. {
        let accepted = socket.accept();
        let (stream, address) = match accepted {
            Ok((stream, address)) => (Arc::new(stream), address),
            Err(error) => {
                if shared.lock().closed {
                    return;
                }
                // Such as too many open files: the cause may pass, and must not be met in a hot loop.
                tracing::warn!(%error, "cannot accept a connection on the data port");
                thread::sleep(Duration::from_millis(50));
                continue;
            }
        };
        {
            let mut state = shared.lock();
            if state.closed {
                return;
            }
            state.admit(Visitor { number, source: address.ip().to_canonical(), socket: Arc::clone(&stream) });
        }
        let spawned = thread::Builder::new().name("medley-handshake".to_owned()).spawn({
            let shared = Arc::clone(shared);
            move || receive_visitor(&stream, address, number, &shared)
        });
        if let Err(error) = spawned {
            tracing::warn!(peer = %address, %error, "refused a connection: no thread for its handshake");
            shared.lock().handshakes.retain(|other| other.number != number);
        }
    }
}

/// Lets one connection prove itself, and hands it to the group or refuses it.
fn receive_visitor(socket: &Arc<TcpStream>, address: SocketAddr, number: u64, shared: &Shared) {
    let until = Instant::now() + HANDSHAKE_DEADLINE;
    let stream = Stream::accept(Arc::clone(socket), shared.security.as_ref(), until);
    // Only now: a group may have opened while the visitor showed its certificate.
    let group = shared.lock().group.clone();
    let membership = group.as_ref().map(|group| &group.membership);
    let admit = |rank: usize| {
        // A group that closed meanwhile takes nobody any more.
        let current = shared.lock().group.clone();
        let (Some(group), Some(current)) = (&group, &current) else {
            return false;
        };
        let mut taken = group.taken.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::ptr_eq(group, current) && !std::mem::replace(&mut taken[rank], true)
    };
    let outcome = stream.and_then(|stream| {
        let rank = handshake::accept(&stream, membership, until, admit)?;
        Ok((rank, stream))
    });
    shared.lock().handshakes.retain(|other| other.number != number);
    match (outcome, &group) {
        (Ok((rank, stream)), Some(group)) => {
            // A formation that gave up meanwhile is not there to hear it; the connection then closes.
            let _ = group.events.send(Event::Linked { rank, stream: Arc::new(stream) });
        }
        (Err(error), _) => {
            if is_early(&error, membership) {
                tracing::debug!(peer = %address, %error, "an early connection on the data port");
            } else {
                tracing::warn!(peer = %address, %error, "refused a connection on the data port");
            }
            let _ = socket.shutdown(Shutdown::Both);
        }
        (Ok(_), None) => {}
    }
}

/// Whether a refused dialler is merely ahead of this worker, as happens at every start and recovery.
fn is_early(error: &HandshakeError, own: Option<&Membership>) -> bool {
    match error {
        HandshakeError::Refused { refusal: Refusal::NotReady, .. } => own.is_none(),
        _ => false,
    }
}
