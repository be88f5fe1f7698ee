//! The operations over TCP links.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use super::formation::form;
use super::frame::{self, Expected, HEADER_BYTES, Header, Kind, Origin};
use super::link::Board;
use super::listener::{Door, Listener};
use super::{AbortHandle, Collective, CollectiveError, Membership, Options, Traffic, TrafficMeter, check_parts, shard};

/// How long a dropped group waits for its last frames to be taken by the others.
const DRAIN_PATIENCE: Duration = Duration::from_secs(2);

/// A group of worker processes, each linked with each other by one TCP connection.
///
/// Per call and worker nothing crosses the wire twice: an all-to-all or all-gather sends what the others need, an
/// all-reduce of n floats sends 2(W-1)/W·n. To each float's 4 bytes come [`HEADER_BYTES`] per message.
#[derive(Debug)]
pub struct TcpCollective {
    rank: usize,
    world_size: usize,
    generation: u64,
    job: u64,
    deadline: Duration,
    max_frame_bytes: u64,
    /// Number of collective calls so far; names the call on the wire.
    sequence: u64,
    /// The first failure, which every later call repeats.
    broken: Option<CollectiveError>,
    /// Frames to reuse once their writers have let go of them.
    frames: Vec<Arc<Vec<u8>>>,
    /// This rank's own addends in an all-reduce, kept for their memory.
    addends: Vec<f32>,
    traffic: TrafficMeter,
    board: Arc<Board>,
    threads: Vec<JoinHandle<()>>,
    door: Arc<Door>,
    abort: AbortHandle,
}

impl TcpCollective {
    /// Forms the group of `membership`: dials the lower ranks and is dialled by the higher ones through `listener`,
    /// which serves one group at a time and must be the one whose address the others were told. Returns once this
    /// rank is linked with all others.
    ///
    /// # Errors
    /// [`CollectiveError::Deadline`] when a rank did not appear, [`CollectiveError::Handshake`] when what answered is
    /// of another job, of a newer generation, or does not know the secret, [`CollectiveError::Aborted`] when `abort`
    /// was used meanwhile.
    pub fn connect(
        listener: &Listener,
        membership: &Membership,
        options: &Options,
        abort: AbortHandle,
    ) -> Result<Self, CollectiveError> {
        membership.check()?;
        let door = Arc::clone(&listener.door);
        let links = form(&door, membership, options, &abort)?;
        let digest = Sha256::digest(membership.job.as_bytes());
        let job = digest.iter().take(8).fold(0, |number, &byte| (number << 8) | u64::from(byte));
        let world_size = membership.addresses.len();
        let origins: Vec<Origin> = (0..world_size)
            .map(|rank| Origin {
                source: wire_rank(rank),
                job,
                generation: membership.generation,
                limit: options.max_frame_bytes,
            })
            .collect();
        let (board, threads) = Board::start(links, &origins).inspect_err(|_| door.close_group())?;
        let aborted = Arc::downgrade(&board);
        abort.on_abort(move |reason| {
            if let Some(board) = aborted.upgrade() {
                board.abort(reason);
            }
        });
        Ok(Self {
            rank: membership.rank,
            world_size,
            generation: membership.generation,
            job,
            deadline: options.deadline,
            max_frame_bytes: options.max_frame_bytes,
            sequence: 0,
            broken: None,
            frames: Vec::new(),
            addends: Vec::new(),
            traffic: TrafficMeter::default(),
            board,
            threads,
            door,
            abort,
        })
    }

    /// Runs one collective call: fails at once when the group is broken, and breaks it when the call fails.
    fn call(
        &mut self,
        operation: &'static str,
        body: impl FnOnce(&mut Self, Call) -> Result<(), CollectiveError>,
    ) -> Result<(), CollectiveError> {
        self.abort.check()?;
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        self.sequence += 1;
        let call = Call { operation, sequence: self.sequence, started: Instant::now() };
        let done = self.board.check().and_then(|()| body(self, call));
        if let Err(error) = &done {
            self.broken = Some(error.clone());
        }
        done
    }

