//! The open port: who may come in, how many, and how long they may take to say who they are.
//!
//! A connection is greeted before it is served: it must finish the TLS handshake where there are certificates, and send
//! the first bytes of HTTP/2, all within [`GREETING`]. Greetings run beside one another, and when there are too many the
//! oldest goes: a stranger that says nothing delays nobody. What was greeted takes a place, of which each address has
//! a share and all together have a bound.

use super::connection::{Connection, Line, Party};
use medley_common::certificates::{Certificates, Description, Role, tls};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinHandle};
use tokio_rustls::TlsAcceptor;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::TcpIncoming;

/// How long a connection may take for its TLS handshake and the first bytes of HTTP/2. The data plane's bound; a worker
/// on a busy machine takes milliseconds.
const GREETING: Duration = Duration::from_secs(5);

/// How long one that was refused may take to read why.
const FAREWELL: Duration = Duration::from_millis(200);

/// Connections that a worker may need at once: two, one to join and one for its session, and as many of the process
/// whose place it took and whose end was not noticed yet.
const PER_WORKER: usize = 4;

/// Connections beyond those of the workers: clients, and strangers that must not use up what workers need.
const SPARE: usize = 64;

/// Pause after a failure to accept, such as too many open files: its cause may pass, and must not be met in a hot loop.
const PAUSE: Duration = Duration::from_millis(50);

/// What every client of HTTP/2 sends first (RFC 9113, 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The first byte of a TLS handshake.
const TLS_HANDSHAKE: u8 = 0x16;

/// Whom the coordinator serves at all; each request asks for its own role.
const SERVED: &[Role] = &[Role::Worker, Role::Client];

/// How many connections there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Being greeted, from one address; from all together twice as many.
    pub greetings_per_source: usize,
    /// Served, from one address; from all together twice as many, so that no address can take every place.
    pub per_source: usize,
}

impl Limits {
    /// For a job of so many workers, which may all be on one machine and all start at once.
    pub fn for_workers(workers: u32) -> Self {
        let workers = workers as usize;
        Self { greetings_per_source: SPARE + workers, per_source: SPARE + PER_WORKER * workers }
    }
}

/// Connections that have been let in, as they come. Dropping it closes the door.
pub struct Door {
    greeted: ReceiverStream<io::Result<Connection>>,
    keeper: JoinHandle<()>,
}

impl Door {
    /// Opens the door: whoever connects is greeted.
    ///
    /// # Errors
    /// rustls' own, for certificates that it does not take.
    pub fn open(
        incoming: TcpIncoming,
        certificates: Option<&Certificates>,
        limits: Limits,
    ) -> Result<Self, tokio_rustls::rustls::Error> {
        let tls = certificates.map(|own| own.server(SERVED)).transpose()?.map(TlsAcceptor::from);
        let (sender, greeted) = mpsc::channel(1);
        let keeper = tokio::spawn(keep(incoming, tls, Places::new(limits), sender));
        Ok(Self { greeted: ReceiverStream::new(greeted), keeper })
    }
}

