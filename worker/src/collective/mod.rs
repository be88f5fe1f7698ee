//! The data plane: what the workers of a job send one another during a step.
//!
//! In reading order:
//! - this file: [`Collective`], the operations that training needs, whatever carries them;
//! - [`local`](LocalCollective): the group of one, which sends nothing;
//! - `tcp`: [`TcpCollective`], the operations over links between worker processes;
//! - `link`: a link's reader and writer thread, and the board on which they meet the training thread;
//! - `stream`: the connection below a link, plain or encrypted;
//! - `frame`: what a message looks like on the wire, and how floats become bytes;
//! - `formation`: who dials whom until the group stands ([`Membership`], [`Options`]);
//! - `listener`: the open port, and the refusal of whoever does not belong ([`Listener`]);
//! - `handshake`, `hello`: how two workers prove that they belong to the same job and generation;
//! - `abort`: [`AbortHandle`], stopping a group from another thread;
//! - `fuzzing`: what reads a stranger's bytes, for the fuzz targets;
//! - `error`: [`CollectiveError`].
//!
//! Invariants:
//! - No wait is endless: every call ends within its deadline, or at once when the group was aborted.
//! - Nothing is allocated for a length that a stranger or a broken peer claims: a frame's payload is read only after
//!   its header equals what this rank itself expects next from that rank.
//! - Sums run in rank order whatever arrives first, so all ranks hold the same bits, run after run.
//! - A group that failed stays failed: a new generation needs a new group.

mod abort;
mod error;
mod formation;
mod frame;
#[doc(hidden)]
pub mod fuzzing;
mod handshake;
mod hello;
mod link;
mod listener;
mod local;
mod stream;
mod tcp;

use std::time::Duration;

pub use abort::AbortHandle;
pub use error::CollectiveError;
pub use formation::{Membership, Options};
pub use frame::HEADER_BYTES;
pub use handshake::{HandshakeError, Refusal};
pub use listener::Listener;
pub use local::LocalCollective;
pub use tcp::TcpCollective;

/// The operations between the workers of a group. Every rank calls the same operations in the same order from one
/// thread; each call blocks until this rank's part is done. World sizes and lengths are in ranks and floats.
///
/// After an error other than [`CollectiveError::Argument`] the group is unusable and the contents of receive buffers
/// are unspecified: drop it and form the next generation.
pub trait Collective: Send {
    /// This worker's rank, 0-based.
    fn rank(&self) -> usize;

    /// Number of workers in the group.
    fn world_size(&self) -> usize;

    /// The generation of the membership that this group was formed for.
    fn generation(&self) -> u64;

    /// Bounds every later call; the default is [`Options::deadline`].
    fn set_deadline(&mut self, deadline: Duration);

    /// Sends `send[r]` to rank r and receives rank r's part for this rank into `receive[r]`; both have one entry per
    /// rank, of any lengths, empty ones included. `receive[r]` must be as long as what rank r sends here. The own
    /// part is copied.
    fn all_to_all(&mut self, send: &[&[f32]], receive: &mut [&mut [f32]]) -> Result<(), CollectiveError>;

    /// Receives every rank's `mine` into `receive[rank]`, own part included. The lengths may differ from rank to
    /// rank; `receive[r]` must be as long as rank r's `mine`.
    fn all_gather(&mut self, mine: &[f32], receive: &mut [&mut [f32]]) -> Result<(), CollectiveError>;

    /// Replaces `values`, of the same length on every rank, by the sum over all ranks. Each element is summed in f32
    /// in the order of the ranks, so that every rank ends with the same bits.
    fn all_reduce_sum(&mut self, values: &mut [f32]) -> Result<(), CollectiveError>;

    /// Returns once every rank has called it.
    fn barrier(&mut self) -> Result<(), CollectiveError>;

    /// A handle by which another thread makes every pending and later call fail.
    fn abort_handle(&self) -> AbortHandle;

    /// Bytes sent to other ranks since the group formed, frame headers included.
    fn bytes_sent(&self) -> u64;

