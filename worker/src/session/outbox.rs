//! Reports that no coordinator has acknowledged yet.

use medley_common::proto::WorkerMessage;
use medley_common::proto::worker_message::Body as Report;
use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// Reports that may wait for the coordinator before training waits for it.
pub const MOST_WAITING: usize = 100_000;

/// Reports are numbered from 1 and kept until a coordinator acknowledges them, which it does once what follows from them is
/// in its store. What one merely received is lost with it: the next one gets it again, in order.
#[derive(Debug, Default)]
pub struct Outbox {
    state: Mutex<State>,
    /// Tells the line that there is something to send.
    pub written: Notify,
    /// Tells the training thread that there is room, or that there never will be.
    acknowledged: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<WorkerMessage>,
    /// Of the last report that was written.
    sequence: u64,
    closed: bool,
}

impl Outbox {
    /// Keeps a report. Waits where too many wait already; returns false where nobody will ever read it.
    pub fn write(&self, generation: u64, report: Report) -> bool {
        let mut state = self.lock();
        while state.waiting.len() >= MOST_WAITING && !state.closed {
            // Whether the coordinator comes back in time is the line's to judge: it closes the outbox.
            state = self.acknowledged.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.closed {
            return false;
        }
        state.sequence += 1;
        let sequence = state.sequence;
        let message = WorkerMessage { worker: String::new(), generation, sequence, body: Some(report) };
        state.waiting.push_back(message);
        drop(state);
        self.written.notify_one();
        true
    }

    /// The first report after number `sent`.
    pub fn after(&self, sent: u64) -> Option<WorkerMessage> {
        let state = self.lock();
        let first = state.waiting.front()?.sequence;
        let place = usize::try_from((sent + 1).saturating_sub(first)).ok()?;
        state.waiting.get(place).cloned()
    }

    /// Drops reports that will not be asked for again.
    pub fn acknowledge(&self, sequence: u64) {
        let mut state = self.lock();
        while state.waiting.front().is_some_and(|message| message.sequence <= sequence) {
            state.waiting.pop_front();
        }
        drop(state);
        self.acknowledged.notify_all();
    }

    /// Nothing will be sent any more.
    pub fn close(&self) {
        self.lock().closed = true;
        self.acknowledged.notify_all();
    }

    /// Waits until everything is acknowledged, nothing can be any more, or the time is over.
    pub fn wait_empty(&self, patience: Duration) {
        let started = Instant::now();
        let mut state = self.lock();
        while !state.waiting.is_empty() && !state.closed {
            let Some(remaining) = patience.checked_sub(started.elapsed()) else {
                return;
            };
            state = self.acknowledged.wait_timeout(state, remaining).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use medley_common::proto::Heartbeat;
    use std::sync::Arc;

    fn report(step: u64) -> Report {
        Report::Heartbeat(Heartbeat { step })
    }

    #[test]
    fn reports_stay_until_they_are_acknowledged() {
        let outbox = Outbox::default();
        for step in 1..=4 {
            assert!(outbox.write(7, report(step)));
        }
        let sequence = |sent| outbox.after(sent).map(|message| message.sequence);
        assert_eq!([0, 1, 3, 4].map(sequence), [Some(1), Some(2), Some(4), None]);
        outbox.acknowledge(2);
        // Where a connection begins anew, at whatever it last heard, everything else is sent again.
        assert_eq!([0, 2, 3, 4].map(sequence), [Some(3), Some(3), Some(4), None]);
        assert_eq!(outbox.after(2).unwrap().body, Some(report(3)));
        outbox.acknowledge(9);
        outbox.wait_empty(Duration::from_secs(60));
        assert_eq!(sequence(0), None);
    }

    #[test]
    fn a_full_outbox_waits_for_room_or_the_end() {
        let outbox = Arc::new(Outbox::default());
        (0..MOST_WAITING).for_each(|_| assert!(outbox.write(1, report(0))));
        let writer = |outbox: &Arc<Outbox>| {
            let outbox = Arc::clone(outbox);
            std::thread::spawn(move || outbox.write(1, report(1)))
        };
        let waiting = writer(&outbox);
        outbox.acknowledge(1);
        assert!(waiting.join().unwrap());
        let waiting = writer(&outbox);
        outbox.close();
        assert!(!waiting.join().unwrap(), "a report after the end is lost, and nobody waits for it");
    }
}
