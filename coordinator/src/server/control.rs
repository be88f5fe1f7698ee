//! What people and programs ask of a running job.

use super::connection::Party;
use super::service::is_equal;
use crate::cluster::{NewPeer, Scale};
use medley_common::certificates::Role;
use medley_common::proto;
use proto::scale_request::NewPeers;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tonic::{Request, Response, Status};

/// How long the job may take to answer.
const ANSWER: Duration = Duration::from_secs(20);

/// A request that waits for its answer: one line, of what will happen or of why nothing will.
#[derive(Debug)]
pub struct Asked {
    /// What is asked.
    pub scale: Scale,
    /// Where the answer goes.
    pub answer: oneshot::Sender<Result<String, String>>,
}

/// The service of one job.
#[derive(Debug)]
pub struct Control {
    pub job: String,
    pub token: String,
    pub requests: mpsc::Sender<Asked>,
}

#[tonic::async_trait]
impl proto::control_server::Control for Control {
    async fn scale(&self, request: Request<proto::ScaleRequest>) -> Result<Response<proto::ScaleReply>, Status> {
        Party::require(&request, Role::Client)?;
        let request = request.into_inner();
        if !is_equal(request.token.as_bytes(), self.token.as_bytes()) {
            return Err(Status::permission_denied("the token is not this job's"));
        }
        if request.job != self.job {
            return Err(Status::not_found(format!("this coordinator runs job {}, not {}", self.job, request.job)));
        }
        let (answer, answered) = oneshot::channel();
        let asked = Asked { scale: scale(&request), answer };
        let gone = || Status::unavailable("the job has ended");
        self.requests.send(asked).await.map_err(|_| gone())?;
        match tokio::time::timeout(ANSWER, answered).await {
            Ok(Ok(Ok(message))) => Ok(Response::new(proto::ScaleReply { message })),
            Ok(Ok(Err(reason))) => Err(Status::invalid_argument(reason)),
            Ok(Err(_)) => Err(gone()),
            Err(_) => Err(Status::deadline_exceeded("the coordinator is too busy to answer")),
        }
    }
}

fn scale(request: &proto::ScaleRequest) -> Scale {
    let new_peers = request.new_peers.as_ref().map(|new_peers| match new_peers {
        NewPeers::Fresh(_) => NewPeer::Fresh,
        NewPeers::Copy(copy) => NewPeer::CopyOf { peer: copy.peer, noise: copy.noise },
    });
    Scale { peers: request.peers, workers: Some(request.workers).filter(|workers| *workers > 0), new_peers }
}
