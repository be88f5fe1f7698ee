//! The links of a group: per other rank a socket, a reader thread and a writer thread, so that everybody can send
//! large messages at once without anybody waiting for anybody. They meet the training thread on a board.
//!
//! The reader of a link reads a payload only after the training thread has posted what it expects there; until then
//! the bytes wait in the kernel, and TCP slows the sender down. The queues of a link hold at most the frames of two
//! calls without any further limit: a rank finishes a call only when all others have entered it, so nobody is ever
//! more than one call ahead.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::CollectiveError;
use super::frame::{self, Expected, HEADER_BYTES, Header, Origin};
use super::stream::Stream;
use crate::faults;

/// Where the training thread and the links' threads meet.
#[derive(Debug)]
pub(super) struct Board {
    state: Mutex<State>,
    /// Wakes the training thread: something arrived, was sent, or failed.
    progress: Condvar,
    /// Wakes the links' threads: something to read or write was posted, or the group ends.
    work: Condvar,
    /// By rank; none for the own one.
    streams: Vec<Option<Arc<Stream>>>,
}

#[derive(Debug, Default)]
struct State {
    /// By rank; the own one stays empty.
    links: Vec<Link>,
    /// Links' failures in the order in which they were noticed: the first is most likely the cause of the others.
    failures: Vec<(usize, CollectiveError)>,
    ending: Option<Ending>,
}

#[derive(Debug, Default)]
struct Link {
    /// What the training thread waits for, in order; an entry stays until its payload has arrived.
    expected: VecDeque<Expected>,
    /// Payloads that arrived, checked.
    arrived: VecDeque<Vec<u8>>,
    /// Frames to write; an entry stays until it has been written.
    outgoing: VecDeque<Arc<Vec<u8>>>,
    /// Buffers to read into.
    spare: Vec<Vec<u8>>,
}

#[derive(Debug)]
enum Ending {
    Aborted(String),
    Dropped,
}

impl Board {
    /// Starts the threads of all links. `origins` says what every frame of a rank must carry.
    pub(super) fn start(
        streams: Vec<Option<Arc<Stream>>>,
        origins: &[Origin],
    ) -> Result<(Arc<Self>, Vec<JoinHandle<()>>), CollectiveError> {
        let state = State { links: streams.iter().map(|_| Link::default()).collect(), ..State::default() };
        let board =
            Arc::new(Self { state: Mutex::new(state), progress: Condvar::new(), work: Condvar::new(), streams });
        let mut threads = Vec::new();
        let started = board.start_threads(origins, &mut threads);
        if let Err(error) = started {
            board.finish(threads);
            return Err(CollectiveError::setup(error));
        }
        Ok((board, threads))
    }

    fn start_threads(self: &Arc<Self>, origins: &[Origin], threads: &mut Vec<JoinHandle<()>>) -> io::Result<()> {
        for (rank, link) in self.streams.iter().enumerate() {
            let Some(link) = link else { continue };
            link.release()?;
            let (board, stream, origin) = (Arc::clone(self), Arc::clone(link), origins[rank]);
            threads.push(
                thread::Builder::new()
                    .name(format!("medley-read-{rank}"))
                    .spawn(move || board.read_link(rank, &stream, &origin))?,
            );
            let (board, stream) = (Arc::clone(self), Arc::clone(link));
            threads.push(
                thread::Builder::new()
                    .name(format!("medley-write-{rank}"))
                    .spawn(move || board.write_link(rank, &stream))?,
            );
        }
        Ok(())
    }

    // For the training thread.

    /// Fails if the group was aborted or any link is broken.
    pub(super) fn check(&self) -> Result<(), CollectiveError> {
        let state = self.lock();
        state.check_ending()?;
        state.failures.first().map_or(Ok(()), |(_, error)| Err(error.clone()))
    }

    /// Announces what `rank` must send next.
    pub(super) fn expect(&self, rank: usize, expected: Expected) {
        self.lock().links[rank].expected.push_back(expected);
        self.work.notify_all();
    }

    /// Queues a frame for `rank`.
    pub(super) fn send(&self, rank: usize, frame: Arc<Vec<u8>>) {
        self.lock().links[rank].outgoing.push_back(frame);
        self.work.notify_all();
    }

