//! When a lease is renewed, and when it may have ended.
//!
//! A state machine without clock or I/O: times go in, what to do comes out. Times are durations since a point that
//! never changes.

use std::time::Duration;

/// The part of a lease that the leader gives up for safety: clocks of two machines may run apart by that much.
const MARGIN: u32 = 10;

/// The shortest time between renewals and the shortest one that a renewal is given, as parts of the lease.
const SHORTEST: u32 = 50;

/// How much earlier than at half of what remains a renewal may be due, as a share of it.
const JITTER: f64 = 0.2;

/// A lease as its holder sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Timing {
    lease: Duration,
    /// From then on somebody else may hold it.
    ends: Duration,
    /// When to renew.
    due: Duration,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing, until then.
    Wait {
        /// The time at which to ask again.
        until: Duration,
    },
    /// Renew now, and say how it went; one that takes longer than this has failed.
    Renew {
        /// How long it may take.
        limit: Duration,
    },
    /// The lease may have ended: it is no longer held, whatever happens.
    Deposed,
}

impl Timing {
    /// Of a lease of this length that began at `since` or later. `jitter` is a random number in [0, 1).
    pub fn new(lease: Duration, since: Duration, now: Duration, jitter: f64) -> Self {
        let mut timing = Self { lease, ends: since + lease - lease / MARGIN, due: now };
        timing.plan(now, jitter);
        timing
    }

    /// From then on somebody else may hold it.
    pub fn ends(&self) -> Duration {
        self.ends
    }

    /// What to do now.
    pub fn step(&self, now: Duration) -> Step {
        if now >= self.ends {
            return Step::Deposed;
        }
        if now < self.due {
            return Step::Wait { until: self.due.min(self.ends) };
        }
        let remaining = self.ends - now;
        Step::Renew { limit: (remaining / 2).max(self.lease / SHORTEST).min(remaining) }
    }

    /// A renewal that was sent at `sent` has succeeded. One that comes after the end changes nothing.
    pub fn renewed(&mut self, sent: Duration, now: Duration, jitter: f64) {
        if now >= self.ends {
            return;
        }
        // The store began the lease anew when the renewal reached it, which was after it was sent.
        self.ends = self.ends.max(sent + self.lease - self.lease / MARGIN);
        self.plan(now, jitter);
    }

    /// A renewal has failed.
    pub fn failed(&mut self, now: Duration, jitter: f64) {
        self.plan(now, jitter);
    }

