//! The gRPC service by itself: whom it lets in, and what it does with those who do not keep to the protocol. That
//! joins with a wrong token, version, job or slot are refused is tested by every scripted worker of `job.rs`.

#![allow(clippy::unwrap_used)]

use medley_common::proto::coordinator_client::CoordinatorClient;
use medley_common::proto::worker_message::Body;
use medley_common::{VERSION, proto};
use medley_coordinator::cluster::{Event, Report};
use medley_coordinator::server::{Admission, Listener, Server, ServerError};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

const DEATH: Duration = Duration::from_secs(1);

struct Bench {
    server: Server,
    address: String,
    client: CoordinatorClient<Channel>,
    events: mpsc::Receiver<Event>,
}

async fn bench() -> Bench {
    let listener = Listener::bind("127.0.0.1:0").await.unwrap();
    let url = listener.local_url();
    let (sender, events) = mpsc::channel(64);
    let admission = Admission {
        job: "j".into(),
        token: "t".into(),
        workers: 2,
        heartbeat: Duration::from_millis(100),
        death: DEATH,
    };
    Bench {
        server: Server::start(listener, admission, sender),
        address: url.trim_start_matches("http://").to_owned(),
        client: CoordinatorClient::connect(url).await.unwrap(),
        events,
    }
}

impl Bench {
    async fn join(&mut self, slot: u32) -> Result<String, Status> {
        let request = proto::JoinRequest {
            job: "j".into(),
            version: VERSION.into(),
            token: "t".into(),
            slot,
            ..proto::JoinRequest::default()
        };
        Ok(self.client.join(request).await?.into_inner().worker)
    }

    async fn session(&mut self, first: proto::WorkerMessage) -> Result<Session, Status> {
        let (outgoing, messages) = mpsc::channel(8);
        outgoing.send(first).await.unwrap();
        let incoming = self.client.session(ReceiverStream::new(messages)).await?;
        Ok(Session { outgoing, incoming: incoming.into_inner() })
    }

    async fn next(&mut self) -> Event {
        let next = tokio::time::timeout(Duration::from_secs(20), self.events.recv());
        next.await.expect("an event comes").unwrap()
    }
}

struct Session {
    outgoing: mpsc::Sender<proto::WorkerMessage>,
    incoming: Streaming<proto::CoordinatorMessage>,
}

fn message(worker: &str, body: Body) -> proto::WorkerMessage {
    proto::WorkerMessage { worker: worker.into(), generation: 7, body: Some(body) }
}

fn heartbeat(worker: &str) -> proto::WorkerMessage {
    message(worker, Body::Heartbeat(proto::Heartbeat::default()))
}

#[tokio::test]
async fn messages_pass_both_ways_until_the_session_ends() {
    let mut bench = bench().await;
    let worker = bench.join(1).await.unwrap();
    let mut session = bench.session(heartbeat(&worker)).await.unwrap();
    assert!(matches!(bench.next().await, Event::Joined { slot: 1, .. }));
    let completed = proto::Completed::default();
    let sent = message(&worker, Body::Completed(completed.clone()));
    session.outgoing.send(sent).await.unwrap();
    let expected = Event::Reported { slot: 1, generation: 7, report: Report::Completed(completed) };
    assert_eq!(bench.next().await, expected);

    assert!(!bench.server.release(0, 7), "nobody is there");
    assert!(bench.server.release(1, 7));
    let received = session.incoming.message().await.unwrap().unwrap();
    assert_eq!(received.generation, 7);

    drop(session.outgoing);
    assert!(matches!(bench.next().await, Event::SessionLost { slot: 1, .. }));
    assert!(session.incoming.message().await.unwrap().is_none());
    assert!(!bench.server.release(1, 7));
}