    /// Bytes received from other ranks since the group formed, frame headers included.
    fn bytes_received(&self) -> u64;

    /// The bytes of both directions since the last call of this method.
    fn take_traffic(&mut self) -> Traffic;
}

/// Bytes between this worker and the other ranks, frame headers included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes sent.
    pub sent: u64,
    /// Bytes received.
    pub received: u64,
}

/// Counts [`Traffic`] and what of it was already taken.
#[derive(Debug, Default)]
struct TrafficMeter {
    total: Traffic,
    taken: Traffic,
}

impl TrafficMeter {
    fn take(&mut self) -> Traffic {
        let fresh =
            Traffic { sent: self.total.sent - self.taken.sent, received: self.total.received - self.taken.received };
        self.taken = self.total;
        fresh
    }
}

/// Cuts a flat buffer into consecutive parts of the given lengths, one per rank.
///
/// # Panics
/// If the lengths do not sum up to the buffer's length.
pub fn parts<'a>(mut flat: &'a [f32], lengths: &[usize]) -> Vec<&'a [f32]> {
    assert_eq!(flat.len(), lengths.iter().sum::<usize>(), "lengths must cover the buffer");
    lengths.iter().map(|&length| flat.split_off(..length).expect("the lengths cover the buffer")).collect()
}

/// Like [`parts`], for buffers to receive into.
///
/// # Panics
/// If the lengths do not sum up to the buffer's length.
pub fn parts_mut<'a>(mut flat: &'a mut [f32], lengths: &[usize]) -> Vec<&'a mut [f32]> {
    assert_eq!(flat.len(), lengths.iter().sum::<usize>(), "lengths must cover the buffer");
    lengths.iter().map(|&length| flat.split_off_mut(..length).expect("the lengths cover the buffer")).collect()
}

/// The slice of `length` elements for which `rank` answers: consecutive, in rank order, lengths differing by at most
/// one. Used by the all-reduce, and good for any even sharding of rows.
pub fn shard(length: usize, world_size: usize, rank: usize) -> std::ops::Range<usize> {
    let (quotient, remainder) = (length / world_size, length % world_size);
    let start = rank * quotient + rank.min(remainder);
    start..start + quotient + usize::from(rank < remainder)
}

/// Refuses part lists that do not have one entry per rank, or own parts of two lengths.
fn check_parts(
    operation: &str,
    world_size: usize,
    mine: &[f32],
    sent: usize,
    receive: &[&mut [f32]],
    rank: usize,
) -> Result<(), CollectiveError> {
    if sent != world_size || receive.len() != world_size {
        return Err(CollectiveError::Argument(format!(
            "{operation}: {sent} parts to send and {} to receive in a group of {world_size}; give one per rank",
            receive.len()
        )));
    }
    if mine.len() != receive[rank].len() {
        return Err(CollectiveError::Argument(format!(
            "{operation}: rank {rank}'s own part has {} floats to send and room for {}",
            mine.len(),
            receive[rank].len()
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_cover_everything_in_order_and_evenly() {
        for length in [0, 1, 2, 7, 8, 9, 1000] {
            for world_size in [1, 2, 3, 5, 8] {
                let shards: Vec<_> = (0..world_size).map(|rank| shard(length, world_size, rank)).collect();
                assert_eq!(shards[0].start, 0);
                assert_eq!(shards[world_size - 1].end, length);
                assert!(shards.windows(2).all(|pair| pair[0].end == pair[1].start));
                assert!(shards.iter().all(|range| range.len() - length / world_size <= 1));
            }
        }
    }

    #[test]
    fn parts_follow_the_lengths() {
        let mut flat = [1.0, 2.0, 3.0];
        assert_eq!(parts(&flat, &[0, 2, 1]), [&[][..], &[1.0, 2.0], &[3.0]]);
        parts_mut(&mut flat, &[1, 0, 2])[2][1] = 9.0;
        assert_eq!(flat, [1.0, 2.0, 9.0]);
    }
}
