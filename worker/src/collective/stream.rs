//! A connection between two workers: TCP as it is, or TLS 1.3 over it.
//!
//! Two threads use a stream at once, one that reads and one that writes, and neither waits for the other: TLS keeps both
//! directions in one state, but its lock is held for the encryption or decryption of one piece (microseconds), and
//! never while the network is waited for. Whoever shuts the socket down wakes both.
//!
//! A connection that ends without TLS's farewell counts as lost, as one without TLS does. Nothing hangs on the farewell:
//! frames say how long they are.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use medley_common::certificates::{Certificates, Role, tls};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection};

use super::CollectiveError;
use super::handshake::HandshakeError;

/// Bytes encrypted under one lock, and read from the socket at once: four TLS records, so that the other direction
/// waits some 20 µs at most and a system call carries enough.
const PIECE_BYTES: usize = 64 << 10;

/// How long a dialler that was refused may take to read why.
const FAREWELL: Duration = Duration::from_millis(200);

/// Whom a worker exchanges with.
const WORKERS: &[Role] = &[Role::Worker];

/// TLS for both ways into a group.
#[derive(Clone)]
pub(super) struct Security {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

impl std::fmt::Debug for Security {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Security").finish_non_exhaustive()
    }
}

impl Security {
    pub(super) fn new(own: &Certificates) -> Result<Self, CollectiveError> {
        let setup = |error: rustls::Error| CollectiveError::setup(io::Error::other(error));
        Ok(Self {
            client: own.client(tls::Peers::Workers).map_err(setup)?,
            server: own.server(WORKERS).map_err(setup)?,
        })
    }
}

/// A connection to another worker.
#[derive(Debug)]
pub(super) struct Stream {
    socket: Arc<TcpStream>,
    tls: Option<Tls>,
}

impl Stream {
    /// The dialler's side of a connection; with `security` all of it is encrypted, and the other end has shown a worker's
    /// certificate when this returns.
    pub(super) fn dial(socket: TcpStream, security: Option<&Security>, until: Instant) -> Result<Self, HandshakeError> {
        let tls = match security {
            None => None,
            Some(security) => {
                let name = ServerName::IpAddress(socket.peer_addr()?.ip().into());
                let connection = ClientConnection::new(Arc::clone(&security.client), name).map_err(broken)?;
                Some(shake_hands(connection.into(), &socket, until)?)
            }
        };
        Ok(Self { socket: Arc::new(socket), tls })
    }

    /// The acceptor's side.
    pub(super) fn accept(
        socket: Arc<TcpStream>,
        security: Option<&Security>,
        until: Instant,
    ) -> Result<Self, HandshakeError> {
        let tls = match security {
            None => None,
            Some(security) => {
                let connection = ServerConnection::new(Arc::clone(&security.server)).map_err(broken)?;
                let shaken = shake_hands(connection.into(), &socket, until);
                Some(shaken.inspect_err(|_| say_farewell(&socket))?)
            }
        };
        Ok(Self { socket, tls })
    }

    /// The same stream, with an end to every wait.
    pub(super) fn until(&self, until: Instant) -> Timed<'_> {
        Timed { stream: self, until }
    }

    /// Lets waits be endless, and small messages leave at once.
    pub(super) fn release(&self) -> io::Result<()> {
        self.socket.set_nodelay(true)?;
        self.socket.set_read_timeout(None)?;
        self.socket.set_write_timeout(None)
    }

    /// Ends the connection, and every wait for it. It may have ended already.
    pub(super) fn shutdown(&self) {
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    fn read_by(&self, buffer: &mut [u8], until: Option<Instant>) -> io::Result<usize> {
        let mut socket = Bounded { socket: &self.socket, until };
        match &self.tls {
            None => socket.read(buffer),
            Some(tls) => tls.read(&mut socket, buffer),
        }
    }

    fn write_by(&self, buffer: &[u8], until: Option<Instant>) -> io::Result<usize> {
        let mut socket = Bounded { socket: &self.socket, until };
        match &self.tls {
            None => socket.write(buffer),
            Some(tls) => tls.write(&mut socket, buffer),
        }
    }
}

impl Read for &Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.read_by(buffer, None)
    }
}

impl Write for &Stream {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.write_by(buffer, None)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A stream whose reads and writes all end by one deadline, however slowly the other end drips.
pub(super) struct Timed<'a> {
    stream: &'a Stream,
    until: Instant,
}