    /// The other ranks, starting behind this one, so that not everybody sends to the same rank first.
    fn others(&self) -> impl Iterator<Item = usize> + use<> {
        let (rank, world_size) = (self.rank, self.world_size);
        (1..world_size).map(move |step| (rank + step) % world_size)
    }

    /// Announces a message of `floats` floats from `rank`.
    fn expect(&self, call: Call, kind: Kind, rank: usize, floats: usize) {
        let length = frame::payload_bytes(floats);
        self.board.expect(rank, Expected { kind, sequence: call.sequence, length });
    }

    /// Builds a frame, in a used buffer where one is free.
    fn frame(&mut self, call: Call, kind: Kind, payload: &[f32]) -> Arc<Vec<u8>> {
        let bytes = HEADER_BYTES + size_of_val(payload);
        let free = self.frames.iter_mut().map(|frame| Arc::get_mut(frame).map(|free| free.capacity()));
        let mut frame = match frame::best_fit(free, bytes) {
            Some(index) => self.frames.swap_remove(index),
            None => Arc::default(),
        };
        let header = Header {
            kind,
            source: wire_rank(self.rank),
            job: self.job,
            generation: self.generation,
            sequence: call.sequence,
            length: 0,
            checksum: 0,
        };
        frame::encode(Arc::get_mut(&mut frame).expect("nobody else holds a free or new frame"), header, payload);
        self.frames.push(Arc::clone(&frame));
        frame
    }

    fn send(&mut self, rank: usize, frame: Arc<Vec<u8>>) {
        self.traffic.total.sent += frame.len() as u64;
        self.board.send(rank, frame);
    }

    /// Waits for the next message of `rank` and hands its payload to `take`.
    fn receive(&mut self, call: Call, rank: usize, take: impl FnOnce(&[u8])) -> Result<(), CollectiveError> {
        let payload = self.board.receive(rank, call.operation, call.started, self.deadline)?;
        self.traffic.total.received += (HEADER_BYTES + payload.len()) as u64;
        take(&payload);
        self.board.recycle(rank, payload);
        Ok(())
    }

    /// Refuses messages that the others would refuse.
    fn check_size(&self, operation: &str, floats: impl IntoIterator<Item = usize>) -> Result<(), CollectiveError> {
        let largest = frame::payload_bytes(floats.into_iter().max().unwrap_or(0));
        if largest > self.max_frame_bytes {
            return Err(CollectiveError::Argument(format!(
                "{operation}: a part has {largest} bytes, above the limit of {} (max_frame_bytes)",
                self.max_frame_bytes
            )));
        }
        Ok(())
    }
}

/// The collective call in progress.
#[derive(Debug, Clone, Copy)]
struct Call {
    operation: &'static str,
    sequence: u64,
    started: Instant,
}

impl Collective for TcpCollective {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world_size(&self) -> usize {
        self.world_size
    }

    fn generation(&self) -> u64 {
        self.generation
    }

    fn set_deadline(&mut self, deadline: Duration) {
        self.deadline = deadline;
    }

    fn all_to_all(&mut self, send: &[&[f32]], receive: &mut [&mut [f32]]) -> Result<(), CollectiveError> {
        let mine = send.get(self.rank).copied().unwrap_or_default();
        check_parts("all_to_all", self.world_size, mine, send.len(), receive, self.rank)?;
        self.check_size("all_to_all", send.iter().map(|part| part.len()).chain(receive.iter().map(|part| part.len())))?;
        self.call("all_to_all", |group, call| {
            for rank in group.others() {
                group.expect(call, Kind::AllToAll, rank, receive[rank].len());
            }
            for rank in group.others() {
                let frame = group.frame(call, Kind::AllToAll, send[rank]);
                group.send(rank, frame);
            }
            receive[group.rank].copy_from_slice(mine);
            for rank in group.others() {
                group.receive(call, rank, |payload| frame::copy_floats(payload, receive[rank]))?;
            }
            Ok(())
        })
    }

