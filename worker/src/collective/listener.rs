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

/// A connection that has not proven itself by then is closed.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);
/// Handshakes in progress; one more drops the oldest, so that silent strangers cannot keep the workers out.
const MAX_HANDSHAKES: usize = 64;

/// A worker's data port. Bound once, before the worker tells the coordinator its address, and used for the groups of
/// all generations, one at a time. While no group forms, and once a group stands, connections are refused and logged.
#[derive(Debug)]
pub struct Listener {
    pub(super) door: Arc<Door>,
}

impl Listener {
    /// Binds the port; port 0 takes any free one.
    pub fn bind(address: impl ToSocketAddrs + std::fmt::Display) -> Result<Self, CollectiveError> {
        let listen =
            |source: io::Error| CollectiveError::Listen { address: address.to_string(), source: Arc::new(source) };
        let socket = TcpListener::bind(&address).map_err(listen)?;
        let address = socket.local_addr().map_err(CollectiveError::setup)?;
        let shared = Arc::new(Shared::default());
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

    pub(super) fn close_group(&self) {
        self.shared.lock().group = None;
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        {
            let mut state = self.shared.lock();
            state.closed = true;
            for (_, stream) in state.handshakes.drain(..) {
                let _ = stream.shutdown(Shutdown::Both);
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

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    closed: bool,
    group: Option<Arc<Group>>,
    /// Connections that have not proven themselves yet, oldest first.
    handshakes: VecDeque<(u64, Arc<TcpStream>)>,
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
            if state.handshakes.len() >= MAX_HANDSHAKES
                && let Some((_, oldest)) = state.handshakes.pop_front()
            {
                tracing::warn!(peer = ?oldest.peer_addr().ok(), "too many unproven connections; dropped the oldest");
                let _ = oldest.shutdown(Shutdown::Both);
            }
            state.handshakes.push_back((number, Arc::clone(&stream)));
        }
        let spawned = thread::Builder::new().name("medley-handshake".to_owned()).spawn({
            let shared = Arc::clone(shared);
            move || receive_visitor(&stream, address, number, &shared)
        });
        if let Err(error) = spawned {
            tracing::warn!(peer = %address, %error, "refused a connection: no thread for its handshake");
            shared.lock().handshakes.retain(|(other, _)| *other != number);
        }
    }
}

/// Lets one connection prove itself, and hands it to the group or refuses it.
fn receive_visitor(stream: &Arc<TcpStream>, address: SocketAddr, number: u64, shared: &Shared) {
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
    let outcome = handshake::accept(stream, membership, Instant::now() + HANDSHAKE_DEADLINE, admit);
    shared.lock().handshakes.retain(|(other, _)| *other != number);
    match (outcome, &group) {
        (Ok(rank), Some(group)) => {
            // A formation that gave up meanwhile is not there to hear it; the connection then closes.
            let _ = group.events.send(Event::Linked { rank, stream: Arc::clone(stream) });
        }
        (Err(error), _) => {
            if is_early(&error, membership) {
                tracing::debug!(peer = %address, %error, "an early connection on the data port");
            } else {
                tracing::warn!(peer = %address, %error, "refused a connection on the data port");
            }
            let _ = stream.shutdown(Shutdown::Both);
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