#[tokio::test]
async fn sessions_of_strangers_and_second_sessions_are_refused() {
    let mut bench = bench().await;
    let refused = |outcome: Result<Session, Status>| outcome.err().unwrap().code();
    let stranger = bench.session(heartbeat("worker-0")).await;
    assert_eq!(refused(stranger), Code::NotFound);

    let first = bench.join(0).await.unwrap();
    let ready = message(&first, Body::Ready(proto::Ready::default()));
    let hasty = bench.session(ready).await;
    assert_eq!(refused(hasty), Code::FailedPrecondition);

    // A worker that was started again before it opened a session takes the place of the first.
    let worker = bench.join(0).await.unwrap();
    assert_ne!(worker, first);
    assert_eq!(refused(bench.session(heartbeat(&first)).await), Code::NotFound);
    let _session = bench.session(heartbeat(&worker)).await.unwrap();
    let second = bench.session(heartbeat(&worker)).await;
    assert_eq!(refused(second), Code::AlreadyExists);
    assert_eq!(bench.join(0).await.unwrap_err().code(), Code::AlreadyExists);
}

#[tokio::test]
async fn a_session_that_breaks_the_rules_is_ended() {
    let huge = proto::Failed { message: "x".repeat(17 << 20), ..proto::Failed::default() };
    for (body, expected) in [(None, "another worker's name"), (Some(Body::Failed(huge)), "message length too large")] {
        let mut bench = bench().await;
        let worker = bench.join(0).await.unwrap();
        let session = bench.session(heartbeat(&worker)).await.unwrap();
        bench.next().await;
        let bad = match body {
            None => heartbeat("worker-1"),
            Some(body) => message(&worker, body),
        };
        session.outgoing.send(bad).await.unwrap();
        let Event::SessionLost { slot: 0, reason } = bench.next().await else {
            panic!("the session goes on");
        };
        assert!(reason.contains(expected), "{reason}");
    }
}

#[tokio::test]
async fn shutting_down_ends_sessions() {
    let mut bench = bench().await;
    let worker = bench.join(0).await.unwrap();
    let mut session = bench.session(heartbeat(&worker)).await.unwrap();
    bench.server.shutdown().await;
    let end = tokio::time::timeout(Duration::from_secs(20), session.incoming.message());
    assert!(!matches!(end.await.expect("the stream ends"), Ok(Some(_))));
}

#[tokio::test]
async fn a_connection_that_answers_no_probe_is_ended() {
    let bench = bench().await;
    let mut connection = tokio::net::TcpStream::connect(bench.address).await.unwrap();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let empty_settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    connection.write_all(&[preface.as_slice(), &empty_settings].concat()).await.unwrap();
    let start = Instant::now();
    let mut probes = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(20), connection.read_to_end(&mut probes));
    // However it ends: closed or reset.
    let _ = ended.await.expect("the connection ends");
    assert!(start.elapsed() >= DEATH, "the cluster judges before the transport does");
}

#[tokio::test]
async fn a_port_in_use_is_named_with_its_key() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let error = Listener::bind(&address.to_string()).await.unwrap_err();
    assert!(matches!(error, ServerError::InUse(_)));
    let message = error.to_string();
    let port = address.port().to_string();
    assert!(message.contains("launch.listen") && message.contains(&port), "{message}");
}

#[tokio::test]
async fn more_than_a_thousand_may_dial_at_once() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    const DIALLERS: u64 = 1_100;
    let maximum = getrlimit(Resource::Nofile).maximum;
    let files = Rlimit { current: Some(maximum.unwrap_or(4_096).min(4_096)), maximum };
    setrlimit(Resource::Nofile, files).unwrap();
    let most = std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap().trim().parse::<u64>().unwrap();
    let listener = Listener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_url().trim_start_matches("http://").parse().unwrap();
    // Nobody accepts: whoever finds no room waits in vain.
    let dial = |_| std::net::TcpStream::connect_timeout(&address, Duration::from_secs(20)).unwrap();
    let waiting: Vec<_> = (0..DIALLERS.min(most)).map(dial).collect();
    assert!(waiting.iter().all(|connection| connection.peer_addr().is_ok()));
}
