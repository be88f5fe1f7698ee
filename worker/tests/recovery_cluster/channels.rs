//! A group of threads that send one another vectors, of which one rank dies at a chosen call after a chosen number of
//! its messages: every way in which a worker's death can divide the others.

use medley_worker::collective::{AbortHandle, Collective, CollectiveError, Traffic};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The death of a rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    pub rank: usize,
    /// The call at which it dies, counted from 0.
    pub call: usize,
    /// Messages of that call that it sends before, in the order of ranks.
    pub sent: usize,
}

/// Far above what a busy machine needs.
const DEADLINE: Duration = Duration::from_secs(60);

/// What a dead worker's own calls say.
pub const DEAD: &str = "this worker died";

pub struct Channels {
    rank: usize,
    generation: u64,
    to: Vec<Option<Sender<Vec<f32>>>>,
    from: Vec<Option<Receiver<Vec<f32>>>>,
    abort: AbortHandle,
    broken: Option<CollectiveError>,
    fault: Option<Fault>,
    calls: usize,
    /// The most calls that any group member made.
    most: Arc<Mutex<usize>>,
}

/// A group; the counter tells how many calls were made in it.
pub fn group(workers: usize, generation: u64, fault: Option<Fault>) -> (Vec<Channels>, Arc<Mutex<usize>>) {
    let most = Arc::new(Mutex::new(0));
    let mut ranks: Vec<Channels> = (0..workers)
        .map(|rank| Channels {
            rank,
            generation,
            to: (0..workers).map(|_| None).collect(),
            from: (0..workers).map(|_| None).collect(),
            abort: AbortHandle::new(),
            broken: None,
            fault: fault.filter(|fault| fault.rank == rank),
            calls: 0,
            most: Arc::clone(&most),
        })
        .collect();
    for one in 0..workers {
        for other in (0..workers).filter(|other| *other != one) {
            let (sender, receiver) = channel();
            ranks[one].to[other] = Some(sender);
            ranks[other].from[one] = Some(receiver);
        }
    }
    (ranks, most)
}

impl Channels {
    fn others(&self) -> impl Iterator<Item = usize> + use<> {
        let (rank, workers) = (self.rank, self.to.len());
        (0..workers).filter(move |other| *other != rank)
    }

    /// One call: a vector to each, a vector from each.
    fn exchange(&mut self, send: &[&[f32]]) -> Result<Vec<Vec<f32>>, CollectiveError> {
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        let result = self.abort.check().and_then(|()| self.attempt(send));
        if let Err(error) = &result {
            self.broken = Some(error.clone());
            // As sockets do, these close when their group breaks.
            self.to.iter_mut().for_each(|to| *to = None);
            self.from.iter_mut().for_each(|from| *from = None);
        }
        result
    }

    fn attempt(&mut self, send: &[&[f32]]) -> Result<Vec<Vec<f32>>, CollectiveError> {
        let call = self.calls;
        self.calls += 1;
        let mut most = self.most.lock().unwrap();
        *most = self.calls.max(*most);
        drop(most);
        let lost = |rank| CollectiveError::PeerLost { rank, source: Arc::new(std::io::ErrorKind::BrokenPipe.into()) };
        for (sent, rank) in self.others().enumerate() {
            if self.fault.is_some_and(|fault| (fault.call, fault.sent) == (call, sent)) {
                return Err(CollectiveError::Aborted { reason: DEAD.into() });
            }
            // A message to one that left is lost; what is missed is what it does not send.
            let _ = self.to[rank].as_ref().ok_or_else(|| lost(rank))?.send(send[rank].to_vec());
        }
        if self.fault.is_some_and(|fault| fault.call == call) {
            return Err(CollectiveError::Aborted { reason: DEAD.into() });
        }
        let mut received = vec![Vec::new(); self.to.len()];
        received[self.rank] = send[self.rank].to_vec();
        for rank in self.others() {
            let from = self.from[rank].as_ref().ok_or_else(|| lost(rank))?;
            received[rank] = from.recv_timeout(DEADLINE).map_err(|_| lost(rank))?;
        }
        Ok(received)
    }
}

impl Collective for Channels {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world_size(&self) -> usize {
        self.to.len()
    }

    fn generation(&self) -> u64 {
        self.generation
    }

    fn set_deadline(&mut self, _: Duration) {}

    fn all_to_all(&mut self, send: &[&[f32]], receive: &mut [&mut [f32]]) -> Result<(), CollectiveError> {
        let received = self.exchange(send)?;
        receive.iter_mut().zip(received).for_each(|(into, from)| into.copy_from_slice(&from));
        Ok(())
    }

    fn all_gather(&mut self, mine: &[f32], receive: &mut [&mut [f32]]) -> Result<(), CollectiveError> {
        self.all_to_all(&vec![mine; self.to.len()], receive)
    }

    fn all_reduce_sum(&mut self, values: &mut [f32]) -> Result<(), CollectiveError> {
        let received = self.exchange(&vec![&*values; self.to.len()])?;
        values.copy_from_slice(&received[0]);
        for addends in &received[1..] {
            values.iter_mut().zip(addends).for_each(|(sum, addend)| *sum += addend);
        }
        Ok(())
    }

    fn barrier(&mut self) -> Result<(), CollectiveError> {
        self.exchange(&vec![&[][..]; self.to.len()]).map(|_| ())
    }

    fn abort_handle(&self) -> AbortHandle {
        self.abort.clone()
    }

    fn bytes_sent(&self) -> u64 {
        0
    }

    fn bytes_received(&self) -> u64 {
        0
    }

    fn take_traffic(&mut self) -> Traffic {
        Traffic::default()
    }
}
