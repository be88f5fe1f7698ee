//! A coordinator that does what a test tells it, over real sockets.

#![allow(dead_code)]

use medley_common::proto;
use medley_common::proto::coordinator_message::Body as Order;
use medley_common::proto::coordinator_server::{Coordinator, CoordinatorServer};
use medley_common::proto::worker_message::Body;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{TcpListenerStream, UnboundedReceiverStream};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

/// What all coordinators of a test know, as if it were in their store.
#[derive(Default)]
pub struct Store {
    /// Sequences of reports as they arrived, heartbeats left out.
    pub arrived: Vec<u64>,
    /// Reports that were not there before, in order.
    pub kept: Vec<proto::WorkerMessage>,
    pub joins: Vec<proto::JoinRequest>,
    /// Refuses to let workers in.
    pub refusal: Option<Status>,
    /// Acknowledges reports up to this one only.
    pub acknowledges_to: Option<u64>,
    /// Ends the session after so many more reports.
    pub ends_after: Option<usize>,
    sessions: Vec<mpsc::UnboundedSender<Result<proto::CoordinatorMessage, Status>>>,
}

impl Store {
    fn received(&self) -> u64 {
        self.kept.last().map_or(0, |message| message.sequence)
    }
}

#[derive(Clone, Default)]
pub struct Fake(pub Arc<Mutex<Store>>);

impl Fake {
    pub fn store(&self) -> std::sync::MutexGuard<'_, Store> {
        self.0.lock().unwrap()
    }

    /// Gives an order to every session that is open.
    pub fn order(&self, generation: u64, order: Order) {
        let message = proto::CoordinatorMessage { generation, body: Some(order) };
        self.store().sessions.retain(|session| session.send(Ok(message.clone())).is_ok());
    }

    /// Ends every session.
    pub fn hang_up(&self) {
        for session in self.store().sessions.drain(..) {
            let _ = session.send(Err(Status::unavailable("hung up")));
        }
    }

    /// Waits until something holds.
    pub fn wait(&self, what: &str, holds: impl Fn(&Store) -> bool) {
        let until = Instant::now() + Duration::from_secs(60);
        while !holds(&self.store()) {
            assert!(Instant::now() < until, "waited in vain until {what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

#[tonic::async_trait]
impl Coordinator for Fake {
    async fn join(&self, request: Request<proto::JoinRequest>) -> Result<Response<proto::JoinReply>, Status> {
        let mut store = self.store();
        if let Some(refusal) = &store.refusal {
            return Err(refusal.clone());
        }
        store.joins.push(request.into_inner());
        let received = store.received();
        Ok(Response::new(proto::JoinReply { worker: "w".into(), heartbeat_ms: 20, death_ms: 1000, received }))
    }

    type SessionStream = Pin<Box<dyn Stream<Item = Result<proto::CoordinatorMessage, Status>> + Send>>;

    async fn session(
        &self,
        messages: Request<Streaming<proto::WorkerMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let mut messages = messages.into_inner();
        let first = messages.next().await;
        let Some(Ok(proto::WorkerMessage { body: Some(Body::Heartbeat(_)), .. })) = first else {
            return Err(Status::invalid_argument("the first message is a heartbeat"));
        };
        let (orders, outgoing) = mpsc::unbounded_channel();
        self.store().sessions.push(orders.clone());
        let fake = self.clone();
        tokio::spawn(async move {
            while let Some(Ok(message)) = messages.next().await {
                if !fake.hear(message, &orders) {
                    // Ends it while reports are under way, acknowledged or not.
                    fake.store().sessions.retain(|session| !session.same_channel(&orders));
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(outgoing))))
    }
}

impl Fake {
    fn hear(
        &self,
        message: proto::WorkerMessage,
        orders: &mpsc::UnboundedSender<Result<proto::CoordinatorMessage, Status>>,
    ) -> bool {
        if message.sequence == 0 {
            return true;
        }
        let mut store = self.store();
        let sequence = message.sequence;
        store.arrived.push(sequence);
        if sequence > store.received() {
            assert_eq!(sequence, store.received() + 1, "reports come in order and without gaps");
            store.kept.push(message);
        }
        if store.acknowledges_to.is_none_or(|most| sequence <= most) {
            let body = Some(Order::Acknowledged(proto::Acknowledged { sequence }));
            let _ = orders.send(Ok(proto::CoordinatorMessage { generation: 0, body }));
        }
        match &mut store.ends_after {
            Some(0) => false,
            Some(left) => {
                *left -= 1;
                true
            }
            None => true,
        }
    }
}

/// Serves on a free port; the runtime that it returns ends it.
pub fn serve(fake: &Fake) -> (tokio::runtime::Runtime, SocketAddr) {
    serve_on(fake, "127.0.0.1:0".parse().unwrap())
}

pub fn serve_on(fake: &Fake, address: SocketAddr) -> (tokio::runtime::Runtime, SocketAddr) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let address = runtime.block_on(async {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tonic::transport::Server::builder().add_service(CoordinatorServer::new(fake.clone()));
        tokio::spawn(serving.serve_with_incoming(TcpListenerStream::new(listener)));
        address
    });
    (runtime, address)
}
