//! What reads a stranger's bytes, without a socket: for the fuzz targets of the top folder `fuzz/` alone. Always
//! compiled, since a cargo feature would have the tests build the worker a second time; nothing else calls it.

use super::frame::{self, Expected, HEADER_BYTES, Header, Kind, Origin};
use super::handshake::{self, HandshakeError};
use super::hello::Hello;
use super::link::Board;
use super::{CollectiveError, Membership};

/// A call that a rank is in: what it expects of the other rank.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    /// Which message of which operation, modulo their number.
    pub kind: u8,
    /// Sequence number of the call.
    pub sequence: u64,
    /// Floats that the other rank sends.
    pub floats: usize,
}

impl Call {
    fn expected(self) -> Expected {
        let kind = Kind::ALL[usize::from(self.kind) % Kind::ALL.len()];
        Expected { kind, sequence: self.sequence, length: frame::payload_bytes(self.floats) }
    }
}

/// The rank, of two, whose bytes are read.
const SOURCE: usize = 1;
const JOB: u64 = 7;
const GENERATION: u64 = 4;
/// Largest payload, in bytes.
const LIMIT: u64 = 1 << 20;

/// Reads a hello and checks it as an acceptor does; what a worker would have sent for it.
///
/// # Errors
/// Why it is refused.
pub fn hello(mut wire: &[u8]) -> Result<Vec<u8>, HandshakeError> {
    let own = Membership {
        job: "toys".to_owned(),
        generation: GENERATION,
        rank: 0,
        addresses: vec![String::new(); 3],
        secret: b"secret".to_vec(),
    };
    let hello = Hello::read(&mut wire)?;
    hello.check(&own)?;
    hello.check_direction(&own)?;
    Ok(hello.encode())
}

/// Reads an acceptor's verdict.
///
/// # Errors
/// That it is a refusal, or none.
pub fn verdict(mut wire: &[u8]) -> Result<(), HandshakeError> {
    handshake::read_verdict(&mut wire)
}

/// Reads the frames that answer calls, in order, as the reader of a link does; their floats.
///
/// # Errors
/// Why the link breaks.
pub fn frames(calls: &[Call], mut wire: &[u8]) -> Result<Vec<Vec<f32>>, CollectiveError> {
    let (board, _no_threads) = Board::start(vec![None, None], &[])?;
    let origin = Origin { source: SOURCE as u16, job: JOB, generation: GENERATION, limit: LIMIT };
    let mut received = Vec::new();
    for call in calls {
        board.expect(SOURCE, call.expected());
        let Some(payload) = board.read_frame(SOURCE, &mut wire, &origin)? else { break };
        board.arrive(SOURCE, payload);
        let payload = board.receive(SOURCE, "a call", std::time::Instant::now(), std::time::Duration::ZERO)?;
        let mut floats = vec![0.0; call.floats];
        frame::copy_floats(&payload, &mut floats);
        received.push(floats);
        board.recycle(SOURCE, payload);
    }
    Ok(received)
}

/// What the other rank sends for a call.
pub fn frame(call: Call, payload: &[f32]) -> Vec<u8> {
    let Expected { kind, sequence, length } = call.expected();
    let header =
        Header { kind, source: SOURCE as u16, job: JOB, generation: GENERATION, sequence, length, checksum: 0 };
    let mut bytes = Vec::new();
    frame::encode(&mut bytes, header, payload);
    bytes
}

/// Mends what a mutation hardly ever gets right: magic bytes, checksums, and the fields that say whose frames they are.
pub fn seal(mut wire: &mut [u8]) {
    while let Some((head, rest)) = wire.split_first_chunk_mut::<HEADER_BYTES>() {
        let number = |start: usize| u64::from_le_bytes(std::array::from_fn(|index| head[start + index]));
        let (sequence, length) = (number(24), number(32));
        let payload = usize::try_from(length).unwrap_or(usize::MAX).min(rest.len());
        let header = Header {
            // Kinds count from 1.
            kind: Kind::ALL[usize::from(head[4].wrapping_sub(1)) % Kind::ALL.len()],
            source: SOURCE as u16,
            job: JOB,
            generation: GENERATION,
            sequence,
            length,
            checksum: crc32c::crc32c(&rest[..payload]),
        };
        *head = header.encode();
        wire = &mut rest[payload..];
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const CALL: Call = Call { kind: 2, sequence: 9, floats: 2 };

    #[test]
    fn the_doors_let_in_what_belongs() {
        let wire = [frame(CALL, &[1.0, -2.0]), frame(CALL, &[3.0, 4.0])].concat();
        assert_eq!(frames(&[CALL, CALL], &wire).unwrap(), [[1.0, -2.0], [3.0, 4.0]]);
        assert!(frames(&[CALL, CALL], &wire[..wire.len() - 1]).is_err());
        assert!(frames(&[Call { sequence: 8, ..CALL }], &wire).is_err());
        assert!(verdict(&[0]).is_ok() && verdict(&[1]).is_err());
    }

    #[test]
    fn a_seal_mends_what_was_changed() {
        let mut wire = frame(CALL, &[1.0, -2.0]);
        wire[0] ^= 1;
        wire[9] ^= 1;
        wire[HEADER_BYTES] ^= 1;
        assert!(frames(&[CALL], &wire).is_err());
        seal(&mut wire);
        assert_eq!(frames(&[CALL], &wire).unwrap().len(), 1);
    }
}
