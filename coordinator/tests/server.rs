//! The gRPC service by itself: whom it lets in, and what it does with those who do not keep to the protocol. That
//! joins with a wrong token, version, job or slot are refused is tested by every scripted worker of `job.rs`.

#![allow(clippy::unwrap_used)]

use medley_common::proto::control_client::ControlClient;
use medley_common::proto::coordinator_client::CoordinatorClient;
use medley_common::proto::worker_message::Body;
use medley_common::{VERSION, proto};
use medley_coordinator::cluster::{Event, Joined, NewPeer, Report, Scale};
use medley_coordinator::server::{Admission, Asked, Listener, Server, ServerError};
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
    asked: mpsc::Receiver<Asked>,
}

async fn bench() -> Bench {
    let listener = Listener::bind("127.0.0.1:0").await.unwrap();
    let url = listener.local_url();
    let (sender, events) = mpsc::channel(64);
    let (requests, asked) = mpsc::channel(4);
    let admission =
        Admission { job: "j".into(), token: "t".into(), slots: 2, heartbeat: Duration::from_millis(100), death: DEATH };
    Bench {
        server: Server::start(listener, admission, sender, requests),
        address: url.trim_start_matches("http://").to_owned(),
        client: CoordinatorClient::connect(url).await.unwrap(),
        events,
        asked,
    }
}

fn request(slot: u32) -> proto::JoinRequest {
    let (job, version, token) = ("j".into(), VERSION.into(), "t".into());
    proto::JoinRequest { job, version, token, slot, ..proto::JoinRequest::default() }
}

impl Bench {
    async fn join(&mut self, slot: u32) -> Result<String, Status> {
        Ok(self.client.join(request(slot)).await?.into_inner().worker)
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
    proto::WorkerMessage { worker: worker.into(), generation: 7, sequence: 0, body: Some(body) }
}

fn heartbeat(worker: &str) -> proto::WorkerMessage {
    message(worker, Body::Heartbeat(proto::Heartbeat::default()))
}

#[tokio::test]
async fn messages_pass_both_ways_until_the_session_ends() {
    let mut bench = bench().await;
    let worker = bench.join(1).await.unwrap();
    let mut session = bench.session(heartbeat(&worker)).await.unwrap();
    assert!(matches!(bench.next().await, Event::Joined(Joined { slot: 1, session: 1, .. })));
    let completed = proto::Completed::default();
    let sent = message(&worker, Body::Completed(completed.clone()));
    session.outgoing.send(sent).await.unwrap();
    let expected = Event::Reported { slot: 1, session: 1, generation: 7, report: Report::Completed(completed) };
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
        let Event::SessionLost { slot: 0, reason, .. } = bench.next().await else {
            panic!("the session goes on");
        };
        assert!(reason.contains(expected), "{reason}");
    }
}

/// A process that says who it is, so that it can return.
async fn join_as(bench: &mut Bench, incarnation: u8) -> Result<proto::JoinReply, Status> {
    let request = proto::JoinRequest { incarnation: vec![incarnation; 16], generation: 3, ..request(0) };
    Ok(bench.client.join(request).await?.into_inner())
}

fn numbered(worker: &str, sequence: u64) -> proto::WorkerMessage {
    let step = proto::StepRecord { step: sequence, ..proto::StepRecord::default() };
    let report = Body::Steps(proto::StepReport { steps: vec![step] });
    proto::WorkerMessage { sequence, ..message(worker, report) }
}

async fn next_step(bench: &mut Bench) -> (u64, u64) {
    match bench.next().await {
        Event::Reported { session, report: Report::Steps(steps), .. } => (session, steps[0].step),
        other => panic!("not a step: {other:?}"),
    }
}

#[tokio::test]
async fn a_worker_that_returns_sends_again_and_nothing_counts_twice() {
    let mut bench = bench().await;
    let first = join_as(&mut bench, 1).await.unwrap();
    assert_eq!(first.received, 0);
    let session = bench.session(heartbeat(&first.worker)).await.unwrap();
    assert!(matches!(bench.next().await, Event::Joined(Joined { session: 1, generation: 3, .. })));
    // An earlier coordinator had all before 11.
    for sequence in [11, 12] {
        session.outgoing.send(numbered(&first.worker, sequence)).await.unwrap();
        assert_eq!(next_step(&mut bench).await, (1, sequence));
    }
    // The first session is still open as far as the coordinator knows.
    let again = join_as(&mut bench, 1).await.unwrap();
    assert_eq!(again.received, 12);
    let returned = bench.session(heartbeat(&again.worker)).await.unwrap();
    assert!(matches!(bench.next().await, Event::Joined(Joined { session: 2, .. })));
    for sequence in [11, 12, 13] {
        returned.outgoing.send(numbered(&again.worker, sequence)).await.unwrap();
    }
    assert_eq!(next_step(&mut bench).await, (2, 13));
    returned.outgoing.send(numbered(&again.worker, 15)).await.unwrap();
    let Event::SessionLost { session: 2, reason, .. } = bench.next().await else {
        panic!("the session goes on");
    };
    assert!(reason.contains("went missing"), "{reason}");
}

#[tokio::test]
async fn a_worker_that_was_declared_dead_is_refused_and_its_slot_is_free() {
    let mut bench = bench().await;
    let zombie = join_as(&mut bench, 1).await.unwrap();
    let mut session = bench.session(heartbeat(&zombie.worker)).await.unwrap();
    bench.next().await;
    bench.server.dismiss(0, "it said nothing for 1000 ms");
    assert!(session.incoming.message().await.unwrap().is_none(), "its session is closed");
    let refused = join_as(&mut bench, 1).await.unwrap_err();
    assert_eq!(refused.code(), Code::Aborted);
    assert!(refused.message().contains("it said nothing for 1000 ms"), "{refused}");
    assert_eq!(join_as(&mut bench, 2).await.unwrap().received, 0);
}

#[tokio::test]
async fn a_request_reaches_the_job_and_its_answer_the_person() {
    let mut bench = bench().await;
    let mut control = ControlClient::connect(format!("http://{}", bench.address)).await.unwrap();
    let copy = proto::PeerCopy { peer: 1, rank: 0, noise: 0.5 };
    let new_peers = Some(proto::scale_request::NewPeers::Copy(copy));
    let request = proto::ScaleRequest { job: "j".into(), token: "t".into(), peers: 5, workers: 0, new_peers };
    for (wrong, code) in [
        (proto::ScaleRequest { token: "u".into(), ..request.clone() }, Code::PermissionDenied),
        (proto::ScaleRequest { job: "k".into(), ..request.clone() }, Code::NotFound),
    ] {
        assert_eq!(control.scale(wrong).await.unwrap_err().code(), code);
    }
    for answer in [Ok("from 3 to 5 peers".to_owned()), Err("--peers 5: no".to_owned())] {
        let (reply, ()) = tokio::join!(control.scale(request.clone()), async {
            let asked = bench.asked.recv().await.unwrap();
            let new_peers = Some(NewPeer::CopyOf { peer: 1, noise: 0.5 });
            assert_eq!(asked.scale, Scale { peers: 5, workers: None, new_peers });
            asked.answer.send(answer.clone()).unwrap();
        });
        match answer {
            Ok(expected) => assert_eq!(reply.unwrap().into_inner().message, expected),
            Err(expected) => assert_eq!(reply.unwrap_err().message(), expected),
        }
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