    fn all_gather(&mut self, mine: &[f32], receive: &mut [&mut [f32]]) -> Result<(), CollectiveError> {
        check_parts("all_gather", self.world_size, mine, self.world_size, receive, self.rank)?;
        self.check_size("all_gather", receive.iter().map(|part| part.len()))?;
        self.call("all_gather", |group, call| {
            for rank in group.others() {
                group.expect(call, Kind::AllGather, rank, receive[rank].len());
            }
            if group.world_size > 1 {
                let frame = group.frame(call, Kind::AllGather, mine);
                for rank in group.others() {
                    group.send(rank, Arc::clone(&frame));
                }
            }
            receive[group.rank].copy_from_slice(mine);
            for rank in group.others() {
                group.receive(call, rank, |payload| frame::copy_floats(payload, receive[rank]))?;
            }
            Ok(())
        })
    }

    fn all_reduce_sum(&mut self, values: &mut [f32]) -> Result<(), CollectiveError> {
        let (length, world_size) = (values.len(), self.world_size);
        let slice_of = |rank| shard(length, world_size, rank);
        self.check_size("all_reduce_sum", [slice_of(0).len()])?;
        if world_size == 1 {
            return self.call("all_reduce_sum", |_, _| Ok(()));
        }
        self.call("all_reduce_sum", |group, call| {
            let own = slice_of(group.rank);
            for rank in group.others() {
                group.expect(call, Kind::ReduceScatter, rank, own.len());
                group.expect(call, Kind::ReduceGather, rank, slice_of(rank).len());
            }
            for rank in group.others() {
                let frame = group.frame(call, Kind::ReduceScatter, &values[slice_of(rank)]);
                group.send(rank, frame);
            }
            let mut addends = std::mem::take(&mut group.addends);
            addends.clear();
            addends.extend_from_slice(&values[own.clone()]);
            let sum = &mut values[own.clone()];
            for rank in 0..world_size {
                if rank == group.rank {
                    if rank > 0 {
                        sum.iter_mut().zip(&addends).for_each(|(sum, addend)| *sum += addend);
                    }
                } else if rank == 0 {
                    group.receive(call, rank, |payload| frame::copy_floats(payload, sum))?;
                } else {
                    group.receive(call, rank, |payload| frame::add_floats(payload, sum))?;
                }
            }
            group.addends = addends;
            let frame = group.frame(call, Kind::ReduceGather, &values[own]);
            for rank in group.others() {
                group.send(rank, Arc::clone(&frame));
            }
            for rank in group.others() {
                group.receive(call, rank, |payload| frame::copy_floats(payload, &mut values[slice_of(rank)]))?;
            }
            Ok(())
        })
    }

    fn barrier(&mut self) -> Result<(), CollectiveError> {
        self.call("barrier", |group, call| {
            for rank in group.others() {
                group.expect(call, Kind::Barrier, rank, 0);
            }
            let frame = group.frame(call, Kind::Barrier, &[]);
            for rank in group.others() {
                group.send(rank, Arc::clone(&frame));
            }
            group.others().try_for_each(|rank| group.receive(call, rank, |_| ()))
        })
    }

    fn abort_handle(&self) -> AbortHandle {
        self.abort.clone()
    }

    fn bytes_sent(&self) -> u64 {
        self.traffic.total.sent
    }

    fn bytes_received(&self) -> u64 {
        self.traffic.total.received
    }

    fn take_traffic(&mut self) -> Traffic {
        self.traffic.take()
    }
}

impl Drop for TcpCollective {
    fn drop(&mut self) {
        self.door.close_group();
        if self.broken.is_none() {
            self.board.drain(DRAIN_PATIENCE);
        }
        self.board.finish(std::mem::take(&mut self.threads));
    }
}

fn wire_rank(rank: usize) -> u16 {
    u16::try_from(rank).expect("a validated membership has at most 65535 ranks")
}
