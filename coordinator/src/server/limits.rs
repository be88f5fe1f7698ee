//! How many files and sockets this process may have open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// A worker joins over one connection and opens its session over another; one that was started anew may do so while the old
/// connections still linger; and who launched it holds its log and its standard input.
const FILES_PER_WORKER: u64 = 8;
/// Everything else: the store, the event log, the runtime.
const OTHER_FILES: u64 = 256;

/// Raises the soft limit where it is too low for so many workers: many systems begin with 1,024, at which a coordinator of
/// as many workers could no longer accept connections. The hard limit is as far as it goes.
pub fn allow_connections_of(workers: u32) {
    let needed = FILES_PER_WORKER * u64::from(workers) + OTHER_FILES;
    let limit = getrlimit(Resource::Nofile);
    let Some(raised) = raised(limit.current, limit.maximum, needed) else { return };
    let raised = Rlimit { current: Some(raised), maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, needed, "cannot raise the limit on open files; raise it with `ulimit -n`");
    }
}

/// The soft limit to set, where the present one is too low; no limit is `None`.
fn raised(current: Option<u64>, maximum: Option<u64>, needed: u64) -> Option<u64> {
    let current = current?;
    let raised = maximum.map_or(needed, |maximum| needed.min(maximum));
    (raised > current).then_some(raised)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_raised_as_far_as_needed_and_allowed_and_never_lowered() {
        assert_eq!(raised(Some(1_024), Some(20_000), 8_256), Some(8_256));
        assert_eq!(raised(Some(1_024), None, 8_256), Some(8_256));
        assert_eq!(raised(Some(1_024), Some(4_096), 8_256), Some(4_096));
        assert_eq!(raised(Some(4_096), Some(4_096), 8_256), None);
        assert_eq!(raised(Some(10_000), Some(20_000), 8_256), None);
        assert_eq!(raised(None, None, 8_256), None);
    }

    #[test]
    fn enough_for_a_large_job_is_asked_of_the_system() {
        let before = getrlimit(Resource::Nofile);
        allow_connections_of(300);
        let after = getrlimit(Resource::Nofile);
        assert_eq!(after.maximum, before.maximum);
        let enough = 300 * FILES_PER_WORKER;
        assert!(after.current.is_none_or(|current| current >= enough || Some(current) == after.maximum));
    }
}
