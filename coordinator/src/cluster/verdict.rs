//! Which of several errors is the cause, and which are its consequences.
//!
//! When a worker dies, the coordinator sees its session end, its process exit and every survivor's failed exchange,
//! in any order. One of these names the cause. Evidence is gathered until it does, or until the time for it is up.

use super::messages::{Slot, worker_log};
use medley_common::exit;
use std::collections::BTreeMap;
use std::time::Duration;

/// All that speaks against workers.
#[derive(Debug, Default)]
pub struct Evidence {
    accounts: BTreeMap<Slot, Account>,
    /// In the order in which something was first heard of them.
    order: Vec<Slot>,
}

#[derive(Debug, Default)]
struct Account {
    failure: Option<Failure>,
    exit: Option<(String, Option<String>)>,
    /// `None` while its session is open.
    session_end: Option<String>,
    silent_for: Option<Duration>,
}

#[derive(Debug)]
struct Failure {
    message: String,
    bad_input: bool,
    because_of: Option<Slot>,
}

/// What ended the job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The worker at fault, where it is one.
    pub slot: Option<Slot>,
    /// What it did, without its name.
    pub reason: String,
    /// One line for a person.
    pub message: String,
    /// One of `medley_common::exit`.
    pub exit_code: i32,
}

impl Evidence {
    /// A worker reported that it cannot go on; `because_of` names the worker whose loss caused it.
    pub fn failed(&mut self, slot: Slot, message: String, bad_input: bool, because_of: Option<Slot>) {
        self.account(slot).failure.get_or_insert(Failure {
            message,
            bad_input,
            because_of: because_of.filter(|other| *other != slot),
        });
    }

    /// A worker's process ended.
    pub fn exited(&mut self, slot: Slot, status: String, last_words: Option<String>) {
        self.account(slot).exit.get_or_insert((status, last_words));
    }

    /// A worker's session ended.
    pub fn session_lost(&mut self, slot: Slot, reason: String) {
        self.account(slot).session_end.get_or_insert(reason);
    }

    /// A worker said nothing for too long.
    pub fn silent(&mut self, slot: Slot, duration: Duration) {
        self.account(slot).silent_for.get_or_insert(duration);
    }

    /// Whether nothing speaks against anybody.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    fn account(&mut self, slot: Slot) -> &mut Account {
        if !self.accounts.contains_key(&slot) {
            self.order.push(slot);
        }
        self.accounts.entry(slot).or_default()
    }

    fn in_order(&self) -> impl Iterator<Item = (Slot, &Account)> {
        self.order.iter().filter_map(|slot| Some((*slot, self.accounts.get(slot)?)))
    }

    /// The cause, where the evidence names it beyond doubt. `has_session` says whose session is still open, and may
    /// yet bring the worker's own account of its end.
    pub fn certain(&self, has_session: impl Fn(Slot) -> bool) -> Option<Verdict> {
        self.in_order().find_map(|(slot, account)| {
            if let Some(failure) = account.own_failure() {
                return Some(own_failure(slot, failure));
            }
            if let Some(duration) = account.silent_for {
                let reason = format!("said nothing for {} ms (launch.death_ms)", duration.as_millis());
                return Some(worker_verdict(slot, reason));
            }
            let nothing_more_to_come = account.failure.is_none() && !has_session(slot);
            account.exit.as_ref().filter(|_| nothing_more_to_come).map(|exit| exited(slot, exit))
        })
    }

    /// The likeliest cause, when no more evidence is waited for. `None` only where there is none at all.
    pub fn likeliest(&self) -> Option<Verdict> {
        let innocent = |account: &Account| account.failure.is_none();
        let by_exit = self.in_order().find_map(|(slot, account)| {
            let exit = account.exit.as_ref().filter(|_| innocent(account))?;
            Some(exited(slot, exit))
        });
        let by_session = || {
            self.in_order().find_map(|(slot, account)| {
                let reason = account.session_end.as_ref().filter(|_| innocent(account))?;
                Some(worker_verdict(slot, format!("lost its session: {reason}")))
            })
        };
        by_exit.or_else(by_session).or_else(|| self.blamed())
    }

    /// Follows "because of" from the first worker that blamed another to one that blames nobody.
    fn blamed(&self) -> Option<Verdict> {
        let (reporter, failure) = self.in_order().find_map(|(slot, account)| {
            let failure = account.failure.as_ref()?;
            Some((slot, failure))
        })?;
        let mut culprit = failure.because_of?;
        for _ in 0..self.accounts.len() {
            let next = self.accounts.get(&culprit).and_then(|account| account.failure.as_ref()?.because_of);
            match next {
                Some(next) => culprit = next,
                None => break,
            }
        }
        let reason = format!("was lost to worker {reporter}, which reports: {}", failure.message);
        Some(worker_verdict(culprit, reason))
    }
}

impl Account {
    fn own_failure(&self) -> Option<&Failure> {
        self.failure.as_ref().filter(|failure| failure.because_of.is_none())
    }
}

fn own_failure(slot: Slot, failure: &Failure) -> Verdict {
    if failure.bad_input {
        // The user's file or key is at fault and named by the message; which worker found it first does not matter.
        return Verdict {
            slot: Some(slot),
            reason: failure.message.clone(),
            message: failure.message.clone(),
            exit_code: exit::BAD_INPUT,
        };
    }
    worker_verdict(slot, format!("failed: {}", failure.message))
}

fn exited(slot: Slot, (status, last_words): &(String, Option<String>)) -> Verdict {
    let log = worker_log(slot);
    let reason = match last_words {
        Some(words) => {
            format!("ended {status} before its work was done; {log} says: {words}")
        }
        None => format!("ended {status} before its work was done; {log} does not say why"),
    };
    worker_verdict(slot, reason)
}

fn worker_verdict(slot: Slot, reason: String) -> Verdict {
    Verdict { slot: Some(slot), message: format!("worker {slot} {reason}"), reason, exit_code: exit::FAILURE }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn blame_is_followed_to_the_worker_that_blames_nobody() {
        let mut evidence = Evidence::default();
        evidence.failed(0, "no rows from rank 1".into(), false, Some(1));
        evidence.failed(1, "no rows from rank 2".into(), false, Some(2));
        assert_eq!(evidence.certain(|_| true), None);
        assert_eq!(evidence.likeliest().unwrap().slot, Some(2));
    }

    #[test]
    fn workers_that_blame_each_other_still_give_a_verdict() {
        let mut evidence = Evidence::default();
        evidence.failed(0, "no rows from rank 1".into(), false, Some(1));
        evidence.failed(1, "no rows from rank 0".into(), false, Some(0));
        assert!(evidence.likeliest().is_some());
    }

    #[test]
    fn an_exit_waits_for_what_the_session_may_still_bring() {
        let mut evidence = Evidence::default();
        evidence.exited(1, "with exit status 1".into(), None);
        assert_eq!(evidence.certain(|_| true), None);
        evidence.failed(1, "no space left on device".into(), false, None);
        let verdict = evidence.certain(|_| true).unwrap();
        assert_eq!(verdict.message, "worker 1 failed: no space left on device");
    }
}
