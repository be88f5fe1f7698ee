//! The listening socket, its life and its limits.

use super::control::{Asked, Control};
use super::convert;
use super::door::{Door, Limits};
use super::limits;
use super::service::Service;
use super::sessions::{Admission, Sessions};
use crate::cluster::{Assignment, Event, Slot};
use medley_common::certificates::{Certificates, tls};
use medley_common::proto;
use medley_common::proto::control_server::ControlServer;
use medley_common::proto::coordinator_server::CoordinatorServer;
use proto::coordinator_message::Body;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tonic::transport::server::TcpIncoming;

/// Largest message from a worker. A report of steps is some hundred bytes a step and hosted peer.
const MAX_MESSAGE_BYTES: usize = 16 << 20;

/// Largest request of a person: some numbers and a token.
const MAX_REQUEST_BYTES: usize = 64 << 10;

/// Largest headers of a request, all together. Those of a worker have some hundred bytes.
const MAX_HEADER_BYTES: u32 = 16 << 10;

/// Requests of a connection at once. A worker has one; nobody needs more than a few.
const MAX_REQUESTS: u32 = 8;

/// Requests that a connection may open and take back before any is looked at; one that does it more often is closed.
const MAX_WITHDRAWN: usize = 16;

/// How long a request may take to be answered; a session, once opened, is as long as the job.
const REQUEST: Duration = Duration::from_secs(20);

/// Connections that may wait to be accepted, as far as the system allows (`net.core.somaxconn`). All workers of a job dial at
/// once, and again when the coordinator was gone: those for whom there is no room are reset or wait for a second.
const BACKLOG: u32 = 4096;

/// How long connections may take to close in good order.
const CLOSING: Duration = Duration::from_secs(1);

/// Why the coordinator cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Something else listens there.
    #[error(
        "launch.listen: port {} of {} is in use; choose another, or port 0 for any free one",
        .0.port(),
        .0.ip()
    )]
    InUse(SocketAddr),
    /// The address cannot be listened on.
    #[error(
        "launch.listen: cannot listen on {address}: {source}; choose an address of this machine, such as 127.0.0.1:0"
    )]
    Unusable {
        /// As configured.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// The coordinator's certificate is not for the host under which workers are told to reach it.
    #[error("security.certificates: {path} {message}")]
    Host {
        /// The certificate.
        path: std::path::PathBuf,
        /// What is wrong and how to mend it.
        message: String,
    },
}

/// A socket that listens and does not serve yet: taken first, so that a port in use is noticed before anything is
/// written.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    certificates: Option<Certificates>,
}

impl Listener {
    /// Binds `launch.listen`.
    ///
    /// # Errors
    /// [`ServerError`].
    pub async fn bind(listen: &str) -> Result<Self, ServerError> {
        let unusable = |source| ServerError::Unusable { address: listen.to_owned(), source };
        let address: SocketAddr = listen.parse().map_err(|error| unusable(std::io::Error::other(error)))?;
        let socket = open(address).map_err(|error| match error.kind() {
            std::io::ErrorKind::AddrInUse => ServerError::InUse(address),
            _ => unusable(error),
        })?;
        let address = socket.local_addr().map_err(unusable)?;
        Ok(Self { socket, address, certificates: None })
    }

    /// Encrypts all connections, and serves holders of certificates alone.
    ///
    /// # Errors
    /// [`ServerError::Host`] where workers that trust the certificate would not find this coordinator under its name.
    pub fn secure(mut self, certificates: Option<Certificates>) -> Result<Self, ServerError> {
        if let Some(own) = &certificates {
            let path = own.directory().join(own.role().certificate_file());
            let host = self.local_address().ip().to_string();
            tls::check_host(own, &host).map_err(|message| ServerError::Host { path, message })?;
        }
        self.certificates = certificates;
        Ok(self)
    }

    /// `http://host:port` for workers on this machine, `https://` with certificates.
    pub fn local_url(&self) -> String {
        let scheme = if self.certificates.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.local_address())
    }

    fn local_address(&self) -> SocketAddr {
        let mut address = self.address;
        if address.ip().is_unspecified() {
            address.set_ip(match address.ip() {
                IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
            });
        }
        address
    }
}

