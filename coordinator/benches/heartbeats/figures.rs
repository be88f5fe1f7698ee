//! Figures of a load, for programs and for people.

use crate::load::{Handled, Load, Said};
use serde_json::{Value, json};
use std::time::Duration;

/// All figures. Times are in milliseconds.
pub fn of(handled: &Handled, said: Said, load: Load) -> Value {
    let messages = handled.handling.len() as f64;
    let wall = handled.wall.as_secs_f64().max(f64::MIN_POSITIVE);
    json!({
        "workers": load.workers,
        "heartbeat_ms": milliseconds(load.heartbeat),
        "step_ms": milliseconds(load.step),
        "aligned": load.is_aligned,
        "cores": std::thread::available_parallelism().map_or(1, usize::from),
        "seconds": handled.wall.as_secs_f64(),
        "heartbeats_sent": said.heartbeats,
        "heartbeats_applied": handled.said.heartbeats,
        "steps_committed": handled.committed,
        "workers_lost": handled.lost,
        "messages_per_second": messages / wall,
        "handling": percentiles(&handled.handling),
        "applying": percentiles(&handled.applying),
        "one_way": percentiles(&handled.one_way),
        "processor_share": handled.processor.as_secs_f64() / wall,
        "resident_bytes_at_most": most_resident(),
    })
}

/// The figures as lines.
pub fn table(figures: &Value) -> String {
    let number = |name: &str| figures[name].as_f64().unwrap_or(f64::NAN);
    let times = |name: &str| {
        let time = |key: &str| figures[name][key].as_f64().unwrap_or(f64::NAN);
        format!("p50 {:8.3} ms   p99 {:8.3} ms   most {:8.3} ms", time("p50"), time("p99"), time("most"))
    };
    let phase = if figures["aligned"] == true { "all at the same moments" } else { "one after another" };
    [
        format!(
            "{} workers, a heartbeat every {} ms and a step every {} ms each, {phase}; {} cores shared with them",
            figures["workers"], figures["heartbeat_ms"], figures["step_ms"], figures["cores"]
        ),
        format!(
            "{:.0} messages a second for {:.1} s; {} of {} heartbeats applied, {} steps committed, {} workers lost",
            number("messages_per_second"),
            number("seconds"),
            figures["heartbeats_applied"],
            figures["heartbeats_sent"],
            figures["steps_committed"],
            figures["workers_lost"]
        ),
        format!("handling, from decoded to done      {}", times("handling")),
        format!("  of that, once it is its turn      {}", times("applying")),
        format!("one way, from a worker's client on  {}", times("one_way")),
        format!(
            "the coordinator's process: {:.0} % of a core, {:.1} MB resident at most",
            100.0 * number("processor_share"),
            number("resident_bytes_at_most") / 1e6
        ),
    ]
    .join("\n")
}

fn milliseconds(duration: Duration) -> f64 {
    1e3 * duration.as_secs_f64()
}

fn percentiles(times: &[Duration]) -> Value {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    // The smallest time that so large a share of all times does not exceed.
    let at = |share: f64| {
        let rank = (share * sorted.len() as f64).ceil() as usize;
        sorted.get(rank.max(1) - 1).copied().map(milliseconds)
    };
    json!({ "p50": at(0.5), "p99": at(0.99), "most": at(1.0) })
}

/// The most memory that this process ever had resident, in bytes.
fn most_resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes << 10)
}