impl Read for Timed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.read_by(buffer, Some(self.until))
    }
}

impl Write for Timed<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.stream.write_by(buffer, Some(self.until))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A socket, and the end of waits for it if there is one.
struct Bounded<'a> {
    socket: &'a TcpStream,
    until: Option<Instant>,
}

impl Bounded<'_> {
    fn remaining(&self) -> io::Result<Option<Duration>> {
        match self.until.map(|until| until.saturating_duration_since(Instant::now())) {
            Some(Duration::ZERO) => Err(io::ErrorKind::TimedOut.into()),
            remaining => Ok(remaining),
        }
    }
}

impl Read for Bounded<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(remaining) = self.remaining()? {
            self.socket.set_read_timeout(Some(remaining))?;
        }
        (&mut &*self.socket).read(buffer)
    }
}

impl Write for Bounded<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        if let Some(remaining) = self.remaining()? {
            self.socket.set_write_timeout(Some(remaining))?;
        }
        (&mut &*self.socket).write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The state of TLS, shared by the thread that reads and the one that writes.
#[derive(Debug)]
struct Tls {
    connection: Mutex<Connection>,
    /// The reader's alone.
    incoming: Mutex<Incoming>,
    /// The writer's alone: encrypted bytes on their way to the socket.
    outgoing: Mutex<Vec<u8>>,
}

/// Encrypted bytes that have come and wait to be decrypted.
#[derive(Debug, Default)]
struct Incoming {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Tls {
    fn read(&self, socket: &mut Bounded<'_>, buffer: &mut [u8]) -> io::Result<usize> {
        let mut incoming = lock(&self.incoming);
        loop {
            if let Some(length) = self.decrypt(&mut incoming, buffer)? {
                return Ok(length);
            }
            let incoming = &mut *incoming;
            incoming.bytes.resize(PIECE_BYTES, 0);
            incoming.start = 0;
            incoming.end = socket.read(&mut incoming.bytes)?;
            if incoming.end == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// What has come and can be read; none where more must come first. Zero only for an empty buffer or after TLS's
    /// farewell.
    fn decrypt(&self, incoming: &mut Incoming, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let mut connection = lock(&self.connection);
        loop {
            match connection.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return other.map(Some),
            }
            let mut waiting = &incoming.bytes[incoming.start..incoming.end];
            if waiting.is_empty() {
                return Ok(None);
            }
            let taken = connection.read_tls(&mut waiting)?;
            incoming.start += taken;
            connection.process_new_packets().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        }
    }

    fn write(&self, socket: &mut Bounded<'_>, buffer: &[u8]) -> io::Result<usize> {
        let piece = &buffer[..buffer.len().min(PIECE_BYTES)];
        let mut outgoing = lock(&self.outgoing);
        outgoing.clear();
        {
            let mut connection = lock(&self.connection);
            connection.writer().write_all(piece)?;
            while connection.wants_write() {
                connection.write_tls(&mut *outgoing)?;
            }
        }
        // Encrypted once, it must leave whole: half a record is of no use to the other end.
        socket.write_all(&outgoing)?;
        Ok(piece.len())
    }
}

/// The TLS handshake, all of it by one deadline.
fn shake_hands(mut connection: Connection, socket: &TcpStream, until: Instant) -> Result<Tls, HandshakeError> {
    let mut socket = Bounded { socket, until: Some(until) };
    while connection.is_handshaking() {
        connection.complete_io(&mut socket)?;
    }
    while connection.wants_write() {
        connection.write_tls(&mut socket)?;
    }
    // What is encrypted at once is taken at once: there is never more than a piece.
    connection.set_buffer_limit(None);
    Ok(Tls { connection: Mutex::new(connection), incoming: Mutex::default(), outgoing: Mutex::default() })
}

/// Lets a dialler read why it was refused: closing at once, with bytes of it unread, could take the alert with it.
fn say_farewell(socket: &TcpStream) {
    let mut bounded = Bounded { socket, until: Some(Instant::now() + FAREWELL) };
    let _ = socket.shutdown(Shutdown::Write);
    let mut rest = [0; 1024];
    while matches!(bounded.read(&mut rest), Ok(1..)) {}
}

fn broken(error: rustls::Error) -> HandshakeError {
    HandshakeError::from(io::Error::other(error))
}

/// A thread that panicked with this lock ends its group; what it guards is then used by nobody.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
