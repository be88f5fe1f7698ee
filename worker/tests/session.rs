//! The line to coordinators that vanish, end sessions, come back, or are another one.

#![allow(clippy::unwrap_used)]

mod coordinator;

use coordinator::{Fake, serve, serve_on};
use medley_common::proto;
use medley_common::proto::coordinator_message::Body as Order;
use medley_common::proto::coordinator_server::{Coordinator, CoordinatorServer};
use medley_common::proto::worker_message::Body as Report;
use medley_worker::collective::AbortHandle;
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
    let session = Session::join(&settings, proto::JoinRequest::default()).unwrap();
    let idle = session.order("release", Duration::from_secs(1)).unwrap_err();
    assert!(matches!(idle, SessionError::Deadline { .. }), "one that lives and says nothing is no loss: {idle}");
    cut.store(true, Ordering::SeqCst);
    let lost = session.order("release", Duration::from_secs(20)).unwrap_err();
    assert!(matches!(lost, SessionError::Lost(_)), "{lost}");
}

fn settings(addresses: &[std::net::SocketAddr], patience: Duration) -> Settings {
    let addresses = addresses.iter().map(|address| format!("http://{address}")).collect();
    Settings { addresses, patience, probes: false, certificates: None }
}

fn request() -> proto::JoinRequest {
    proto::JoinRequest { incarnation: (1..=16).collect(), ..proto::JoinRequest::default() }
}

const LONG: Duration = Duration::from_secs(60);

fn report(session: &Session, steps: std::ops::RangeInclusive<u64>) {
    for step in steps {
        session.set_step(step);
        let steps = vec![proto::StepRecord { step, ..proto::StepRecord::default() }];
        session.report(Report::Steps(proto::StepReport { steps }));
    }
}

fn kept_steps(fake: &Fake) -> Vec<u64> {
    let step = |message: &proto::WorkerMessage| match &message.body {
        Some(Report::Steps(report)) => report.steps[0].step,
        other => panic!("{other:?}"),
    };
    fake.store().kept.iter().map(step).collect()
}

#[test]
fn reports_survive_sessions_that_end_and_none_is_counted_twice() {
    let fake = Fake::default();
    let (_serving, address) = serve(&fake);
    let session = Session::join(&settings(&[address], LONG), request()).unwrap();
    let group = AbortHandle::new();
    session.enter(3, 1, &group);
    fake.store().acknowledges_to = Some(2);
    for (round, after) in [0, 3, 1].into_iter().enumerate() {
        fake.store().ends_after = Some(after);
        let first = 10 * round as u64 + 1;
        report(&session, first..=first + 9);
        fake.wait("the session has ended and a new one begun", |store| store.joins.len() > round + 1);
    }
    fake.store().ends_after = None;
    fake.hang_up();
    fake.wait("everything has arrived", |store| store.kept.len() == 30);
    assert_eq!(kept_steps(&fake), (1..=30).collect::<Vec<u64>>());
    assert!(group.reason().is_none(), "training goes on meanwhile");
    {
        let store = fake.store();
        assert!(store.kept.iter().all(|message| message.generation == 3 && message.worker == "w"));
        // It says who it is when it comes back.
        let last = store.joins.last().unwrap();
        assert_eq!((&last.incarnation, last.generation, last.rank, last.step), (&request().incarnation, 3, 1, 30));
    }
    // What was not acknowledged is sent again when a coordinator has lost it.
    fake.store().kept.truncate(20);
    fake.store().acknowledges_to = None;
    fake.hang_up();
    fake.wait("what was lost has arrived again", |store| store.kept.len() == 30);
    session.settle(LONG);
    assert_eq!(kept_steps(&fake), (1..=30).collect::<Vec<u64>>());
    session.close();
}

#[test]
fn another_coordinator_takes_over_and_has_what_the_first_had() {
    let fake = Fake::default();
    let (first, one) = serve(&fake);
    // Reserved for the second, which is not there yet.
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let session = Session::join(&settings(&[other, one], LONG), request()).unwrap();
    report(&session, 1..=5);
    fake.wait("the first has five", |store| store.kept.len() == 5);
    first.shutdown_timeout(Duration::from_secs(5));
    report(&session, 6..=9);
    let (_second, _) = serve_on(&fake, other);
    fake.wait("the second has all", |store| store.kept.len() == 9);
    assert_eq!(kept_steps(&fake), (1..=9).collect::<Vec<u64>>());
    fake.order(4, Order::Assignment(proto::Assignment { rank: 2, ..proto::Assignment::default() }));
    let order = session.order("assignment", LONG).unwrap();
    assert!(
        matches!(order, medley_worker::session::Order::Assignment { generation: 4, assignment } if assignment.rank == 2)
    );
}

