//! The line to a coordinator that is gone without a word.

#![allow(clippy::unwrap_used)]

use medley_common::proto;
use medley_common::proto::coordinator_server::{Coordinator, CoordinatorServer};
use medley_worker::session::{Session, SessionError, Settings};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_stream::Stream;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, Streaming};

/// Lets everybody join, and then says nothing.
struct Silent;

#[tonic::async_trait]
impl Coordinator for Silent {
    async fn join(&self, _: Request<proto::JoinRequest>) -> Result<Response<proto::JoinReply>, Status> {
        Ok(Response::new(proto::JoinReply { worker: "w".into(), heartbeat_ms: 20, death_ms: 200, received: 0 }))
    }

    type SessionStream = Pin<Box<dyn Stream<Item = Result<proto::CoordinatorMessage, Status>> + Send>>;

    async fn session(
        &self,
        _: Request<Streaming<proto::WorkerMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        Ok(Response::new(Box::pin(tokio_stream::pending())))
    }
}

/// Passes on what a worker and its coordinator say until the line is cut; then their connections stay open.
async fn pass_on(workers: TcpListener, coordinator: std::net::SocketAddr, cut: Arc<AtomicBool>) {
    loop {
        let (worker, _) = workers.accept().await.unwrap();
        let coordinator = TcpStream::connect(coordinator).await.unwrap();
        let (from_worker, to_worker) = worker.into_split();
        let (from_coordinator, to_coordinator) = coordinator.into_split();
        for (mut from, mut to) in [(from_worker, to_coordinator), (from_coordinator, to_worker)] {
            let cut = Arc::clone(&cut);
            tokio::spawn(async move {
                let mut bytes = [0; 4096];
                while let Ok(length @ 1..) = from.read(&mut bytes).await {
                    if !cut.load(Ordering::SeqCst) {
                        to.write_all(&bytes[..length]).await.unwrap();
                    }
                }
            });
        }
    }
}

#[test]
fn a_coordinator_that_vanishes_is_noticed() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let cut = Arc::new(AtomicBool::new(false));
    let address = runtime.block_on(async {
        let coordinator = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let workers = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, behind) = (workers.local_addr().unwrap(), coordinator.local_addr().unwrap());
        let serving = tonic::transport::Server::builder().add_service(CoordinatorServer::new(Silent));
        tokio::spawn(serving.serve_with_incoming(TcpListenerStream::new(coordinator)));
        tokio::spawn(pass_on(workers, behind, Arc::clone(&cut)));
        address
    });
    let settings = Settings {
        addresses: vec![format!("http://{address}")],
        patience: Duration::from_millis(500),
        probes: true,
        certificates: None,
    };
    let session = Session::join(settings, proto::JoinRequest::default()).unwrap();
    let idle = session.order("release", Duration::from_secs(1)).unwrap_err();
    assert!(matches!(idle, SessionError::Deadline { .. }), "one that lives and says nothing is no loss: {idle}");
    cut.store(true, Ordering::SeqCst);
    let lost = session.order("release", Duration::from_secs(20)).unwrap_err();
    assert!(matches!(lost, SessionError::Lost(_)), "{lost}");
}
