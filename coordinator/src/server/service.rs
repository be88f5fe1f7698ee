//! Joining and sessions.

use super::connection::Party;
use super::convert;
use super::sessions::{Admission, Numbered, Opened, Outgoing, Sessions};
use crate::cluster::{Event, SessionNumber, Slot};
use crate::random;
use medley_common::certificates::Role;
use medley_common::{VERSION, proto};
use prost::Message;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// How long a new session may take to say whose it is.
const FIRST_MESSAGE: Duration = Duration::from_secs(10);

/// Largest request to join: names and an address. What is joined with is kept as long as the worker is.
const MAX_JOIN_BYTES: usize = 16 << 10;

/// The service of one job; `T` is what [`Event`]s are passed on as.
#[derive(Debug)]
pub struct Service<T> {
    pub admission: Admission,
    pub sessions: Arc<Sessions>,
    pub events: mpsc::Sender<T>,
    /// True once the server shuts down.
    pub closing: watch::Receiver<bool>,
}

#[tonic::async_trait]
impl<T: From<Event> + Send + 'static> proto::coordinator_server::Coordinator for Service<T> {
    async fn join(&self, request: Request<proto::JoinRequest>) -> Result<Response<proto::JoinReply>, Status> {
        Party::require(&request, Role::Worker)?;
        let request = request.into_inner();
        self.admit(&request)?;
        let random = random::hex(16).map_err(|error| Status::internal(error.to_string()))?;
        // Not to be guessed: whoever knows it may speak for the worker.
        let worker = format!("worker-{}-{random}", request.slot);
        let received = self.sessions.join(&worker, request)?;
        let milliseconds = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Ok(Response::new(proto::JoinReply {
            worker,
            heartbeat_ms: milliseconds(self.admission.heartbeat),
            death_ms: milliseconds(self.admission.death),
            received,
        }))
    }

    type SessionStream = ReceiverStream<Outgoing>;

    async fn session(
        &self,
        request: Request<Streaming<proto::WorkerMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        Party::require(&request, Role::Worker)?;
        let mut incoming = request.into_inner();
        let first = tokio::time::timeout(FIRST_MESSAGE, incoming.message())
            .await
            .map_err(|_| Status::deadline_exceeded("the first message did not come"))??;
        let is_heartbeat =
            |message: &proto::WorkerMessage| matches!(message.body, Some(proto::worker_message::Body::Heartbeat(_)));
        let first = first
            .filter(is_heartbeat)
            .ok_or_else(|| Status::failed_precondition("the first message of a session must be a heartbeat"))?;
        let Opened { joined, outgoing } = self.sessions.open(&first.worker)?;
        let reader = Reader {
            slot: joined.slot,
            session: joined.session,
            worker: first.worker,
            sessions: Arc::clone(&self.sessions),
            events: self.events.clone(),
            closing: self.closing.clone(),
        };
        tokio::spawn(reader.run(Event::Joined(joined), incoming));
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }
}

impl<T> Service<T> {
    #[allow(clippy::result_large_err, reason = "tonic's error type")]
    fn admit(&self, request: &proto::JoinRequest) -> Result<(), Status> {
        let admission = &self.admission;
        if request.encoded_len() > MAX_JOIN_BYTES {
            return Err(Status::invalid_argument(format!("to join takes no more than {MAX_JOIN_BYTES} bytes")));
        }
        if !is_equal(request.token.as_bytes(), admission.token.as_bytes()) {
            return Err(Status::permission_denied(
                "the token is not the one that this job's launcher gave to its workers",
            ));
        }
        if request.version != VERSION {
            return Err(Status::failed_precondition(format!(
                "the worker is version {}, the coordinator is {VERSION}; build both from one checkout",
                request.version
            )));
        }
        if request.job != admission.job {
            return Err(Status::not_found(format!("this coordinator runs job {}, not {}", admission.job, request.job)));
        }
        if request.slot >= admission.slots {
            return Err(Status::invalid_argument(format!(
                "slot {} is beyond this job's {} places for workers",
                request.slot, admission.slots
            )));
        }
        Ok(())
    }
}

/// Compares all bytes whatever they are, so that the time taken does not tell how many were right.
pub(super) fn is_equal(one: &[u8], other: &[u8]) -> bool {
    let differing = one.iter().zip(other).fold(0, |differing, (a, b)| differing | (a ^ b));
    one.len() == other.len() && differing == 0
}

/// Passes a worker's messages on until its session ends.
struct Reader<T> {
    slot: Slot,
    session: SessionNumber,
    worker: String,
    sessions: Arc<Sessions>,
    events: mpsc::Sender<T>,
    closing: watch::Receiver<bool>,
}

impl<T: From<Event>> Reader<T> {
    async fn run(mut self, joined: Event, mut incoming: Streaming<proto::WorkerMessage>) {
        let mut closing = self.closing.clone();
        let reason = tokio::select! {
            reason = self.pass_on(joined, &mut incoming) => reason,
            _ = closing.wait_for(|closing| *closing) => None,
        };
        self.sessions.close(self.slot, self.session);
        if let Some(reason) = reason {
            let (slot, session) = (self.slot, self.session);
            // Nobody listens any more once the job has ended.
            let _ = self.events.send(Event::SessionLost { slot, session, reason }.into()).await;
        }
    }

    /// Why the session ended; `None` where the job did.
    async fn pass_on(&mut self, joined: Event, incoming: &mut Streaming<proto::WorkerMessage>) -> Option<String> {
        self.events.send(joined.into()).await.ok()?;
        loop {
            let message = match incoming.message().await {
                Ok(Some(message)) => message,
                Ok(None) => return Some("the worker closed it".into()),
                Err(status) => return Some(describe(&status)),
            };
            if message.worker != self.worker {
                return Some("it carried a message in another worker's name".into());
            }
            match self.sessions.number(self.slot, self.session, message.sequence) {
                Numbered::New => {}
                Numbered::Known => continue,
                Numbered::Gap => return Some("reports went missing on the way".into()),
                Numbered::Stale => return None,
            }
            let (slot, session, generation) = (self.slot, self.session, message.generation);
            if let Some(report) = convert::report(message.body) {
                self.events.send(Event::Reported { slot, session, generation, report }.into()).await.ok()?;
            }
            self.sessions.passed_on(slot, session, message.sequence);
        }
    }
}

fn describe(status: &Status) -> String {
    match status.message().lines().next() {
        Some(line) if !line.is_empty() => format!("the connection failed: {line}"),
        _ => format!("the connection failed: {}", status.code()),
    }
}
