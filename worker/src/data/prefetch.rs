//! What a step needs is made while the step before it computes.

use std::any::Any;
use std::ops::Range;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;

/// Why there is no next item.
#[derive(Debug, thiserror::Error)]
pub enum PrefetchError {
    /// The thread that makes items could not be started.
    #[error("cannot start the thread that builds batches: {0}")]
    Thread(#[source] std::io::Error),
    /// It panicked.
    #[error("building the batch of step {step} failed: {message}")]
    Panicked {
        /// The step, from 1.
        step: u64,
        /// What the panic said.
        message: String,
    },
    /// Every step has had its item.
    #[error("step {step} has no batch: the last one was taken")]
    Ended {
        /// The step, from 1.
        step: u64,
    },
}

/// Items of consecutive steps, made in order by a thread of its own, at most one ahead of what was taken. As an item is
/// a function of its step alone, it does not matter when it is made, nor that the last one may be made in vain.
///
/// Dropping it ends the thread, after the item in the making.
#[derive(Debug)]
pub struct Prefetch<T> {
    /// `None` once it is dropped, which is what ends the thread.
    items: Option<Receiver<T>>,
    thread: Option<JoinHandle<()>>,
    steps: Range<u64>,
}

impl<T: Send + 'static> Prefetch<T> {
    /// Begins to make the items of some steps, counted from 0.
    ///
    /// # Errors
    /// [`PrefetchError::Thread`].
    pub fn start(steps: Range<u64>, make: impl Fn(u64) -> T + Send + 'static) -> Result<Self, PrefetchError> {
        // No room between the two: an item is handed over before the next is begun, so that one waits and no more.
        let (ready, items) = sync_channel(0);
        let all = steps.clone();
        let work = move || {
            for step in all {
                if ready.send(make(step)).is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("medley-batches".into()).spawn(work);
        Ok(Self { items: Some(items), thread: Some(thread.map_err(PrefetchError::Thread)?), steps })
    }

    /// The item of the next step, as soon as it is made.
    ///
    /// # Errors
    /// [`PrefetchError::Panicked`] where making it panicked, [`PrefetchError::Ended`] after the last.
    pub fn take(&mut self) -> Result<T, PrefetchError> {
        let step = self.steps.start + 1;
        match self.items.as_ref().and_then(|items| items.recv().ok()) {
            Some(item) => {
                self.steps.start = step;
                Ok(item)
            }
            None => Err(self.cause(step)),
        }
    }

    /// Why a thread that hands over nothing more has ended.
    fn cause(&mut self, step: u64) -> PrefetchError {
        match self.thread.take().map(JoinHandle::join) {
            Some(Err(panic)) => PrefetchError::Panicked { step, message: message_of(&*panic) },
            _ => PrefetchError::Ended { step },
        }
    }
}

impl<T> Drop for Prefetch<T> {
    fn drop(&mut self) {
        self.items = None;
        if let Some(thread) = self.thread.take() {
            // A panic in an item that nobody asked for changes nothing.
            let _ = thread.join();
        }
    }
}

fn message_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("it panicked").to_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[test]
    fn items_come_in_the_order_of_their_steps_and_then_end() {
        let mut items = Prefetch::start(3..6, |step| 10 * step).unwrap();
        let taken: Vec<u64> = (0..3).map(|_| items.take().unwrap()).collect();
        assert_eq!(taken, [30, 40, 50]);
        for _ in 0..2 {
            assert!(matches!(items.take(), Err(PrefetchError::Ended { step: 7 })));
        }
    }

    #[test]
    fn at_most_one_item_is_made_ahead() {
        let begun = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&begun);
        let mut items = Prefetch::start(0..100, move |_| count.fetch_add(1, Ordering::SeqCst)).unwrap();
        for taken in 1..=50 {
            items.take().unwrap();
            // The item at hand and the next one: whatever the thread has come to by now, it cannot be further.
            assert!(begun.load(Ordering::SeqCst) <= taken + 1);
        }
    }

    #[test]
    fn dropping_it_ends_a_thread_that_has_more_to_do() {
        let alive = Arc::new(());
        let held = Arc::clone(&alive);
        let mut items = Prefetch::start(0..u64::MAX, move |_| Arc::strong_count(&held)).unwrap();
        items.take().unwrap();
        drop(items);
        assert_eq!(Arc::strong_count(&alive), 1, "the thread and what it held are gone");
        drop(Prefetch::start(0..u64::MAX, |step| step).unwrap());
    }

    #[test]
    fn a_panic_is_an_error_at_its_step_and_no_wait() {
        let make = |step| {
            assert!(step != 2, "no batch for {step}");
            step
        };
        let mut items = Prefetch::start(0..9, make).unwrap();
        assert_eq!((items.take().unwrap(), items.take().unwrap()), (0, 1));
        let error = items.take().unwrap_err();
        assert_eq!(error.to_string(), "building the batch of step 3 failed: no batch for 2");
        assert!(items.take().is_err());
        // In a step that is never reached it is none.
        let mut items = Prefetch::start(0..9, make).unwrap();
        items.take().unwrap();
        drop(items);
    }
}
