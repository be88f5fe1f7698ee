//! One worker process: its process group, its standard input, its log.

use super::last_words::last_words;
use super::{LaunchError, LaunchPlan};
use crate::cluster::{Slot, worker_log};
use medley_common::{environment, run_directory};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, ExitStatus, Stdio};

/// How much of a log's end is searched for a worker's last words.
const TAIL_BYTES: u64 = 16 * 1024;

/// A worker that was started. Its standard input is a pipe whose other end lives in `child`: it stays open as long
/// as the coordinator does, and ends with it.
pub(super) struct Process {
    pub slot: Slot,
    child: Child,
    log: PathBuf,
    /// Where the log stood when the process was started.
    log_start: u64,
}

impl Process {
    pub fn start(plan: &LaunchPlan, slot: Slot) -> Result<Self, LaunchError> {
        let at = |source| LaunchError::Start { slot, source };
        let log_path = plan.run_directory.join(worker_log(slot));
        let log = File::options().create(true).append(true).open(&log_path).map_err(at)?;
        let log_start = log.metadata().map_err(at)?.len();
        let mut command = plan.binary.command();
        command
            .arg("work")
            .args(["--coordinator", &plan.coordinator])
            .args(["--job", &plan.job])
            .args(["--slot", &slot.to_string()])
            .args(["--threads", &plan.threads.to_string()])
            .arg("--config")
            .arg(plan.run_directory.join(run_directory::CONFIG))
            // Not on the command line, where every user of the machine could read it.
            .env(environment::LAUNCH_TOKEN, &plan.token)
            .stdin(Stdio::piped())
            // Files and not pipes: a worker never waits for somebody to read, and what it said outlives us.
            .stdout(log.try_clone().map_err(at)?)
            .stderr(log)
            // Its own group, so that a terminal's Ctrl-C reaches the coordinator alone, which then stops the
            // workers in good order.
            .process_group(0);
        // What a person's shell says of certificates is for workers that are started by hand.
        command.env_remove(environment::CERTIFICATES);
        if let Some(directory) = &plan.certificates {
            command.arg("--certificates").arg(directory);
        }
        let child = command.spawn().map_err(at)?;
        Ok(Self { slot, child, log: log_path, log_start })
    }

    /// Sends a signal to the process and all that it started.
    pub fn signal(&self, signal: Signal) {
        // Not yet reaped (see `reap`), so the number cannot belong to anybody else. That the group is gone already
        // is no error.
        let _ = kill_process_group(self.group(), signal);
    }

    /// Whether the process has ended: how, and what it said of that in its log.
    pub fn reap(&mut self) -> Option<(ExitStatus, Option<String>)> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let ended = waitid(WaitId::Pid(self.group()), options);
        if matches!(ended, Ok(None)) {
            return None;
        }
        // The ended process still holds its number: now is the time to end whatever it left in its group.
        self.signal(Signal::KILL);
        let status = self.child.wait().ok()?;
        Some((status, self.last_words()))
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    fn group(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    fn last_words(&self) -> Option<String> {
        let mut log = File::open(&self.log).ok()?;
        let length = log.metadata().ok()?.len();
        let start = self.log_start.max(length.saturating_sub(TAIL_BYTES));
        log.seek(SeekFrom::Start(start)).ok()?;
        let mut bytes = Vec::new();
        log.take(TAIL_BYTES).read_to_end(&mut bytes).ok()?;
        last_words(&String::from_utf8_lossy(&bytes))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Does nothing to a process that was reaped: `try_wait` then knows its status and no signal is sent.
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal(Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

/// The last line that is not empty.
pub(super) fn last_line(text: &str) -> Option<String> {
    let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty())?;
    Some(line.to_owned())
}

/// `with exit status 1`, `by signal 9 (SIGKILL)`.
pub(super) fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("with exit status {code}"),
        (None, Some(signal)) => {
            let name = Signal::from_named_raw(signal).map(|name| {
                let name = format!("{name:?}").replace("Signal::", "SIG");
                format!(" ({})", name.trim_matches('"'))
            });
            format!("by signal {signal}{}", name.unwrap_or_default())
        }
        (None, None) => "for an unknown reason".into(),
    }
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use std::path::Path;

    /// An executable shell script. It is written by another process: while this one had it open for writing, a
    /// process that another test starts at that moment would inherit it, and running it would fail ("text file
    /// busy").
    pub fn script(directory: &Path, name: &str, body: &str) -> PathBuf {
        let path = directory.join(name);
        let status = std::process::Command::new("/bin/sh")
            .args(["-c", "rm -f \"$0\"; printf '#!/bin/sh\\n%s\\n' \"$1\" > \"$0\" && chmod +x \"$0\""])
            .arg(&path)
            .arg(body)
            .status()
            .unwrap();
        assert!(status.success());
        path
    }

    #[test]
    fn the_last_line_is_the_last_that_says_something() {
        assert_eq!(last_line("one\ntwo \n\n  \n"), Some("two".into()));
        assert_eq!(last_line(" \n"), None);
    }

    #[test]
    fn ends_are_described() {
        assert_eq!(describe(ExitStatus::from_raw(3 << 8)), "with exit status 3");
        assert_eq!(describe(ExitStatus::from_raw(9)), "by signal 9 (SIGKILL)");
    }
}
