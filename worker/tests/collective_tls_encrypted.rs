//! An encrypted group against whoever does not belong, and what others can see of it: strangers without a certificate,
//! with one of another authority or another role, bytes spoiled on the way.

#![allow(clippy::unwrap_used)]

mod collective_group;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use collective_group::authority::{authority, load};
use collective_group::*;
use medley_common::certificates::{AUTHORITY, Role};
use medley_worker::collective::{
    AbortHandle, Collective, CollectiveError, HandshakeError, Listener, Membership, Options, Refusal, TcpCollective,
};

const ANY_PORT: &str = "127.0.0.1:0";

/// What this process logged: refusals are named there.
fn log() -> &'static Mutex<Vec<u8>> {
    static LOG: OnceLock<Mutex<Vec<u8>>> = OnceLock::new();
    LOG.get_or_init(|| {
        tracing_subscriber::fmt().with_ansi(false).with_writer(Sink).init();
        Mutex::default()
    })
}

#[derive(Clone, Copy)]
struct Sink;

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        log().lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl tracing_subscriber::fmt::MakeWriter<'_> for Sink {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        *self
    }
}

fn until_logged(text: &str) {
    let started = Instant::now();
    while !String::from_utf8_lossy(&log().lock().unwrap()).contains(text) {
        assert!(started.elapsed() < AT_ONCE, "not in the log: {text}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Dials rank 0 as its rank 1, knowing all but having no right certificate; what it hears.
fn intrude(listener: &Listener, addresses: &[String]) -> HandshakeError {
    let options = Options { connect_deadline: AT_ONCE, ..Options::default() };
    match TcpCollective::connect(listener, &membership(1, addresses), &options, AbortHandle::new()) {
        Err(CollectiveError::Handshake { rank: 0, source, .. }) => source,
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn only_workers_of_the_same_authority_get_in_and_the_others_are_named() {
    log();
    let (home, foreign) = (authority(), authority());
    // The intruders trust the group's authority, or they would leave before they are refused.
    let trusting = |of: &tempfile::TempDir| {
        let ours = std::fs::read_to_string(home.path().join(AUTHORITY)).unwrap();
        let theirs = std::fs::read_to_string(of.path().join(AUTHORITY)).unwrap();
        std::fs::write(of.path().join(AUTHORITY), ours + &theirs).unwrap();
    };
    trusting(&foreign);
    let open = Listener::bind_with(ANY_PORT, Some(&load(&home, Role::Worker))).unwrap();
    let addresses = [open.local_addr().to_string(), "127.0.0.1:1".to_owned()];
    let abort = AbortHandle::new();
    thread::scope(|scope| {
        let (member, handle, open) = (membership(0, &addresses), abort.clone(), &open);
        let alone = scope.spawn(move || TcpCollective::connect(open, &member, &Options::default(), handle));
        for (directory, role, heard, named) in [
            (&foreign, Role::Worker, "does not know the authority", "its certificate is of another authority"),
            (&home, Role::Coordinator, "refused this side's certificate", "not meant for this side"),
            (&home, Role::Client, "refused this side's certificate", "of client \"medley client\", where role worker"),
        ] {
            let listener = Listener::bind_with(ANY_PORT, Some(&load(directory, role))).unwrap();
            let error = intrude(&listener, &addresses);
            assert!(matches!(&error, HandshakeError::Certificate(line) if line.contains(heard)), "{role}: {error}");
            until_logged(named);
        }
        let plain = Listener::bind(ANY_PORT).unwrap();
        let options = Options { connect_deadline: Duration::from_millis(500), ..Options::default() };
        let member = membership(1, &addresses);
        let error = TcpCollective::connect(&plain, &member, &options, AbortHandle::new()).unwrap_err();
        assert!(error.to_string().contains("it speaks TLS"), "{error}");
        until_logged("it does not speak TLS");
        abort.abort("nobody else comes");
        alone.join().unwrap().unwrap_err();
    });
}

#[test]
fn a_worker_sends_nothing_to_a_stranger_at_another_ranks_address() {
    let (home, foreign) = (authority(), authority());
    for (directory, role, says) in
        [(&foreign, Role::Worker, "of another authority"), (&home, Role::Coordinator, "is of coordinator")]
    {
        let strange = Listener::bind_with(ANY_PORT, Some(&load(directory, role))).unwrap();
        let own = Listener::bind_with(ANY_PORT, Some(&load(&home, Role::Worker))).unwrap();
        let addresses = [strange.local_addr().to_string(), own.local_addr().to_string()];
        let error = intrude(&own, &addresses);
        assert!(matches!(&error, HandshakeError::Certificate(line) if line.contains(says)), "{error}");
    }
}

#[test]
fn the_secret_and_the_generation_still_count() {
    let (listeners, addresses) = listeners(2);
    let abort = AbortHandle::new();
    thread::scope(|scope| {
        let (member, handle, listener) = (membership(0, &addresses), abort.clone(), &listeners[0]);
        let alone = scope.spawn(move || TcpCollective::connect(listener, &member, &Options::default(), handle));
        for (wrong, expected) in [
            (Membership { secret: b"guessed".to_vec(), ..membership(1, &addresses) }, Refusal::Secret),
            (Membership { generation: 6, ..membership(1, &addresses) }, Refusal::Generation),
        ] {
            match connect_as(&bind(), &wrong) {
                Err(CollectiveError::Handshake { source: HandshakeError::RefusedByPeer { refusal, .. }, .. })
                    if refusal == expected => {}
                other => panic!("not refused for {expected}: {other:?}"),
            }
        }
        abort.abort("nobody else comes");
        alone.join().unwrap().unwrap_err();
    });
}

fn assert_closed(mut stream: TcpStream) {
    stream.set_read_timeout(Some(LONG)).unwrap();
    let mut rest = [0; 64];
    loop {
        match stream.read(&mut rest) {
            Ok(0) => return,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return,
            Ok(_) => {} // An alert.
            Err(error) => panic!("the stranger was not turned away: {error}"),
        }
    }
}

#[test]
fn strangers_hinder_neither_the_formation_nor_the_work() {
    let (listeners, addresses) = listeners(3);
    let visit = |address: &str| -> Vec<TcpStream> {
        let dial = || TcpStream::connect(address).unwrap();
        for nonsense in
            [&b"GET / HTTP/1.1\r\n\r\n"[..], b"MEDLEYDP\x01\x00", &[0x16, 3, 1, 0xff, 0xff, 1], &[0xa5; 5_000]]
        {
            let mut stranger = dial();
            // May be turned away before it has sent all of it.
            let _ = stranger.write_all(nonsense);
            let _ = stranger.shutdown(Shutdown::Write);
            assert_closed(stranger);
        }
        (0..100).map(|_| dial()).collect()
    };
    let (formed, visited) = (Gate::default(), Gate::default());
    let rank = |rank: usize| {
        let mut group = connect(&listeners[rank], rank, &addresses).unwrap();
        formed.arrive();
        visited.wait_for(1);
        assert_eq!(all_gather(&mut group, |_| 10).unwrap()[2], part(2, 0, 10));
    };
    let rank = &rank;
    let started = Instant::now();
    thread::scope(|scope| {
        scope.spawn(move || rank(0));
        let during = visit(&addresses[0]);
        scope.spawn(move || rank(1));
        scope.spawn(move || rank(2));
        formed.wait_for(3);
        let after = visit(&addresses[0]);
        visited.arrive();
        drop((during, after));
    });
    assert!(started.elapsed() < AT_ONCE);
}

#[test]
fn a_handshake_that_drips_is_ended_by_its_deadline() {
    let (_listeners, addresses) = listeners(1);
    let mut stream = TcpStream::connect(&addresses[0]).unwrap();
    let started = Instant::now();
    // The head of a record of 512 bytes, and then a byte at a time: every read is quick, all of them are slow.
    stream.write_all(&[0x16, 3, 1, 2, 0]).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    loop {
        assert!(started.elapsed() < AT_ONCE, "the handshake goes on");
        let sent = stream.write_all(&[1]);
        let closed = match stream.read(&mut [0; 8]) {
            Ok(length) => length == 0,
            Err(error) => !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        };
        if sent.is_err() || closed {
            return;
        }
    }
}

#[test]
fn an_address_where_something_else_answers_ends_the_formation_clearly() {
    // Nonsense at once, and nothing at all.
    for answer in [&b"\x16\x03\x03nonsense that is no handshake"[..], b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"] {
        let other = TcpListener::bind(ANY_PORT).unwrap();
        let own = bind();
        let addresses = [other.local_addr().unwrap().to_string(), own.local_addr().to_string()];
        thread::spawn(move || {
            let mut held = Vec::new();
            while let Ok((mut stream, _)) = other.accept() {
                let _ = stream.write_all(answer);
                held.push(stream);
            }
        });
        let options = Options { connect_deadline: Duration::from_millis(700), ..Options::default() };
        let started = Instant::now();
        let error = TcpCollective::connect(&own, &membership(1, &addresses), &options, AbortHandle::new()).unwrap_err();
        assert!(matches!(error, CollectiveError::Deadline { rank: 0, operation: "connect", .. }), "{error}");
        assert!(started.elapsed() < AT_ONCE);
    }
}

/// Stands between the ranks: passes everything on, keeps a copy, and does as it is told once it is told to.
struct Between {
    address: String,
    seen: Arc<Mutex<Vec<u8>>>,
    is_active: Arc<AtomicBool>,
}

/// What is done with what rank 1 sends, once the middle is active; whether the connection goes on.
type Meddle = fn(&mut Vec<u8>) -> bool;

impl Between {
    fn new(target: String, meddle: Meddle) -> Self {
        let listener = TcpListener::bind(ANY_PORT).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (seen, is_active) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (copy, active) = (Arc::clone(&seen), Arc::clone(&is_active));
        thread::spawn(move || {
            while let Ok((near, _)) = listener.accept() {
                let far = TcpStream::connect(&target).unwrap();
                let back = (far.try_clone().unwrap(), near.try_clone().unwrap());
                let keep = Arc::clone(&copy);
                thread::spawn(move || {
                    pass(back.0, back.1, |bytes| {
                        keep.lock().unwrap().extend_from_slice(bytes);
                        true
                    })
                });
                pass(near, far, |bytes| {
                    copy.lock().unwrap().extend_from_slice(bytes);
                    !active.load(Ordering::SeqCst) || meddle(bytes)
                });
            }
        });
        Self { address, seen, is_active }
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, mut with: impl FnMut(&mut Vec<u8>) -> bool) {
    let mut buffer = [0; 1 << 16];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        let mut bytes = buffer[..length].to_vec();
        let goes_on = with(&mut bytes);
        if to.write_all(&bytes).is_err() || !goes_on {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

/// Rank 0's failure when what rank 1 sends is meddled with, from its second call on.
fn gather_through(meddle: Meddle) -> CollectiveError {
    let (listeners, addresses) = listeners(2);
    let between = Between::new(addresses[0].clone(), meddle);
    let detour = [between.address.clone(), addresses[1].clone()];
    let formed = Gate::default();
    let started = Instant::now();
    let failures = each_rank(2, |rank| {
        let mut group = connect(&listeners[rank], rank, &detour).unwrap();
        group.barrier().unwrap();
        formed.arrive();
        formed.wait_for(2);
        between.is_active.store(true, Ordering::SeqCst);
        all_gather(&mut group, |_| 100_000).err()
    });
    assert!(started.elapsed() < AT_ONCE, "a clear error, and no waiting for a deadline");
    failures.into_iter().next().unwrap().expect("rank 0 notices")
}

#[test]
fn bytes_spoiled_on_the_way_are_noticed_and_never_taken_for_data() {
    let flipped = gather_through(|bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        true
    });
    let cut = gather_through(|bytes| {
        bytes.truncate(bytes.len() / 2);
        false
    });
    let forged = gather_through(|bytes| {
        *bytes = [&[0x17, 3, 3, 0, 64][..], &[9; 64], bytes].concat();
        true
    });
    let garbage = gather_through(|bytes| {
        bytes.fill(0xff);
        true
    });
    let protocol = |error: &CollectiveError, word: &str| matches!(error, CollectiveError::Protocol { rank: 1, what } if what.contains(word));
    assert!(protocol(&flipped, "corrupted or forged"), "{flipped}");
    assert!(protocol(&forged, "corrupted or forged"), "{forged}");
    assert!(protocol(&garbage, "TLS"), "{garbage}");
    assert!(matches!(cut, CollectiveError::PeerLost { rank: 1, .. }), "{cut}");
}

/// Everything that crossed the wire in an exchange of a pattern.
fn wire_of(listeners: &[Listener]) -> Vec<u8> {
    let addresses: Vec<String> = listeners.iter().map(|listener| listener.local_addr().to_string()).collect();
    let between = Between::new(addresses[0].clone(), |_| true);
    let detour = [between.address.clone(), addresses[1].clone()];
    each_rank(2, |rank| {
        let job = "a-job-that-nobody-else-should-know".to_owned();
        let mut group = connect_as(&listeners[rank], &Membership { job, ..membership(rank, &detour) }).unwrap();
        let mut values = vec![f32::from_le_bytes(*b"MEDL"); 1_000];
        group.all_gather(&values.clone(), &mut [&mut values, &mut vec![0.0; 1_000]]).unwrap();
    });
    between.seen.lock().unwrap().clone()
}

#[test]
fn nothing_of_a_group_can_be_read_on_the_wire() {
    let patterns = [&b"a-job-that-nobody-else-should-know"[..], b"MEDLMEDLMEDL", b"MEDLEYDP", b"MDLF"];
    let shown = |wire: &[u8], pattern: &[u8]| wire.windows(pattern.len()).any(|window| window == pattern);
    let plain: Vec<Listener> = (0..2).map(|_| Listener::bind(ANY_PORT).unwrap()).collect();
    let wire = wire_of(&plain);
    assert!(patterns.iter().all(|pattern| shown(&wire, pattern)), "the watcher sees what is not encrypted");
    let (encrypted, _) = listeners(2);
    let wire = wire_of(&encrypted);
    assert!(wire.len() > 8_000, "the watcher sees the exchange");
    for pattern in patterns {
        assert!(!shown(&wire, pattern), "{} can be read", String::from_utf8_lossy(pattern));
    }
}
