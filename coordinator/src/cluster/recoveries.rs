//! Losses in a row: how long the next attempt waits, when there are enough of them, and what a recovery cost.

use super::messages::Slot;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The first replacement is started at once, and what fails again and again ever later, up to the second of these.
const BACKOFF: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(5)];

/// What is known of losses without a committed step between them.
#[derive(Debug)]
pub struct Recoveries {
    attempts: u32,
    /// Losses since a step was last committed; those of one generation count as one.
    failures: u32,
    /// The first of them.
    first: Option<String>,
    /// When a slot's next process may be started.
    restarts: BTreeMap<Slot, Duration>,
    /// Processes of a slot that were lost in a row without it taking part in a committed step.
    tries: BTreeMap<Slot, u32>,
    /// The recovery that waits for its first committed step.
    open: Option<Open>,
}

/// A recovery that is not over.
#[derive(Debug, Clone, PartialEq)]
pub struct Open {
    /// When the coordinator noticed.
    pub noticed: Duration,
    /// Who was lost, in words.
    pub lost: Vec<String>,
    /// Steps that had been committed.
    pub step: u64,
    /// Committed steps that are taken again, since no worker held their result any more.
    pub replayed: u64,
}

impl Recoveries {
    /// Bears `attempts` losses in a row.
    pub fn new(attempts: u32) -> Self {
        Self { attempts, failures: 0, first: None, restarts: BTreeMap::new(), tries: BTreeMap::new(), open: None }
    }

    /// Another loss, or another generation that failed.
    pub fn failed(&mut self, message: &str) {
        self.failures += 1;
        self.first.get_or_insert_with(|| message.to_owned());
    }

    /// Why the job is given up, if it is.
    pub fn verdict(&self) -> Option<String> {
        let first = self.first.as_ref().filter(|_| self.failures > self.attempts)?;
        Some(match self.failures {
            1 => first.clone(),
            failures => format!(
                "gave up after {failures} losses in a row without a committed step (recovery.attempts); the first: {first}"
            ),
        })
    }

    /// How long the next attempt waits.
    pub fn backoff(&self) -> Duration {
        backoff(self.failures)
    }

    /// A slot is empty and is to be filled.
    pub fn fill(&mut self, slot: Slot, now: Duration) {
        self.restarts.insert(slot, now);
    }

    /// A slot's process was lost and its next is to be started; how many were lost in a row, where it is given up.
    pub fn restart(&mut self, slot: Slot, now: Duration) -> Option<u32> {
        let tries = self.tries.entry(slot).or_default();
        *tries += 1;
        if *tries > self.attempts {
            return Some(*tries);
        }
        let at = now + backoff(self.failures.max(*tries));
        self.restarts.insert(slot, at);
        None
    }

    /// Somebody has taken the slot.
    pub fn filled(&mut self, slot: Slot) {
        self.restarts.remove(&slot);
    }

    /// The slots whose time has come, each once.
    pub fn due(&mut self, now: Duration) -> Vec<Slot> {
        let due: Vec<Slot> = self.restarts.iter().filter(|(_, at)| now >= **at).map(|(slot, _)| *slot).collect();
        self.restarts.retain(|_, at| now < *at);
        due
    }

    /// A generation ended by a loss.
    pub fn begin(&mut self, noticed: Duration, step: u64) {
        self.open.get_or_insert(Open { noticed, lost: Vec::new(), step, replayed: 0 });
    }

    /// The recovery under way.
    pub fn open(&mut self) -> Option<&mut Open> {
        self.open.as_mut()
    }

    /// These committed a step, or did all that was left to do: the recovery is over, if there was one.
    pub fn progressed(&mut self, members: &BTreeSet<Slot>) -> Option<Open> {
        self.tries.retain(|slot, _| !members.contains(slot));
        self.failures = 0;
        self.first = None;
        self.open.take()
    }
}

fn backoff(failures: u32) -> Duration {
    match failures {
        0 | 1 => Duration::ZERO,
        failures => BACKOFF[1].min(BACKOFF[0] * 2u32.saturating_pow(failures - 2)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_first_error_is_the_one_that_is_named() {
        let mut recoveries = Recoveries::new(2);
        recoveries.failed("worker 1 ended");
        assert_eq!((recoveries.verdict(), recoveries.backoff()), (None, Duration::ZERO));
        recoveries.failed("worker 2 ended");
        assert_eq!((recoveries.verdict(), recoveries.backoff()), (None, BACKOFF[0]));
        recoveries.failed("worker 3 ended");
        let verdict = recoveries.verdict().unwrap();
        assert!(verdict.contains("3 losses") && verdict.ends_with("worker 1 ended"), "{verdict}");
        assert_eq!(recoveries.progressed(&BTreeSet::new()), None);
        recoveries.failed("worker 4 ended");
        assert_eq!(recoveries.verdict(), None);
    }

    #[test]
    fn restarts_wait_longer_and_longer_but_not_for_ever() {
        let mut recoveries = Recoveries::new(100);
        let mut waits = Vec::new();
        for _ in 0..12 {
            recoveries.failed("again");
            waits.push(recoveries.backoff());
        }
        assert!(waits.windows(2).all(|pair| pair[0] <= pair[1]));
        assert_eq!(waits[11], BACKOFF[1]);
        assert_eq!(recoveries.restart(3, Duration::from_secs(1)), None);
        assert!(recoveries.due(Duration::from_secs(5)).is_empty());
        assert_eq!(recoveries.due(Duration::from_secs(6)), [3]);
        assert!(recoveries.due(Duration::from_secs(7)).is_empty());
    }

    #[test]
    fn a_slot_that_takes_part_in_no_step_is_started_ever_later_and_then_no_more_though_others_go_on() {
        let (mut recoveries, others) = (Recoveries::new(3), BTreeSet::from([0]));
        let mut starts = Vec::new();
        for at in (0..4).map(Duration::from_secs) {
            recoveries.failed("no data");
            let given_up = recoveries.restart(1, at);
            starts.push((recoveries.due(at).is_empty(), given_up));
            recoveries.due(at + BACKOFF[1]);
            recoveries.progressed(&others);
        }
        assert_eq!(starts, [(false, None), (true, None), (true, None), (true, Some(4))]);
        recoveries.progressed(&BTreeSet::from([1]));
        assert_eq!(recoveries.restart(1, Duration::ZERO), None);
    }
}
