//! The gRPC service by itself: whom it lets in, and what it does with those who do not keep to the protocol. That
//! joins with a wrong token, version, job or slot are refused is tested by every scripted worker of `job.rs`.

#![allow(clippy::unwrap_used)]

use medley_common::certificates::tls::{Peers, explain};
use medley_common::certificates::{AUTHORITY, Certificates, Role};
use medley_common::proto::control_client::ControlClient;
use medley_common::proto::coordinator_client::CoordinatorClient;
use medley_common::proto::worker_message::Body;
use medley_common::{VERSION, proto};
use medley_coordinator::certificates::Authority;
use medley_coordinator::cluster::{Event, Joined, NewPeer, Report, Scale};
use medley_coordinator::server::{Admission, Asked, Listener, Server, ServerError};
use std::path::Path;
use std::sync::Arc;
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
    let (server, url, events, asked) = serve(None).await;
    Bench {
        server,
        address: url.trim_start_matches("http://").to_owned(),
        client: CoordinatorClient::connect(url).await.unwrap(),
        events,
        asked,
    }
}

/// A server for two workers, its address and its events.
async fn serve(certificates: Option<Certificates>) -> (Server, String, mpsc::Receiver<Event>, mpsc::Receiver<Asked>) {
    let listener = Listener::bind("127.0.0.1:0").await.unwrap().secure(certificates).unwrap();
    let url = listener.local_url();
    let (sender, events) = mpsc::channel(64);
    let (requests, asked) = mpsc::channel(4);
    let admission = Admission {
        job: "j".into(),
        token: "t".into(),
        slots: 2,
        workers: 2,
        heartbeat: Duration::from_millis(100),
        death: DEATH,
    };
    (Server::start(listener, admission, sender, requests), url, events, asked)
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

    assert!(!bench.server.stop(0, 7, "enough"), "nobody is there");
    assert!(bench.server.stop(1, 7, "enough"));
    let received = session.incoming.message().await.unwrap().unwrap();
    assert_eq!(received.generation, 7);

    drop(session.outgoing);
    assert!(matches!(bench.next().await, Event::SessionLost { slot: 1, .. }));
    assert!(session.incoming.message().await.unwrap().is_none());
    assert!(!bench.server.stop(1, 7, "enough"));
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

// Certificates.

fn authority() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    Authority::init(directory.path(), &[], 365, 3650).unwrap();
    directory
}

fn load(directory: &Path, role: Role) -> Certificates {
    Certificates::load(directory, role).unwrap()
}

/// Joins over TLS as a client of this configuration; what went wrong, with all causes.
async fn join_with(url: &str, tls: Arc<rustls::ClientConfig>) -> Result<(), String> {
    let address = url.trim_start_matches("https://").to_owned();
    let connector = tower::service_fn({
        let address = address.clone();
        move |_: tonic::transport::Uri| {
            let (address, tls) = (address.clone(), Arc::clone(&tls));
            async move {
                let socket = tokio::net::TcpStream::connect(&address).await?;
                let name = rustls::pki_types::ServerName::try_from("127.0.0.1").unwrap();
                let stream = tokio_rustls::TlsConnector::from(tls).connect(name, socket).await?;
                Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(stream))
            }
        }
    });
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap();
    let channel = endpoint.connect_with_connector(connector).await.map_err(|error| causes(&error))?;
    let joined = CoordinatorClient::new(channel).join(request(0)).await;
    joined.map(|_| ()).map_err(|status| causes(&status))
}

fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let inner = error.downcast_ref::<std::io::Error>().and_then(medley_common::certificates::tls::error_in);
    let text = inner.map_or_else(|| error.to_string(), explain);
    error.source().map_or(text.clone(), |source| format!("{text}: {}", causes(source)))
}