#[test]
fn what_a_coordinator_received_and_did_not_settle_is_kept_for_the_next_one() {
    let fake = Fake::default();
    let (_serving, address) = serve(&fake);
    let session = Session::join(&settings(&[address], LONG), request()).unwrap();
    fake.store().acknowledges_to = Some(1);
    report(&session, 1..=5);
    fake.wait("all five have arrived", |store| store.kept.len() == 5);
    // Back with the same coordinator, which has all of them, and then with one that heard only of those that were settled.
    fake.hang_up();
    fake.wait("it is back", |store| store.joins.len() == 2);
    report(&session, 6..=6);
    fake.wait("it goes on from where it was", |store| store.kept.len() == 6);
    assert_eq!(fake.store().arrived, [1, 2, 3, 4, 5, 6], "nothing is sent twice to one that has it");
    {
        let mut store = fake.store();
        store.kept.truncate(1);
        store.acknowledges_to = None;
    }
    fake.hang_up();
    fake.wait("the others are sent again", |store| store.kept.len() == 6);
    assert_eq!(kept_steps(&fake), (1..=6).collect::<Vec<u64>>());
    session.settle(LONG);
    session.close();
}

#[test]
fn a_coordinator_that_is_late_is_waited_for() {
    let fake = Fake::default();
    fake.store().refusal = Some(tonic::Status::unavailable("does not lead"));
    let (_serving, address) = serve(&fake);
    let becomes_leader = {
        let fake = fake.clone();
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(300));
            fake.store().refusal = None;
        })
    };
    let session = Session::join(&settings(&[address], LONG), request()).unwrap();
    becomes_leader.join().unwrap();
    session.close();
    fake.store().refusal = Some(tonic::Status::unavailable("does not lead"));
    let error = Session::join(&settings(&[address], Duration::from_millis(400)), request()).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("does not lead"), "{error}");
}

#[test]
fn a_worker_that_was_declared_dead_ends_with_its_group() {
    let fake = Fake::default();
    let (_serving, address) = serve(&fake);
    let session = Session::join(&settings(&[address], LONG), request()).unwrap();
    let group = AbortHandle::new();
    session.enter(1, 0, &group);
    fake.store().refusal = Some(tonic::Status::aborted("this worker was declared dead"));
    fake.hang_up();
    let error = session.order("assignment", LONG).unwrap_err();
    assert!(matches!(&error, SessionError::Refused(reason) if reason.contains("declared dead")), "{error}");
    assert!(group.reason().unwrap().contains("declared dead"));
    // Its reports go nowhere, and nobody waits for them.
    report(&session, 1..=3);
    session.close();
    for code in [tonic::Code::PermissionDenied, tonic::Code::FailedPrecondition] {
        fake.store().refusal = Some(tonic::Status::new(code, "never"));
        let error = Session::join(&settings(&[address], LONG), request()).map(|_| ()).unwrap_err();
        assert!(matches!(error, SessionError::Refused(_)), "{error}");
    }
}

#[test]
fn training_ends_when_no_coordinator_comes_back_within_patience() {
    let fake = Fake::default();
    let (serving, address) = serve(&fake);
    let session = Session::join(&settings(&[address], Duration::from_millis(300)), request()).unwrap();
    let group = AbortHandle::new();
    session.enter(1, 0, &group);
    serving.shutdown_timeout(Duration::from_secs(5));
    let error = session.order("assignment", LONG).unwrap_err();
    assert!(matches!(error, SessionError::Lost(_)), "{error}");
    assert!(group.reason().unwrap().contains("lost the coordinator"));
}

#[test]
fn an_abort_that_comes_before_the_group_is_formed_ends_the_formation() {
    use medley_worker::collective::{CollectiveError, Listener, Membership, Options, TcpCollective};
    let fake = Fake::default();
    let (_serving, address) = serve(&fake);
    let session = Session::join(&settings(&[address], LONG), request()).unwrap();
    fake.order(5, Order::Assignment(proto::Assignment::default()));
    fake.order(5, Order::Abort(proto::Abort { reason: "rank 1 died".into() }));
    assert!(session.order("assignment", LONG).is_ok());
    assert!(session.order("abort", LONG).is_ok(), "heard before the group is entered");
    let listener = Listener::bind("127.0.0.1:0").unwrap();
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let membership = Membership {
        job: "test".into(),
        generation: 5,
        rank: 1,
        addresses: vec![nobody.to_string(), listener.local_addr().to_string()],
        secret: b"secret".to_vec(),
    };
    let abort = AbortHandle::new();
    session.enter(5, 1, &abort);
    let options = Options { connect_deadline: LONG, ..Options::default() };
    let begun = std::time::Instant::now();
    let error = TcpCollective::connect(&listener, &membership, &options, abort).unwrap_err();
    assert!(matches!(&error, CollectiveError::Aborted { reason } if reason == "rank 1 died"), "{error}");
    assert!(begun.elapsed() < LONG / 2);
}
