//! gRPC messages: the first byte names the type, the rest is its encoding.

use crate::one_line::assert_one_line;
use medley_common::proto;
use medley_coordinator::cluster::Report;
use medley_coordinator::server::convert;
use prost::Message;

/// Decodes the input; what is accepted has one meaning, however often it is encoded and decoded.
pub fn check(input: &[u8]) -> bool {
    let [kind, bytes @ ..] = input else { return false };
    match kind % 4 {
        0 => decode::<proto::JoinRequest>(bytes).is_some(),
        1 => decode::<proto::JoinReply>(bytes).is_some(),
        2 => decode::<proto::CoordinatorMessage>(bytes).is_some(),
        _ => match decode::<proto::WorkerMessage>(bytes) {
            Some(message) => {
                check_report(message);
                true
            }
            None => false,
        },
    }
}

fn decode<M: Message + Default>(bytes: &[u8]) -> Option<M> {
    let message = M::decode(bytes).ok()?;
    let encoded = message.encode_to_vec();
    let again = M::decode(encoded.as_slice()).expect("what was encoded can be decoded");
    // Not the messages themselves: NaN differs from NaN.
    assert_eq!(again.encode_to_vec(), encoded, "another meaning the second time");
    Some(message)
}

fn check_report(message: proto::WorkerMessage) {
    let is_empty = message.body.is_none();
    let report = convert::report(message.body);
    assert_eq!(report.is_none(), is_empty);
    if let Some(Report::Failed { message, .. }) = report {
        assert_one_line(&message);
    }
}