impl tokio_stream::Stream for Door {
    type Item = io::Result<Connection>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        std::pin::Pin::new(&mut self.greeted).poll_next(context)
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

async fn keep(
    mut incoming: TcpIncoming,
    tls: Option<TlsAcceptor>,
    places: Arc<Places>,
    greeted: mpsc::Sender<io::Result<Connection>>,
) {
    for number in 0_u64.. {
        let stream = match incoming.next().await {
            None => return,
            Some(Ok(stream)) => stream,
            Some(Err(error)) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        // One that is gone already has no address, and nothing to say.
        let Ok(address) = stream.peer_addr() else { continue };
        let visit = Visit { number, address, tls: tls.clone(), places: Arc::clone(&places), greeted: greeted.clone() };
        places.greet(number, address.ip(), || tokio::spawn(visit.receive(stream)).abort_handle());
    }
}

/// A connection that is being greeted.
struct Visit {
    number: u64,
    address: SocketAddr,
    tls: Option<TlsAcceptor>,
    places: Arc<Places>,
    greeted: mpsc::Sender<io::Result<Connection>>,
}

impl Visit {
    async fn receive(self, stream: TcpStream) {
        let address = self.address;
        let outcome = tokio::time::timeout(GREETING, self.greet(stream)).await;
        self.places.greeted(self.number);
        let refusal = match outcome {
            Ok(Ok((line, role))) => match Places::enter(&self.places, address.ip()) {
                Ok(place) => {
                    let party = Party { address, role };
                    let connection = Connection { line, read_ahead: PREFACE.to_vec(), party, _place: place };
                    // A server that shuts down takes nobody any more.
                    let _ = self.greeted.send(Ok(connection)).await;
                    return;
                }
                Err(reason) => reason,
            },
            Ok(Err(reason)) => reason,
            Err(_) => format!("it did not say what it wants within {GREETING:?}"),
        };
        tracing::warn!(peer = %address, "refused a connection: {refusal}");
    }

    /// Waits for what everybody must show; why it is not let in otherwise.
    async fn greet(&self, stream: TcpStream) -> Result<(Line, Option<Role>), String> {
        let (mut line, role) = match &self.tls {
            None => (Line::Plain(stream), None),
            Some(tls) => match tls.accept(stream).into_fallible().await {
                Ok(stream) => {
                    let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
                    let role =
                        shown.and_then(|certificate| Description::of(certificate).ok()).and_then(|said| said.role);
                    (Line::Tls(Box::new(stream)), role)
                }
                Err((error, stream)) => {
                    let reason = tls::error_in(&error).map_or_else(|| error.to_string(), tls::explain);
                    say_farewell(stream).await;
                    return Err(reason);
                }
            },
        };
        let mut first = [0; PREFACE.len()];
        let mut length = 0;
        while length < first.len() {
            let read = line.read(&mut first[length..]).await.map_err(|error| match tls::error_in(&error) {
                Some(error) => tls::explain(error),
                None => error.to_string(),
            })?;
            if read == 0 {
                return Err("it closed the connection before it said anything".into());
            }
            length += read;
            if first[..length] != PREFACE[..length] {
                return Err(match (first[0], role) {
                    (TLS_HANDSHAKE, None) => {
                        "it speaks TLS, and this coordinator has no certificates (security.certificates)".into()
                    }
                    _ => "it does not speak gRPC".into(),
                });
            }
        }
        Ok((line, role))
    }
}

/// Lets the other end read why it was refused: closing at once, with bytes of it unread, could take the alert with it.
async fn say_farewell(mut stream: TcpStream) {
    let farewell = async {
        stream.shutdown().await?;
        tokio::io::copy(&mut stream, &mut tokio::io::sink()).await
    };
    let _ = tokio::time::timeout(FAREWELL, farewell).await;
}

/// Who is being greeted, and how many connections each address has.
#[derive(Debug)]
struct Places {
    limits: Limits,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Oldest first.
    greetings: VecDeque<Greeting>,
    served: HashMap<IpAddr, usize>,
    total: usize,
}

#[derive(Debug)]
struct Greeting {
    number: u64,
    source: IpAddr,
    task: AbortHandle,
}

impl Places {
    fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self { limits, state: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a greeting, and ends the oldest of the same address, or of all, where there are too many.
    fn greet(&self, number: u64, address: IpAddr, start: impl FnOnce() -> AbortHandle) {
        let source = source(address);
        let mut state = self.lock();
        // Under the lock: a greeting that is over at once finds itself noted, and takes the note away.
        state.greetings.push_back(Greeting { number, source, task: start() });
        let limit = self.limits.greetings_per_source;
        let of_source = state.greetings.iter().filter(|greeting| greeting.source == source).count();
        let oldest = if of_source > limit {
            state.greetings.iter().position(|greeting| greeting.source == source)
        } else {
            (state.greetings.len() > 2 * limit).then_some(0)
        };
        if let Some(dropped) = oldest.and_then(|oldest| state.greetings.remove(oldest)) {
            dropped.task.abort();
            tracing::warn!(peer = %dropped.source, "too many connections that say nothing; dropped the oldest");
        }
    }

    fn greeted(&self, number: u64) {
        self.lock().greetings.retain(|greeting| greeting.number != number);
    }

    /// Takes a place, or says why there is none.
    fn enter(places: &Arc<Self>, address: IpAddr) -> Result<Place, String> {
        let source = source(address);
        let limit = places.limits.per_source;
        let mut state = places.lock();
        if state.total >= 2 * limit {
            return Err(format!("there are {} connections already", state.total));
        }
        let of_source = state.served.entry(source).or_default();
        if *of_source >= limit {
            return Err(format!("there are {of_source} connections from {source} already"));
        }
        *of_source += 1;
        state.total += 1;
        drop(state);
        Ok(Place { places: Arc::clone(places), source })
    }
}

/// A connection's place. Dropping it gives it back.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    source: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.places.lock();
        state.total -= 1;
        if let Some(count) = state.served.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                state.served.remove(&self.source);
            }
        }
    }
}

/// What counts as one address: of IPv6 the first 64 bits, since a single machine may have all of the rest.
fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        four => four,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_has_its_share_and_all_have_a_bound() {
        let limits = Limits { greetings_per_source: 1, per_source: 2 };
        let places = Places::new(limits);
        let enter = |text: &str| Places::enter(&places, address(text));
        let first = enter("10.0.0.1").unwrap();
        let _second = enter("::ffff:10.0.0.1").unwrap();
        assert!(enter("10.0.0.1").unwrap_err().contains("from 10.0.0.1"));
        let _third = enter("2001:db8::1").unwrap();
        let _fourth = enter("2001:db8::2").unwrap();
        assert!(enter("10.0.0.2").unwrap_err().contains("4 connections"));
        drop(first);
        let _fifth = enter("10.0.0.1").unwrap();
        assert!(enter("10.0.0.2").is_err());
    }

    #[tokio::test]
    async fn the_oldest_greeting_of_the_same_address_goes() {
        let places = Places::new(Limits { greetings_per_source: 2, per_source: 2 });
        let tasks: Vec<_> = (0..4).map(|_| tokio::spawn(std::future::pending::<()>())).collect();
        let sources = ["10.0.0.9", "10.0.0.1", "10.0.0.1", "10.0.0.1"];
        for (number, (task, source)) in tasks.iter().zip(sources).enumerate() {
            places.greet(number as u64, address(source), || task.abort_handle());
        }
        let left: Vec<u64> = places.lock().greetings.iter().map(|greeting| greeting.number).collect();
        assert_eq!(left, [0, 2, 3], "one address cannot push out another's");
        for (number, task) in tasks.into_iter().enumerate() {
            if number == 1 {
                assert!(task.await.unwrap_err().is_cancelled());
            } else {
                task.abort();
            }
        }
    }
}
