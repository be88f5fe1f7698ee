//! What a run leaves and shows.
//!
//! Read in this order:
//! 1. (the run directory itself is made by [`job`](crate::job), whole or not at all)
//! 2. [`event_log`]: `events.jsonl`, written as things happen; [`read`]: a run directory read back.
//! 3. [`history`]: what the events say, folded: the series, the totals, the results; [`cohorts`]: which peers took part when.
//! 4. [`summary`]: `summary.json`, made of a history.
//! 5. [`tensorboard`] and [`plots`]: the series for the eye.
//! 6. [`progress`] and [`terminal`]: what a person sees while a job runs; [`table`]: what stands at its end.
//! 7. [`report`]: runs beside each other.
//!
//! Invariants: nothing here decides anything about a job; a disk that fails here is reported once and never ends
//! training; standard output carries results only, everything else goes to standard error.

pub mod cohorts;
pub mod event_log;
pub mod history;
pub mod plots;
pub mod progress;
pub mod read;
pub mod report;
pub mod summary;
pub mod table;
pub mod tensorboard;
pub mod terminal;

/// A peer's place in a subject's name: 3 of `peer-3`; `None` for a baseline.
pub fn peer_of(subject: &str) -> Option<u32> {
    subject.strip_prefix("peer-")?.parse().ok()
}

/// The spelling of a configuration's value, such as a network's kind.
fn spelling(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(text)) => text,
        Ok(other) => other.to_string(),
        Err(_) => String::new(),
    }
}

/// Writes a file under a temporary name, syncs it and renames it: a file that is there is whole.
///
/// # Errors
/// Those of the file system; the file that was there before then stays.
pub fn write_whole(path: &std::path::Path, contents: &[u8]) -> std::io::Result<()> {
    use std::io::Write;
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".partial");
    let written = std::fs::File::create(&temporary).and_then(|mut file| {
        file.write_all(contents)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    });
    if written.is_err() {
        // What remains of a failed attempt is worth nothing; the error that counts is the first.
        let _ = std::fs::remove_file(&temporary);
    }
    written
}
