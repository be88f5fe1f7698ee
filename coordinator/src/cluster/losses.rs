//! Which worker is lost, and what of several signs is the cause.
//!
//! When a worker dies, the coordinator sees its session end, its process exit and every survivor's failed exchange, in
//! any order. One of these names the cause. Evidence is gathered until it does, or until the time for it is up. That a
//! session ended is no loss by itself: a worker may come back over another.

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
    /// Who missed it in the exchange, and what that worker reports.
    missed: Option<(Slot, String)>,
}

#[derive(Debug)]
struct Failure {
    message: String,
    bad_input: bool,
    is_final: bool,
}

/// A worker that is lost, or an error that ends the job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// The worker, where it is one.
    pub slot: Option<Slot>,
    /// What it did, without its name.
    pub reason: String,
    /// One line for a person.
    pub message: String,
    /// What the job's exit code would be if it ended for this; one of `medley_common::exit`.
    pub exit_code: i32,
    /// Another attempt would fail in the same way.
    pub is_final: bool,
}

impl Evidence {
    /// A worker reported that it cannot go on.
    pub fn failed(&mut self, slot: Slot, message: String, bad_input: bool, is_final: bool) {
        self.account(slot).failure.get_or_insert(Failure { message, bad_input, is_final });
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

    /// A worker missed another one in the exchange.
    pub fn missed(&mut self, slot: Slot, by: Slot, message: String) {
        self.account(slot).missed.get_or_insert((by, message));
    }

    /// Forgets what speaks against a worker: it has come back, or its loss is dealt with.
    pub fn clear(&mut self, slot: Slot) {
        self.accounts.remove(&slot);
        self.order.retain(|other| *other != slot);
    }

    /// Forgets who missed whom: a new generation has begun.
    pub fn clear_missed(&mut self) {
        self.accounts.values_mut().for_each(|account| account.missed = None);
        self.accounts.retain(|_, account| account.is_sign());
        let accounts = &self.accounts;
        self.order.retain(|slot| accounts.contains_key(slot));
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

    /// A worker that is lost beyond doubt. `has_session` says whose session is still open, and may yet bring the worker's
    /// own account of its end.
    pub fn certain(&self, has_session: impl Fn(Slot) -> bool) -> Option<Loss> {
        self.in_order().find_map(|(slot, account)| {
            if let Some(failure) = &account.failure {
                return Some(own_failure(slot, failure));
            }
            if let Some(duration) = account.silent_for {
                let reason = format!("said nothing for {} ms (launch.death_ms)", duration.as_millis());
                return Some(worker_loss(slot, reason));
            }
            if has_session(slot) {
                return None;
            }
            account.exit.as_ref().map(|exit| exited(slot, exit))
        })
    }

    /// A worker that is gone for all who spoke with it; how its process ended is then not known.
    pub fn gone(&self, has_session: impl Fn(Slot) -> bool) -> Option<Loss> {
        self.in_order().filter(|(slot, _)| !has_session(*slot)).find_map(|(slot, account)| {
            let (end, (by, message)) = (account.session_end.as_ref()?, account.missed.as_ref()?);
            let reason = format!("lost its session ({end}) and was missed by worker {by}, which reports: {message}");
            Some(worker_loss(slot, reason))
        })
    }

    /// A worker whose process has ended, when its own words are no longer waited for.
    pub fn ended(&self) -> Option<Loss> {
        self.in_order().find_map(|(slot, account)| account.exit.as_ref().map(|exit| exited(slot, exit)))
    }

    /// Who was missed first, where the exchange failed and nobody is known to be lost.
    pub fn missed_first(&self) -> Option<Loss> {
        self.in_order().find_map(|(slot, account)| {
            let (by, message) = account.missed.as_ref()?;
            Some(worker_loss(slot, format!("was lost to worker {by}, which reports: {message}")))
        })
    }
}

impl Account {
    fn is_sign(&self) -> bool {
        self.failure.is_some() || self.exit.is_some() || self.session_end.is_some() || self.silent_for.is_some()
    }
}

fn own_failure(slot: Slot, failure: &Failure) -> Loss {
    let Failure { message, bad_input, is_final } = failure;
    if *bad_input {
        // The user's file or key is at fault and named by the message; which worker found it first does not matter.
        let (reason, message) = (message.clone(), message.clone());
        return Loss { slot: Some(slot), reason, message, exit_code: exit::BAD_INPUT, is_final: true };
    }
    Loss { is_final: *is_final, ..worker_loss(slot, format!("failed: {message}")) }
}

fn exited(slot: Slot, (status, last_words): &(String, Option<String>)) -> Loss {
    let log = worker_log(slot);
    let reason = match last_words {
        Some(words) => {
            format!("ended {status} before its work was done; {log} says: {words}")
        }
        None => format!("ended {status} before its work was done; {log} does not say why"),
    };
    worker_loss(slot, reason)
}

fn worker_loss(slot: Slot, reason: String) -> Loss {
    let message = format!("worker {slot} {reason}");
    Loss { slot: Some(slot), message, reason, exit_code: exit::FAILURE, is_final: false }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_session_that_ends_is_a_loss_only_with_another_sign() {
        let mut evidence = Evidence::default();
        evidence.session_lost(1, "reset".into());
        assert_eq!((evidence.certain(|_| false), evidence.gone(|_| false)), (None, None));
        evidence.missed(1, 0, "no rows from rank 1".into());
        let loss = evidence.gone(|_| false).unwrap();
        assert_eq!(loss.slot, Some(1));
        assert!(loss.message.contains("reset") && loss.message.contains("no rows from rank 1"));
        assert_eq!(evidence.gone(|_| true), None, "it came back");
    }

    #[test]
    fn an_exit_waits_for_what_the_session_may_still_bring() {
        let mut evidence = Evidence::default();
        evidence.exited(1, "with exit status 1".into(), None);
        assert_eq!(evidence.certain(|_| true), None);
        evidence.failed(1, "no space left on device".into(), false, false);
        let loss = evidence.certain(|_| true).unwrap();
        assert_eq!(loss.message, "worker 1 failed: no space left on device");
    }

    #[test]
    fn a_new_generation_forgets_who_was_missed_and_nothing_else() {
        let mut evidence = Evidence::default();
        evidence.missed(1, 0, "late".into());
        evidence.missed(2, 0, "late".into());
        evidence.session_lost(2, "reset".into());
        assert_eq!(evidence.missed_first().unwrap().slot, Some(1));
        evidence.clear_missed();
        assert_eq!(evidence.missed_first(), None);
        assert!(!evidence.is_empty());
        evidence.clear(2);
        assert!(evidence.is_empty());
    }
}