/// A socket that listens.
fn open(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A coordinator that is started anew finds its port free although old connections linger.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// The running service. Dropping it ends it.
#[derive(Debug)]
pub struct Server {
    sessions: Arc<Sessions>,
    closing: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Server {
    /// Serves; what workers do is sent to `events`, at once and in the order in which it arrived, what people ask to
    /// `requests`. An [`Event`] becomes a `T` as soon as its message is decoded: who measures how long it then waits keeps the
    /// time in it.
    pub fn start<T>(
        listener: Listener,
        admission: Admission,
        events: mpsc::Sender<T>,
        requests: mpsc::Sender<Asked>,
    ) -> Self
    where
        T: From<Event> + Send + 'static,
    {
        limits::allow_connections_of(admission.workers);
        let sessions = Arc::new(Sessions::default());
        let (closing, closed) = watch::channel(false);
        let death = admission.death;
        // The kernel takes whole seconds, up to this many.
        let tcp = death.clamp(Duration::from_secs(1), Duration::from_secs(32_767));
        // What the server's builder says of sockets holds only for those that it binds itself.
        let connections = TcpIncoming::from(listener.socket).with_nodelay(Some(true)).with_keepalive(Some(tcp));
        let control = Control { job: admission.job.clone(), token: admission.token.clone(), requests };
        let control = ControlServer::new(control).max_decoding_message_size(MAX_REQUEST_BYTES);
        let door = Door::open(connections, listener.certificates.as_ref(), Limits::for_workers(admission.workers));
        let service =
            Service { admission, sessions: Arc::clone(&sessions), events: events.clone(), closing: closed.clone() };
        let service = CoordinatorServer::new(service)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let task = tokio::spawn(async move {
            let mut shutdown = closed;
            let door = match door {
                Ok(door) => door,
                Err(error) => {
                    let message = format!("the coordinator's certificates cannot be used: {error}");
                    let _ = events.send(Event::Broken { message }.into()).await;
                    return;
                }
            };
            let served = tonic::transport::Server::builder()
                // Silent workers are the cluster's to judge, after `death`: this ends, later, what even then lingers.
                .http2_keepalive_interval(Some(death))
                .http2_keepalive_timeout(Some(death))
                .http2_max_header_list_size(MAX_HEADER_BYTES)
                .http2_max_pending_accept_reset_streams(Some(MAX_WITHDRAWN))
                .max_concurrent_streams(MAX_REQUESTS)
                .timeout(REQUEST)
                .add_service(service)
                .add_service(control)
                .serve_with_incoming_shutdown(door, async move {
                    let _ = shutdown.wait_for(|closing| *closing).await;
                })
                .await;
            if let Err(error) = served {
                let message = format!("the coordinator can no longer listen: {error}");
                let _ = events.send(Event::Broken { message }.into()).await;
            }
        });
        Self { sessions, closing, task }
    }

    /// Gives a worker its assignment; whether it could be sent. `job` is the part that is the same for all.
    pub fn assign(&self, slot: Slot, assignment: &Assignment, job: &proto::Assignment) -> bool {
        self.sessions.send(slot, convert::assignment(assignment, job))
    }

    /// Asks a worker to stop; whether it could be asked.
    pub fn stop(&self, slot: Slot, generation: u64, reason: &str) -> bool {
        let reason = reason.to_owned();
        self.send(slot, generation, Body::Stop(proto::Stop { reason }))
    }

    /// Makes a worker leave its generation; whether it could be told.
    pub fn abort(&self, slot: Slot, generation: u64, reason: &str) -> bool {
        let reason = reason.to_owned();
        self.send(slot, generation, Body::Abort(proto::Abort { reason }))
    }

    /// Asks a worker to leave its generation after an agreed step; whether it could be asked.
    pub fn pause(&self, slot: Slot, generation: u64, checkpoint: bool) -> bool {
        self.send(slot, generation, Body::Pause(proto::Pause { checkpoint }))
    }

    /// Tells a worker which of its reports will not be lost any more.
    pub fn acknowledge(&self, slot: Slot, generation: u64, sequence: u64) -> bool {
        self.send(slot, generation, Body::Acknowledged(proto::Acknowledged { sequence }))
    }

    /// The last report that was received from a worker.
    pub fn received(&self, slot: Slot) -> u64 {
        self.sessions.received(slot)
    }

    /// Refuses a worker from now on.
    pub fn dismiss(&self, slot: Slot, reason: &str) {
        self.sessions.dismiss(slot, reason);
    }

    /// Lets all workers go that can be told.
    pub fn release_all(&self) {
        let message = proto::CoordinatorMessage { generation: 0, body: Some(Body::Release(proto::Release {})) };
        self.sessions.send_all(&message);
    }

    fn send(&self, slot: Slot, generation: u64, body: Body) -> bool {
        let message = proto::CoordinatorMessage { generation, body: Some(body) };
        self.sessions.send(slot, message)
    }

    /// Ends all sessions and stops listening.
    pub async fn shutdown(mut self) {
        self.sessions.close_all();
        let _ = self.closing.send(true);
        let _ = tokio::time::timeout(CLOSING, &mut self.task).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.sessions.close_all();
        let _ = self.closing.send(true);
        self.task.abort();
    }
}
