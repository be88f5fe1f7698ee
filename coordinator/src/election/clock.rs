//! The clock of leases: it only goes forward, and goes on while the machine is suspended, as the store's does.

use rustix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// Time since the machine was started.
pub fn now() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).expect("a time since the start is not negative");
    Duration::from_secs(seconds) + Duration::from_nanos(time.tv_nsec.unsigned_abs())
}
