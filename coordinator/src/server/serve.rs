//! The listening socket, its life and its limits.

use super::convert;
use super::limits;
use super::service::Service;
use super::sessions::{Admission, Sessions};
use crate::cluster::{Assignment, Event, Slot};
use medley_common::proto;
use medley_common::proto::coordinator_server::CoordinatorServer;
use proto::coordinator_message::Body;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tonic::transport::server::TcpIncoming;

/// Largest message from a worker. A report of steps is some hundred bytes a step.
const MAX_MESSAGE_BYTES: usize = 16 << 20;

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
}

/// A socket that listens and does not serve yet: taken first, so that a port in use is noticed before anything is
/// written.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
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
        Ok(Self { socket, address })
    }

    /// `http://host:port` for workers on this machine.
    pub fn local_url(&self) -> String {
        let mut address = self.address;
        if address.ip().is_unspecified() {
            address.set_ip(match address.ip() {
                IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
            });
        }
        format!("http://{address}")
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
    /// Serves; what workers do is sent to `events`, at once and in the order in which it arrived. An [`Event`] becomes a
    /// `T` as soon as its message is decoded: who measures how long it then waits keeps the time in it.
    pub fn start<T>(listener: Listener, admission: Admission, events: mpsc::Sender<T>) -> Self
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
        let service =
            Service { admission, sessions: Arc::clone(&sessions), events: events.clone(), closing: closed.clone() };
        let service = CoordinatorServer::new(service)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let task = tokio::spawn(async move {
            let mut shutdown = closed;
            let served = tonic::transport::Server::builder()
                // Silent workers are the cluster's to judge, after `death`: this ends, later, what even then lingers.
                .http2_keepalive_interval(Some(death))
                .http2_keepalive_timeout(Some(death))
                .add_service(service)
                .serve_with_incoming_shutdown(connections, async move {
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

    /// Lets a worker go; whether it could be told.
    pub fn release(&self, slot: Slot, generation: u64) -> bool {
        self.send(slot, generation, Body::Release(proto::Release {}))
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
