//! What will happen, in the order of its time.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

/// Simulated time, in microseconds since the job began.
pub type Time = u64;

/// A millisecond of simulated time.
pub const MILLISECOND: Time = 1_000;

/// A second of simulated time.
pub const SECOND: Time = 1_000 * MILLISECOND;

/// Things that will happen. What is to happen at the same time happens in the order in which it was decided.
#[derive(Debug)]
pub struct Queue<T> {
    heap: BinaryHeap<Reverse<Entry<T>>>,
    decided: u64,
}

#[derive(Debug)]
struct Entry<T> {
    at: Time,
    number: u64,
    what: T,
}

impl<T> Queue<T> {
    /// Nothing.
    pub fn new() -> Self {
        Self { heap: BinaryHeap::new(), decided: 0 }
    }

    /// Lets something happen.
    pub fn push(&mut self, at: Time, what: T) {
        self.decided += 1;
        self.heap.push(Reverse(Entry { at, number: self.decided, what }));
    }

    /// What happens next.
    pub fn pop(&mut self) -> Option<(Time, T)> {
        self.heap.pop().map(|Reverse(entry)| (entry.at, entry.what))
    }
}

impl<T> PartialEq for Entry<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<T> Eq for Entry<T> {}

impl<T> PartialOrd for Entry<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Entry<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}