#[tokio::test]
async fn only_workers_of_the_same_authority_join() {
    let (home, foreign) = (authority(), authority());
    let (_server, url, _events, _asked) = serve(Some(load(home.path(), Role::Coordinator))).await;
    assert!(url.starts_with("https://"));

    let worker = load(home.path(), Role::Worker).client(Peers::Coordinator).unwrap();
    join_with(&url, worker).await.unwrap();

    // Its certificate is fine for a connection, and for nothing that workers do.
    let client = load(home.path(), Role::Client).client(Peers::Coordinator).unwrap();
    let refused = join_with(&url, client).await.unwrap_err();
    assert!(refused.contains("role client") && refused.contains("takes role worker"), "{refused}");

    let stranger = load(foreign.path(), Role::Worker).client(Peers::Coordinator).unwrap();
    let refused = join_with(&url, stranger).await.unwrap_err();
    assert!(refused.contains("its certificate is of another authority"), "{refused}");

    // It trusts this coordinator, which does not trust it.
    let own = std::fs::read_to_string(foreign.path().join(AUTHORITY)).unwrap();
    let ours = std::fs::read_to_string(home.path().join(AUTHORITY)).unwrap();
    std::fs::write(foreign.path().join(AUTHORITY), own + &ours).unwrap();
    let trusting = load(foreign.path(), Role::Worker).client(Peers::Coordinator).unwrap();
    let refused = join_with(&url, trusting).await.unwrap_err();
    assert!(refused.contains("UnknownCA"), "{refused}");

    let mut roots = rustls::RootCertStore::empty();
    for certificate in medley_common::certificates::load::certificates(ours.as_bytes()).unwrap() {
        roots.add(certificate).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let nobody = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let refused = join_with(&url, Arc::new(nobody)).await.unwrap_err();
    assert!(refused.contains("CertificateRequired"), "{refused}");

    let plain = CoordinatorClient::connect(url.replace("https", "http")).await;
    let served = match plain {
        Ok(mut client) => client.join(request(1)).await.is_ok(),
        Err(_) => false,
    };
    assert!(!served, "plain text is not served");
}

#[tokio::test]
async fn a_worker_refuses_whom_its_authority_did_not_make_coordinator() {
    let home = authority();
    // A thief of a worker's key, where the coordinator should be.
    let thief = load(home.path(), Role::Worker).server(&[Role::Worker]).unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        let _ = tokio_rustls::TlsAcceptor::from(thief).accept(socket).await;
    });
    let worker = load(home.path(), Role::Worker).client(Peers::Coordinator).unwrap();
    let refused = join_with(&url, worker).await.unwrap_err();
    assert!(refused.contains("is of worker") && refused.contains("role coordinator is needed"), "{refused}");
}

#[tokio::test]
async fn a_certificate_for_another_host_is_refused_before_anything_is_served() {
    let home = authority();
    let listener = Listener::bind("127.0.0.2:0").await.unwrap();
    let error = listener.secure(Some(load(home.path(), Role::Coordinator))).unwrap_err().to_string();
    assert!(error.contains("coordinator.pem") && error.contains("--name 127.0.0.2"), "{error}");
}

// Limits.

/// A connection that has sent the first bytes of HTTP/2.
async fn begin(address: &str) -> tokio::net::TcpStream {
    let mut connection = tokio::net::TcpStream::connect(address).await.unwrap();
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let empty_settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    // One that is turned away may be so before this is written.
    let _ = connection.write_all(&[preface.as_slice(), &empty_settings].concat()).await;
    connection
}

async fn is_served(connection: &mut tokio::net::TcpStream) -> bool {
    let read = tokio::time::timeout(Duration::from_secs(20), connection.read_u8());
    read.await.expect("served or closed").is_ok()
}

#[tokio::test]
async fn an_address_can_have_so_many_connections_and_no_more() {
    let mut bench = bench().await;
    bench.join(0).await.unwrap();
    let mut connections = Vec::new();
    // 64 and four a worker, of which the bench has one.
    for _ in 0..64 + 4 * 2 - 1 {
        let mut connection = begin(&bench.address).await;
        assert!(is_served(&mut connection).await);
        connections.push(connection);
    }
    assert!(!is_served(&mut begin(&bench.address).await).await, "one too many");
    assert_eq!(bench.join(0).await.map(|_| ()).map_err(|status| status.code()), Ok(()), "those who are in stay in");
    connections.pop();
    let again = async { while !is_served(&mut begin(&bench.address).await).await {} };
    tokio::time::timeout(Duration::from_secs(20), again).await.expect("a place that was left is given again");
}

#[tokio::test]
async fn those_who_say_nothing_or_nonsense_delay_nobody_and_are_closed() {
    let mut bench = bench().await;
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(tokio::net::TcpStream::connect(&bench.address).await.unwrap());
    }
    let start = Instant::now();
    bench.join(0).await.unwrap();
    let mut another = CoordinatorClient::connect(format!("http://{}", bench.address)).await.unwrap();
    another.join(request(1)).await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(4), "before any of the silent was closed for its silence");

    let mut browser = tokio::net::TcpStream::connect(&bench.address).await.unwrap();
    browser.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    assert!(!is_served(&mut browser).await);
    for mut connection in silent {
        assert!(!is_served(&mut connection).await);
    }
}

#[tokio::test]
async fn large_headers_and_large_requests_to_join_are_refused() {
    let mut bench = bench().await;
    let mut with_headers = tonic::Request::new(request(0));
    with_headers.metadata_mut().insert("x", "y".repeat(20_000).parse().unwrap());
    bench.client.join(with_headers).await.unwrap_err();
    let long = proto::JoinRequest { data_address: "a".repeat(20_000), ..request(0) };
    assert_eq!(bench.client.join(long).await.unwrap_err().code(), Code::InvalidArgument);
    bench.join(0).await.unwrap();
}
