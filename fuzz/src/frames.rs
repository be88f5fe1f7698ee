//! The data plane: what a worker reads from whoever dials its port, and from the members of its group. The first byte
//! chooses what the rest is: a hello, a verdict, or calls and the frames that answer them.

use crate::one_line::assert_one_line;
use medley_worker::collective::fuzzing::{self, Call};

const SEALED: u8 = 4;
/// Of a description of a call: operation, sequence number, floats.
const CALL_BYTES: usize = 3;

/// Reads the input as a worker would; what is accepted is what a worker sends, to the byte.
pub fn check(input: &[u8]) -> bool {
    let [kind, rest @ ..] = input else { return false };
    match kind & 3 {
        0 => read_hello(rest),
        1 => match fuzzing::verdict(rest) {
            Ok(()) => rest.first() == Some(&0),
            Err(error) => {
                assert_one_line(&error);
                false
            }
        },
        _ => read_frames(rest, kind & SEALED != 0),
    }
}

fn read_hello(wire: &[u8]) -> bool {
    match fuzzing::hello(wire) {
        Ok(encoded) => {
            assert!(wire.starts_with(&encoded), "accepted a hello that no worker sends");
            true
        }
        Err(error) => {
            assert_one_line(&error);
            false
        }
    }
}

fn read_frames(rest: &[u8], is_sealed: bool) -> bool {
    let [count, rest @ ..] = rest else { return false };
    let Some((described, wire)) = rest.split_at_checked(CALL_BYTES * usize::from(count % 8)) else { return false };
    let calls: Vec<Call> = described
        .chunks_exact(CALL_BYTES)
        .map(|call| Call { kind: call[0], sequence: call[1].into(), floats: call[2].into() })
        .collect();
    let mut wire = wire.to_vec();
    if is_sealed {
        // With checksums that hold, so that what stands behind them is reached.
        fuzzing::seal(&mut wire);
    }
    match fuzzing::frames(&calls, &wire) {
        Ok(payloads) => {
            assert_eq!(payloads.len(), calls.len());
            for (payload, call) in payloads.iter().zip(&calls) {
                assert_eq!(payload.len(), call.floats);
            }
            !calls.is_empty()
        }
        Err(error) => {
            assert_one_line(&error);
            false
        }
    }
}
