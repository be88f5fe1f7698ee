//! Starts worker processes and answers for their end.

use super::LaunchError;
use medley_common::{environment, run_directory};
use rustix::process::{Pid, Signal, kill_process_group};
use std::fs::File;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::UnboundedSender;

/// How often processes are asked whether they still run.
const POLL: Duration = Duration::from_millis(20);

/// How long a worker has between SIGTERM and SIGKILL.
const TERMINATE_GRACE: Duration = Duration::from_secs(2);

/// What to start.
#[derive(Debug, Clone)]
pub struct Launch {
    /// The worker binary.
    pub binary: PathBuf,
    /// Where the coordinator listens.
    pub coordinator: String,
    /// The job.
    pub job: String,
    /// What the workers prove themselves with.
    pub token: String,
    /// How many.
    pub workers: u32,
    /// Threads of each.
    pub threads: usize,
    /// Their logs go below it.
    pub run_directory: PathBuf,
}

/// A worker's process has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exited {
    /// Whose.
    pub slot: u32,
    /// How: `with exit status 1`, `by signal 9`.
    pub status: String,
    /// The last line of its log.
    pub last_words: Option<String>,
}

/// The worker processes of a job. Dropping it kills them.
#[derive(Debug)]
pub struct Launcher {
    orders: Sender<Order>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
enum Order {
    Kill,
    /// Let them end by themselves for so long, then make them.
    Finish(Duration),
}

impl Launcher {
    /// Starts all workers; their exits are sent to `exits`.
    ///
    /// # Errors
    /// When a log cannot be created or a process not be started; none is then left running.
    pub fn start(launch: Launch, exits: UnboundedSender<Exited>) -> Result<Self, LaunchError> {
        let (orders, inbox) = channel();
        let (started, outcome) = channel();
        // One thread starts them all and lives as long as they do: the signal by which the kernel tells a worker of its
        // parent's death is tied to the thread that started it, not to the process.
        let thread = std::thread::Builder::new()
            .name("medley-launcher".into())
            .spawn(move || match Workers::start(&launch) {
                Ok(workers) => {
                    let _ = started.send(Ok(()));
                    workers.watch(&inbox, &exits);
                }
                Err(error) => {
                    let _ = started.send(Err(error));
                }
            })
            .map_err(LaunchError::Start)?;
        let launcher = Self { orders, thread: Some(thread) };
        match outcome.recv() {
            Ok(Ok(())) => Ok(launcher),
            Ok(Err(error)) => Err(LaunchError::Start(error)),
            Err(_) => Err(LaunchError::Start(std::io::Error::other("the launcher's thread ended"))),
        }
    }

    /// Kills all workers now.
    pub fn kill(&self) {
        // A thread that is gone has no processes left.
        let _ = self.orders.send(Order::Kill);
    }

    /// Waits for all workers to end: by themselves within `grace`, then by SIGTERM, then by SIGKILL. Blocks.
    pub fn finish(mut self, grace: Duration) {
        let _ = self.orders.send(Order::Finish(grace));
        self.join();
    }

    fn join(&mut self) {
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the launcher's thread panicked");
        }
    }
}

impl Drop for Launcher {
    fn drop(&mut self) {
        self.kill();
        self.join();
    }
}

struct Worker {
    slot: u32,
    child: Child,
    /// Held open for as long as the coordinator lives; the worker ends when it closes.
    _stdin: Option<ChildStdin>,
    log: PathBuf,
    ended: bool,
}

struct Workers(Vec<Worker>);

impl Workers {
    fn start(launch: &Launch) -> std::io::Result<Self> {
        let mut workers = Self(Vec::new());
        for slot in 0..launch.workers {
            workers.0.push(start(launch, slot)?);
        }
        Ok(workers)
    }

    fn watch(mut self, orders: &Receiver<Order>, exits: &UnboundedSender<Exited>) {
        let mut finish: Option<(Instant, bool)> = None;
        loop {
            self.reap(exits);
            let all_ended = self.0.iter().all(|worker| worker.ended);
            if let Some((deadline, terminated)) = finish {
                if all_ended {
                    return;
                }
                if Instant::now() >= deadline {
                    self.signal(if terminated { Signal::KILL } else { Signal::TERM });
                    finish = Some((Instant::now() + TERMINATE_GRACE, true));
                }
            }
            match orders.recv_timeout(POLL) {
                Ok(Order::Kill) => {
                    self.signal(Signal::KILL);
                    finish.get_or_insert((Instant::now(), true));
                }
                Ok(Order::Finish(grace)) => {
                    finish.get_or_insert((Instant::now() + grace, false));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    finish.get_or_insert((Instant::now(), true));
                }
            }
        }
    }

