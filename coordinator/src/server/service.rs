//! The service of `medley.proto`.

use super::convert;
use crate::cluster::{Event, Slot, worker_name};
use medley_common::VERSION;
use medley_common::proto::coordinator_server::{Coordinator, CoordinatorServer};
use medley_common::proto::{CoordinatorMessage, JoinReply, JoinRequest, WorkerMessage};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

/// Largest message of a worker, in bytes.
const MAX_MESSAGE_BYTES: usize = 16 << 20;

/// Orders that may wait for a worker.
const QUEUE: usize = 64;

/// Messages of all workers that may wait for the job; beyond it, gRPC holds the senders back.
const INCOMING: usize = 4096;

/// What the sessions tell the job.
#[derive(Debug)]
pub enum Incoming {
    /// A worker joined and opened its session.
    Opened {
        /// What the cluster is told.
        event: Event,
        /// Its place.
        slot: Slot,
        /// The way to it.
        outgoing: Outgoing,
    },
    /// Anything else.
    Event(Event),
}

/// The way to a worker.
pub type Outgoing = mpsc::Sender<Result<CoordinatorMessage, Status>>;

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The address cannot be had.
    #[error("launch.listen: cannot listen on {address}: {source}; choose a free port, or port 0 for any")]
    Listen {
        /// The address asked for.
        address: String,
        /// Why.
        source: std::io::Error,
    },
}

/// A listening server; it ends when dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

struct Service {
    job: String,
    token: String,
    heartbeat: Duration,
    workers: u32,
    joined: Arc<Mutex<HashMap<String, JoinRequest>>>,
    incoming: mpsc::Sender<Incoming>,
}

impl Server {
    /// Listens, and lets in workers that know job and token.
    ///
    /// # Errors
    /// When the address cannot be had.
    pub async fn start(
        address: &str,
        job: &str,
        token: &str,
        workers: u32,
        heartbeat: Duration,
    ) -> Result<(Self, mpsc::Receiver<Incoming>), ServerError> {
        let listen = |source| ServerError::Listen { address: address.to_owned(), source };
        let listener = TcpListener::bind(address).await.map_err(listen)?;
        let bound = listener.local_addr().map_err(listen)?;
        let (incoming, events) = mpsc::channel(INCOMING);
        let service =
            Service { job: job.into(), token: token.into(), heartbeat, workers, joined: Arc::default(), incoming };
        let service = CoordinatorServer::new(service).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let serving = tonic::transport::Server::builder()
            .tcp_nodelay(true)
            .add_service(service)
            .serve_with_incoming(TcpListenerStream::new(listener));
        let task = tokio::spawn(async move {
            if let Err(error) = serving.await {
                tracing::error!(%error, "the coordinator's server ended");
            }
        });
        Ok((Self { address: bound, task }, events))
    }

    /// Where workers reach it.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[tonic::async_trait]
impl Coordinator for Service {
    type SessionStream = ReceiverStream<Result<CoordinatorMessage, Status>>;

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinReply>, Status> {
        let from = request.remote_addr();
        let request = request.into_inner();
        if let Err(status) = self.admit(&request) {
            tracing::warn!(from = ?from, reason = status.message(), "refused a worker");
            return Err(status);
        }
        let worker = worker_name(request.slot);
        let mut joined = self.joined.lock().unwrap_or_else(PoisonError::into_inner);
        if joined.contains_key(&worker) {
            return Err(Status::already_exists(format!("slot {} has a worker already", request.slot)));
        }
        joined.insert(worker.clone(), request);
        let heartbeat_ms = u64::try_from(self.heartbeat.as_millis()).unwrap_or(u64::MAX);
        Ok(Response::new(JoinReply { worker, heartbeat_ms }))
    }

    async fn session(
        &self,
        request: Request<Streaming<WorkerMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let mut messages = request.into_inner();
        let first = messages.next().await.ok_or_else(|| Status::invalid_argument("the session is empty"))??;
        let request = {
            let joined = self.joined.lock().unwrap_or_else(PoisonError::into_inner);
            joined.get(&first.worker).cloned()
        };
        let Some(request) = request else {
            return Err(Status::permission_denied("join before opening a session"));
        };
        let (outgoing, orders) = mpsc::channel(QUEUE);
        let slot = request.slot;
        let opened = Incoming::Opened { event: convert::joined(&request), slot, outgoing };
        let ended = |_| Status::unavailable("the job has ended");
        self.incoming.send(opened).await.map_err(ended)?;
        tokio::spawn(listen(messages, first, slot, self.incoming.clone()));
        Ok(Response::new(ReceiverStream::new(orders)))
    }
}

impl Service {
    fn admit(&self, request: &JoinRequest) -> Result<(), Status> {
        if !same(&request.token, &self.token) {
            return Err(Status::permission_denied("the launch token is wrong: this coordinator did not start you"));
        }
        if request.version != VERSION {
            return Err(Status::failed_precondition(format!(
                "the worker is version {}, the coordinator {VERSION}; build both from the same source",
                request.version
            )));
        }
        if request.job != self.job {
            return Err(Status::not_found(format!("there is no job {} here", request.job)));
        }
        if request.slot >= self.workers {
            return Err(Status::out_of_range(format!("there are {} slots, counted from 0", self.workers)));
        }
        Ok(())
    }
}

/// Compares secrets in a time that does not tell where they differ.
fn same(left: &str, right: &str) -> bool {
    let differences = left.bytes().zip(right.bytes()).fold(0, |sum, (left, right)| sum | (left ^ right));
    left.len() == right.len() && differences == 0
}

async fn listen(
    mut messages: Streaming<WorkerMessage>,
    first: WorkerMessage,
    slot: Slot,
    incoming: mpsc::Sender<Incoming>,
) {
    let mut next = Some(first);
    let reason = loop {
        if let Some(message) = next.take()
            && let Some(event) = convert::reported(slot, message)
            && incoming.send(Incoming::Event(event)).await.is_err()
        {
            return;
        }
        match messages.next().await {
            Some(Ok(message)) => next = Some(message),
            Some(Err(status)) => break status.message().to_owned(),
            None => break "it closed its session".to_owned(),
        }
    };
    // A job that has ended has nobody left to tell.
    let _ = incoming.send(Incoming::Event(Event::SessionLost { slot, reason })).await;
}
