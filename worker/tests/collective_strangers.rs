//! The TCP collective against whoever does not belong: strangers on the port, impostors, frames spoiled on the way.

#![allow(clippy::unwrap_used)]

mod collective_group;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;

use collective_group::*;
use medley_worker::collective::{Collective, CollectiveError, HEADER_BYTES, HandshakeError, Membership, Refusal};

/// Connections that are no workers: a browser, noise, two that leave, and more silent ones than handshakes are allowed
/// at once, which stay open as long as the result lives.
fn strangers(address: &str) -> Vec<TcpStream> {
    let dial = || TcpStream::connect(address).unwrap();
    let mut browser = dial();
    browser.write_all(b"GET / HTTP/1.1\r\nHost: medley\r\n\r\n").unwrap();
    assert_closed(browser);
    let mut noise = dial();
    // May be turned away before it has sent all of it.
    let _ = noise.write_all(&[0xa5; 5_000]);
    assert_closed(noise);
    let mut half = dial();
    half.write_all(b"MEDLEYDP\x01").unwrap();
    drop(half);
    drop(dial());
    (0..100).map(|_| dial()).collect()
}

fn assert_closed(mut stream: TcpStream) {
    stream.set_read_timeout(Some(LONG)).unwrap();
    match stream.read(&mut [0; 64]) {
        Ok(0) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        other => panic!("the stranger was not turned away: {other:?}"),
    }
}

/// Dials with a membership that is not the group's; why it was refused.
fn intrude(wrong: &Membership) -> Refusal {
    let listener = bind();
    match connect_as(&listener, wrong) {
        Err(CollectiveError::Handshake { source: HandshakeError::RefusedByPeer { refusal, .. }, .. }) => refusal,
        other => panic!("not refused: {other:?}"),
    }
}

/// Every kind of worker that does not belong to the group of rank 0, with the refusal it must get there.
fn impostors(addresses: &[String]) -> [(Membership, Refusal); 4] {
    let base = membership(1, addresses);
    let bigger = [addresses, &addresses[..1]].concat();
    [
        (Membership { job: "another".to_owned(), ..base.clone() }, Refusal::Job),
        (Membership { generation: 6, ..base.clone() }, Refusal::Generation),
        (Membership { secret: b"guessed".to_vec(), ..base.clone() }, Refusal::Secret),
        (Membership { addresses: bigger, ..base }, Refusal::WorldSize),
    ]
}

#[test]
fn strangers_hinder_neither_the_formation_nor_the_work() {
    let (listeners, addresses) = listeners(3);
    let formed = Gate::default();
    let visited = Gate::default();
    let rank = |rank: usize| {
        let mut group = connect(&listeners[rank], rank, &addresses).unwrap();
        formed.arrive();
        group.barrier().unwrap();
        visited.wait_for(1);
        assert_eq!(all_gather(&mut group, |_| 10).unwrap()[2], part(2, 0, 10));
    };
    let rank = &rank;
    thread::scope(|scope| {
        // Rank 0 is alone and in formation for the first round, in a standing group for the second.
        scope.spawn(move || rank(0));
        let during = strangers(&addresses[0]);
        for (wrong, refusal) in impostors(&addresses) {
            assert_eq!(intrude(&wrong), refusal);
        }
        scope.spawn(move || rank(1));
        scope.spawn(move || rank(2));
        formed.wait_for(3);
        let after = strangers(&addresses[0]);
        for (wrong, refusal) in impostors(&addresses) {
            assert_eq!(intrude(&wrong), refusal);
        }
        let twin = membership(1, &addresses);
        assert_eq!(intrude(&twin), Refusal::Duplicate, "it knows everything, but comes second");
        visited.arrive();
        drop((during, after));
    });
}

#[test]
fn a_dialler_refuses_what_does_not_know_the_secret() {
    let (listeners, addresses) = listeners(2);
    thread::scope(|scope| {
        let ignorant = Membership { secret: b"guessed".to_vec(), ..membership(0, &addresses) };
        let abort = medley_worker::collective::AbortHandle::new();
        let handle = abort.clone();
        let listener = &listeners[0];
        let acceptor = scope.spawn(move || {
            let options = Default::default();
            medley_worker::collective::TcpCollective::connect(listener, &ignorant, &options, handle)
        });
        let error = connect(&listeners[1], 1, &addresses).unwrap_err();
        assert!(matches!(error, CollectiveError::Handshake { rank: 0, .. }), "{error}");
        abort.abort("nobody else comes");
        acceptor.join().unwrap().unwrap_err();
    });
}