    /// The next renewal is due at half of what remains, less a random part.
    fn plan(&mut self, now: Duration, jitter: f64) {
        let half = self.ends.saturating_sub(now) / 2;
        let early = half.mul_f64(JITTER * jitter.clamp(0.0, 1.0));
        self.due = now + (half - early).max(self.lease / SHORTEST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn a_lease_is_renewed_at_half_of_what_remains_and_given_up_a_tenth_early() {
        let mut timing = Timing::new(ms(3000), ms(100), ms(200), 0.0);
        assert_eq!(timing.ends(), ms(2800));
        assert_eq!(timing.step(ms(200)), Step::Wait { until: ms(1500) });
        assert_eq!(timing.step(ms(1500)), Step::Renew { limit: ms(650) });
        timing.failed(ms(1600), 0.0);
        assert_eq!(timing.step(ms(1600)), Step::Wait { until: ms(2200) });
        timing.renewed(ms(2200), ms(2300), 0.0);
        assert_eq!(timing.ends(), ms(4900));
        assert_eq!(timing.step(ms(2300)), Step::Wait { until: ms(3600) });
        assert_eq!(timing.step(ms(4900)), Step::Deposed);
        timing.renewed(ms(4800), ms(4900), 0.0);
        assert_eq!(timing.step(ms(4900)), Step::Deposed, "too late is too late");
    }

    #[test]
    fn jitter_renews_earlier_by_a_fifth_at_most() {
        let due = |jitter| match Timing::new(ms(3000), ms(0), ms(0), jitter).step(ms(0)) {
            Step::Wait { until } => until,
            other => panic!("{other:?}"),
        };
        assert_eq!(due(0.0), ms(1350));
        assert_eq!(due(1.0), ms(1080));
    }

    #[test]
    fn a_claim_that_took_longer_than_the_lease_is_none() {
        assert_eq!(Timing::new(ms(3000), ms(0), ms(2700), 0.5).step(ms(2700)), Step::Deposed);
    }

    /// What happens to one renewal: how long it takes, whether the store hears of it and after what share of that
    /// time, whether the answer comes back, and how long the holder is kept from doing anything afterwards.
    #[derive(Debug, Clone)]
    struct Fate {
        takes: u64,
        heard: Option<f64>,
        is_answered: bool,
        pause: u64,
        jitter: f64,
    }

    fn fate() -> impl Strategy<Value = Fate> {
        let pause = prop_oneof![4 => Just(0_u64), 1 => 0..6000_u64];
        (0..2000_u64, proptest::option::of(0.0..1.0_f64), any::<bool>(), pause, 0.0..1.0_f64)
            .prop_map(|(takes, heard, is_answered, pause, jitter)| Fate { takes, heard, is_answered, pause, jitter })
    }

    proptest! {
        /// The store's lease, by a clock that runs up to a tenth faster, never ends while the holder thinks it holds.
        #[test]
        fn the_holder_gives_up_before_the_store_does(
            fates in proptest::collection::vec(fate(), 1..60),
            claimed in 0..2500_u64,
            drift in 0.0..0.09_f64,
        ) {
            let lease = ms(3000);
            let store_length = lease.mul_f64(1.0 - drift);
            let (mut now, mut store_ends) = (ms(claimed), store_length);
            let mut timing = Timing::new(lease, ms(0), now, 0.5);
            for fate in fates {
                prop_assert!(timing.ends() <= store_ends, "{:?} after {:?}", timing.ends(), store_ends);
                match timing.step(now) {
                    Step::Deposed => break,
                    Step::Wait { until } => {
                        prop_assert!(until > now);
                        now = until + ms(fate.pause);
                    }
                    Step::Renew { limit } => {
                        prop_assert!(!limit.is_zero() && now + limit <= timing.ends());
                        let (sent, takes) = (now, ms(fate.takes));
                        let arrives = fate.heard.map(|share| sent + takes.mul_f64(share));
                        if let Some(arrives) = arrives.filter(|arrives| *arrives < store_ends) {
                            store_ends = store_ends.max(arrives + store_length);
                            now = sent + takes.min(limit) + ms(fate.pause);
                            match takes <= limit && fate.is_answered {
                                true => timing.renewed(sent, now, fate.jitter),
                                false => timing.failed(now, fate.jitter),
                            }
                        } else {
                            now = sent + takes.min(limit) + ms(fate.pause);
                            timing.failed(now, fate.jitter);
                        }
                    }
                }
            }
        }

        /// With a store that answers at once nobody is ever deposed, and renewals are not more than needed.
        #[test]
        fn a_store_that_answers_is_asked_twice_a_lease_at_most_thrice(
            jitters in proptest::collection::vec(0.0..1.0_f64, 100),
        ) {
            let lease = ms(3000);
            let (mut now, mut renewals) = (ms(0), 0);
            let mut timing = Timing::new(lease, now, now, 0.0);
            for jitter in jitters {
                match timing.step(now) {
                    Step::Wait { until } => now = until,
                    Step::Renew { .. } => {
                        renewals += 1;
                        timing.renewed(now, now + ms(1), jitter);
                        now += ms(1);
                    }
                    Step::Deposed => prop_assert!(false, "deposed at {now:?}"),
                }
            }
            let a_lease = f64::from(renewals) * lease.as_secs_f64() / now.as_secs_f64();
            prop_assert!((2.0..3.0).contains(&a_lease), "{a_lease} renewals a lease");
        }

        /// However renewals fail, they are tried again several times before the end.
        #[test]
        fn failures_are_tried_again(jitter in 0.0..1.0_f64, share in 0.0..1.0_f64) {
            let mut timing = Timing::new(ms(3000), ms(0), ms(0), jitter);
            let (mut now, mut tries) = (ms(0), 0);
            loop {
                match timing.step(now) {
                    Step::Wait { until } => now = until,
                    Step::Renew { limit } => {
                        tries += 1;
                        now += limit.mul_f64(share);
                        timing.failed(now, jitter);
                    }
                    Step::Deposed => break,
                }
            }
            prop_assert!((3..40).contains(&tries), "{tries} tries");
        }
    }
}
