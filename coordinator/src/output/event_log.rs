//! `events.jsonl`: one JSON object a line, flushed as it is written, so that nothing that happened is lost with the
//! process.

use crate::job::Observer;
use medley_common::events::{Event, EventLine};
use medley_common::run_directory;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Appends events to a run's log. The file is opened with the first event. A disk that fails is reported once and
/// tried again with every event; training goes on.
pub struct EventLog {
    path: PathBuf,
    open: Option<Open>,
    is_failing: bool,
}

struct Open {
    file: File,
    /// Bytes of whole lines; what stands beyond them is the remainder of a write that failed.
    length: u64,
}

impl EventLog {
    /// The log of a run directory; lines that are there stay.
    pub fn new(run_directory: &Path) -> Self {
        Self { path: run_directory.join(run_directory::EVENTS), open: None, is_failing: false }
    }

    fn append(&mut self, time: SystemTime, event: &Event) -> io::Result<()> {
        let open = match &mut self.open {
            Some(open) => open,
            None => self.open.insert(Open::at(&self.path)?),
        };
        let time = seconds_since_epoch(time);
        let mut line = serde_json::to_vec(&EventLine { time, event: event.clone() })?;
        line.push(b'\n');
        open.append(&line)?;
        // What a checkpoint promises must not be more durable than the record of how it came about.
        if matches!(event, Event::Checkpoint { .. } | Event::Finished { .. }) {
            open.file.sync_data()?;
        }
        Ok(())
    }
}

impl Open {
    /// Opens the file and cuts off a last line that was never finished.
    fn at(path: &Path) -> io::Result<Self> {
        let mut file = OpenOptions::new().create(true).read(true).write(true).truncate(false).open(path)?;
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        let length = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at as u64 + 1);
        let mut open = Self { file, length };
        open.cut()?;
        Ok(open)
    }

    fn append(&mut self, line: &[u8]) -> io::Result<()> {
        match self.file.write_all(line) {
            Ok(()) => {
                self.length += line.len() as u64;
                Ok(())
            }
            Err(error) => {
                // Half a line must not stand before the next one; the first error is the one to report.
                let _ = self.cut();
                Err(error)
            }
        }
    }

    fn cut(&mut self) -> io::Result<()> {
        self.file.set_len(self.length)?;
        self.file.seek(SeekFrom::Start(self.length)).map(|_| ())
    }
}

impl Observer for EventLog {
    fn event(&mut self, time: SystemTime, event: &Event) {
        match self.append(time, event) {
            Ok(()) => self.is_failing = false,
            Err(error) => {
                if !std::mem::replace(&mut self.is_failing, true) {
                    tracing::warn!(
                        "cannot write {}: {error}; training goes on, events are lost until it can be written again",
                        self.path.display()
                    );
                }
            }
        }
    }
}

/// Seconds since the Unix epoch, as event lines have them.
pub fn seconds_since_epoch(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).map_or(0.0, |duration| duration.as_secs_f64())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use std::time::Duration;

    fn warning(message: &str) -> Event {
        Event::Warning { message: message.into() }
    }

    #[test]
    fn lines_are_appended_and_an_unfinished_one_is_cut_off() {
        let run = tempfile::tempdir().unwrap();
        let path = run.path().join("events.jsonl");
        let time = UNIX_EPOCH + Duration::from_millis(1500);
        EventLog::new(run.path()).event(time, &warning("one"));
        let first = std::fs::read_to_string(&path).unwrap();
        assert_eq!(first, "{\"time\":1.5,\"event\":\"warning\",\"message\":\"one\"}\n");

        std::fs::write(&path, format!("{first}{{\"time\":1.6,\"ev")).unwrap();
        EventLog::new(run.path()).event(time, &warning("two"));
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, format!("{first}{}", first.replace("one", "two")));
    }

    #[test]
    fn a_directory_that_is_missing_ends_nothing_and_is_tried_again() {
        let outside = tempfile::tempdir().unwrap();
        let run = outside.path().join("later");
        let mut log = EventLog::new(&run);
        log.event(UNIX_EPOCH, &warning("lost"));
        assert!(log.is_failing);
        std::fs::create_dir(&run).unwrap();
        log.event(UNIX_EPOCH, &warning("kept"));
        assert!(!log.is_failing);
        let text = std::fs::read_to_string(run.join("events.jsonl")).unwrap();
        assert!(text.contains("kept") && !text.contains("lost"), "{text}");
    }

    #[test]
    fn a_full_disk_ends_nothing() {
        // Every write to this device fails for want of space.
        let Ok(file) = OpenOptions::new().write(true).open("/dev/full") else {
            println!("no /dev/full here: not tried");
            return;
        };
        let mut log = EventLog::new(Path::new("unused"));
        log.open = Some(Open { file, length: 0 });
        log.event(UNIX_EPOCH, &warning("lost"));
        log.event(UNIX_EPOCH, &warning("lost too"));
        assert!(log.is_failing);
    }
}