#[test]
fn a_silent_connection_is_closed_also_when_no_group_forms() {
    let (_listeners, addresses) = listeners(1);
    assert_closed(TcpStream::connect(&addresses[0]).unwrap());
}

/// Changes a frame.
type Spoil = fn(&mut [u8]);

/// Stands between rank 1 and rank 0: passes everything on, after `spoil` has changed rank 1's first frame, which has
/// 100 floats.
fn proxy(target: String, spoil: Spoil) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        // The dialler may try more than once.
        while let Ok((near, _)) = listener.accept() {
            let _ = pass(near, TcpStream::connect(&target).unwrap(), spoil);
        }
    });
    address
}

fn pass(mut near: TcpStream, mut far: TcpStream, spoil: Spoil) -> std::io::Result<()> {
    let (mut back_from, mut back_to) = (far.try_clone()?, near.try_clone()?);
    let back = thread::spawn(move || {
        let _ = std::io::copy(&mut back_from, &mut back_to);
        let _ = back_to.shutdown(Shutdown::Both);
    });
    let there = (|| {
        let mut handshake = [0; 60 + "test".len() + 32];
        for bytes in [60 + "test".len(), 32] {
            near.read_exact(&mut handshake[..bytes])?;
            far.write_all(&handshake[..bytes])?;
        }
        let mut frame = [0; HEADER_BYTES + 4 * 100];
        near.read_exact(&mut frame)?;
        spoil(&mut frame);
        far.write_all(&frame)?;
        std::io::copy(&mut near, &mut far)
    })();
    let _ = far.shutdown(Shutdown::Both);
    let _ = back.join();
    there.map(drop)
}

/// What rank 0 makes of an all-gather in which rank 1's frame is spoiled on the way.
fn gather_through(spoil: Spoil) -> Result<(), CollectiveError> {
    let (listeners, addresses) = listeners(2);
    let detour = [proxy(addresses[0].clone(), spoil), addresses[1].clone()];
    let outcomes = each_rank(2, |rank| {
        let mut group = connect(&listeners[rank], rank, &detour).unwrap();
        let gathered = all_gather(&mut group, |_| 100)?;
        assert_eq!(gathered, [part(0, 0, 100), part(1, 0, 100)]);
        group.barrier()
    });
    outcomes.into_iter().next().unwrap()
}

/// Seals a header again after a field was changed, so that the field itself must be noticed.
fn reseal(frame: &mut [u8], field: usize, value: u64) {
    frame[field..field + 8].copy_from_slice(&value.to_le_bytes());
    let checksum = crc32c::crc32c(&frame[..HEADER_BYTES - 4]);
    frame[HEADER_BYTES - 4..HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
}

#[test]
fn frames_spoiled_on_the_way_are_refused_by_name() {
    gather_through(|_| {}).unwrap();
    let cases: [(&str, Spoil); 8] = [
        ("payload has checksum", |frame| frame[HEADER_BYTES + 123] ^= 1),
        ("header fails its checksum", |frame| frame[33] ^= 1),
        ("magic", |frame| frame[0] = b'G'),
        ("another job", |frame| reseal(frame, 8, 1)),
        ("generation 6", |frame| reseal(frame, 16, 6)),
        ("all_gather #9", |frame| reseal(frame, 24, 9)),
        // An exabyte, which would end the process were it allocated.
        ("above the limit", |frame| reseal(frame, 32, 1 << 60)),
        ("500000000 bytes where 400 are expected", |frame| reseal(frame, 32, 500_000_000)),
    ];
    for (word, spoil) in cases {
        let error = gather_through(spoil).unwrap_err();
        assert!(
            matches!(&error, CollectiveError::Protocol { rank: 1, what } if what.contains(word)),
            "{word}: {error}"
        );
    }
}