    fn reap(&mut self, exits: &UnboundedSender<Exited>) {
        for worker in self.0.iter_mut().filter(|worker| !worker.ended) {
            match worker.child.try_wait() {
                Ok(None) => {}
                Ok(Some(status)) => {
                    worker.ended = true;
                    let exited =
                        Exited { slot: worker.slot, status: in_words(status), last_words: last_line(&worker.log) };
                    // Nobody listens any more once the job is over.
                    let _ = exits.send(exited);
                }
                Err(error) => {
                    tracing::error!(slot = worker.slot, %error, "cannot wait for a worker");
                    worker.ended = true;
                }
            }
        }
    }

    fn signal(&self, signal: Signal) {
        for worker in self.0.iter().filter(|worker| !worker.ended) {
            // Each worker leads a group of its own; it is not reaped yet, so its number cannot be another's.
            let group = Pid::from_child(&worker.child);
            if let Err(error) = kill_process_group(group, signal) {
                tracing::debug!(slot = worker.slot, %error, "the worker is gone already");
            }
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
        for worker in self.0.iter_mut().filter(|worker| !worker.ended) {
            // It was just killed: the wait is short, and its result of no interest.
            let _ = worker.child.wait();
        }
    }
}

fn start(launch: &Launch, slot: u32) -> std::io::Result<Worker> {
    let path = launch.run_directory.join(run_directory::LOGS).join(format!("worker-{slot}.log"));
    let log = File::options().create(true).append(true).open(&path)?;
    let mut child = Command::new(&launch.binary)
        .args(["work", "--coordinator", &launch.coordinator, "--job", &launch.job])
        .args(["--slot", &slot.to_string(), "--threads", &launch.threads.to_string()])
        .env(environment::LAUNCH_TOKEN, &launch.token)
        .env("OMP_NUM_THREADS", launch.threads.to_string())
        // A group of its own, so that a terminal's Ctrl-C reaches the coordinator alone, which then stops the workers.
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()?;
    let stdin = child.stdin.take();
    Ok(Worker { slot, child, _stdin: stdin, log: path, ended: false })
}

fn in_words(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("with exit status {code}"),
        (None, Some(signal)) => format!("by signal {signal}"),
        (None, None) => "for an unknown reason".into(),
    }
}

/// The last line of a log, from its last few kilobytes.
fn last_line(path: &Path) -> Option<String> {
    use std::io::{Read, Seek, SeekFrom};
    let mut file = File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(4096))).ok()?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    text.lines().map(str::trim).rfind(|line| !line.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn launch(directory: &Path, body: &str, workers: u32) -> Launch {
        let binary = directory.join("worker");
        std::fs::write(&binary, format!("#!/bin/sh\n{body}\n")).unwrap();
        std::fs::set_permissions(&binary, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::create_dir_all(directory.join("logs")).unwrap();
        Launch {
            binary,
            coordinator: "http://127.0.0.1:1".into(),
            job: "j".into(),
            token: "t".into(),
            workers,
            threads: 1,
            run_directory: directory.to_owned(),
        }
    }

    fn runs(id: &str) -> bool {
        let status = std::fs::read_to_string(format!("/proc/{}/stat", id.trim())).unwrap_or_default();
        !status.is_empty() && !status.contains(") Z")
    }

    #[test]
    fn exits_are_reported_with_status_and_last_words() {
        let directory = tempfile::tempdir().unwrap();
        let (sender, mut exits) = tokio::sync::mpsc::unbounded_channel();
        let launcher =
            Launcher::start(launch(directory.path(), "echo first; echo last >&2; exit 3", 1), sender).unwrap();
        let exited = exits.blocking_recv().unwrap();
        assert_eq!(exited.status, "with exit status 3");
        assert_eq!(exited.last_words.as_deref(), Some("last"));
        launcher.finish(Duration::ZERO);
    }

    #[test]
    fn nothing_outlives_the_launcher_not_even_what_ignores_it() {
        let directory = tempfile::tempdir().unwrap();
        let body = "trap '' TERM INT; echo $$ > pid-$7; sleep 600 & wait";
        let mut launch = launch(directory.path(), body, 2);
        launch.binary = launch.binary.canonicalize().unwrap();
        let here = directory.path().display().to_string();
        std::fs::write(&launch.binary, format!("#!/bin/sh\ncd {here}\n{body}\n")).unwrap();
        let (sender, _exits) = tokio::sync::mpsc::unbounded_channel();
        let launcher = Launcher::start(launch, sender).unwrap();
        let ids: Vec<String> = (0..2)
            .map(|slot| {
                let path = directory.path().join(format!("pid-{slot}"));
                let deadline = Instant::now() + Duration::from_secs(20);
                loop {
                    match std::fs::read_to_string(&path) {
                        Ok(id) if id.ends_with('\n') => return id,
                        _ => assert!(Instant::now() < deadline, "the worker never wrote its id"),
                    }
                    std::thread::sleep(Duration::from_millis(5));
                }
            })
            .collect();
        drop(launcher);
        assert!(!ids.iter().any(|id| runs(id)));
    }
}