    /// Waits for the next expected payload of `rank`. Fails as soon as any link breaks from which something is still
    /// expected: a rank that left after it had sent all of its part is no loss to this call.
    pub(super) fn receive(
        &self,
        rank: usize,
        operation: &'static str,
        started: Instant,
        deadline: Duration,
    ) -> Result<Vec<u8>, CollectiveError> {
        let mut state = self.lock();
        loop {
            state.check_ending()?;
            if let Some(payload) = state.links[rank].arrived.pop_front() {
                return Ok(payload);
            }
            if let Some((_, error)) = state.failures.iter().find(|(lost, _)| !state.links[*lost].expected.is_empty()) {
                return Err(error.clone());
            }
            let waited = started.elapsed();
            let Some(remaining) = deadline.checked_sub(waited) else {
                let detail = "its part did not arrive; the worker hangs, or the network between us does".to_owned();
                return Err(CollectiveError::Deadline { rank, operation, waited, detail });
            };
            state = self.progress.wait_timeout(state, remaining).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Gives a payload's buffer back for the next one from `rank`.
    pub(super) fn recycle(&self, rank: usize, buffer: Vec<u8>) {
        self.lock().links[rank].spare.push(buffer);
    }

    // The end of the group.

    /// Makes every pending and later call fail with the reason.
    pub(super) fn abort(&self, reason: &str) {
        self.end(Ending::Aborted(reason.to_owned()));
    }

    /// Waits until all frames are written, since other ranks may still need them, or `patience` is used up.
    pub(super) fn drain(&self, patience: Duration) {
        let started = Instant::now();
        let mut state = self.lock();
        loop {
            let unsent = |(rank, link): (usize, &Link)| {
                !link.outgoing.is_empty() && !state.failures.iter().any(|(lost, _)| *lost == rank)
            };
            let pending = state.ending.is_none() && state.links.iter().enumerate().any(unsent);
            let Some(remaining) = patience.checked_sub(started.elapsed()).filter(|_| pending) else {
                return;
            };
            state = self.progress.wait_timeout(state, remaining).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Closes the sockets and joins the threads.
    pub(super) fn finish(&self, threads: Vec<JoinHandle<()>>) {
        self.end(Ending::Dropped);
        for thread in threads {
            let _ = thread.join();
        }
    }

    fn end(&self, ending: Ending) {
        self.lock().ending.get_or_insert(ending);
        for stream in self.streams.iter().flatten() {
            // Wakes the threads that sleep in a read or write.
            stream.shutdown();
        }
        self.work.notify_all();
        self.progress.notify_all();
    }

    // The links' threads.

    fn read_link(&self, rank: usize, mut stream: &Stream, origin: &Origin) {
        while let Some(frame) = self.read_frame(rank, &mut stream, origin).transpose() {
            match frame {
                Ok(payload) => self.arrive(rank, payload),
                Err(error) => return self.fail(rank, error),
            }
        }
    }

    /// Hands the payload that was expected first to the training thread.
    pub(super) fn arrive(&self, rank: usize, payload: Vec<u8>) {
        let mut state = self.lock();
        state.links[rank].expected.pop_front();
        state.links[rank].arrived.push_back(payload);
        drop(state);
        self.progress.notify_all();
    }

    /// Reads the next frame once it is expected; none when the group ends.
    pub(super) fn read_frame(
        &self,
        rank: usize,
        stream: &mut impl Read,
        origin: &Origin,
    ) -> Result<Option<Vec<u8>>, CollectiveError> {
        let protocol = |what: String| CollectiveError::Protocol { rank, what };
        let mut header = [0; HEADER_BYTES];
        stream.read_exact(&mut header).map_err(|error| CollectiveError::lost(rank, error))?;
        let header = Header::decode(&header).map_err(|error| protocol(error.to_string()))?;
        origin.check(&header).map_err(protocol)?;
        let Some(expected) = self.next_expected(rank) else {
            return Ok(None);
        };
        expected.check(&header).map_err(protocol)?;
        let length = usize::try_from(header.length)
            .map_err(|_| protocol(format!("{} bytes do not fit this machine", header.length)))?;
        let mut payload = self.buffer(rank, length);
        payload.resize(length, 0);
        stream.read_exact(&mut payload).map_err(|error| CollectiveError::lost(rank, error))?;
        let checksum = crc32c::crc32c(&payload) ^ faults::corruption();
        if checksum != header.checksum {
            return Err(protocol(format!(
                "{} #{}: the payload has checksum {checksum:08x}, its header says {:08x}; it was corrupted on the way",
                header.kind.name(),
                header.sequence,
                header.checksum
            )));
        }
        Ok(Some(payload))
    }

    /// Waits until the training thread expects something of `rank`; none when the group ends.
    fn next_expected(&self, rank: usize) -> Option<Expected> {
        let mut state = self.lock();
        loop {
            if state.ending.is_some() {
                return None;
            }
            if let Some(expected) = state.links[rank].expected.front() {
                return Some(*expected);
            }
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// A buffer of any length for a payload of `length` bytes from `rank`.
    fn buffer(&self, rank: usize, length: usize) -> Vec<u8> {
        let spare = &mut self.lock().links[rank].spare;
        let capacities = spare.iter().map(|buffer| Some(buffer.capacity()));
        match frame::best_fit(capacities, length) {
            Some(index) => spare.swap_remove(index),
            None => Vec::new(),
        }
    }

    fn write_link(&self, rank: usize, mut stream: &Stream) {
        while let Some(frame) = self.next_outgoing(rank) {
            if let Err(error) = stream.write_all(&frame) {
                return self.fail(rank, CollectiveError::lost(rank, error));
            }
            // Released before the entry goes, so that whoever sees the queue empty can reuse the buffer.
            drop(frame);
            self.lock().links[rank].outgoing.pop_front();
            self.progress.notify_all();
        }
    }

    fn next_outgoing(&self, rank: usize) -> Option<Arc<Vec<u8>>> {
        let mut state = self.lock();
        loop {
            if state.ending.is_some() {
                return None;
            }
            if let Some(frame) = state.links[rank].outgoing.front() {
                return Some(Arc::clone(frame));
            }
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn fail(&self, rank: usize, error: CollectiveError) {
        let mut state = self.lock();
        if state.ending.is_none() {
            tracing::debug!(rank, %error, "a link of the exchange failed");
            state.failures.push((rank, error));
        }
        drop(state);
        self.progress.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn check_ending(&self) -> Result<(), CollectiveError> {
        match &self.ending {
            None => Ok(()),
            Some(Ending::Aborted(reason)) => Err(CollectiveError::Aborted { reason: reason.clone() }),
            Some(Ending::Dropped) => unreachable!("a group is dropped by the thread that calls it"),
        }
    }
}
