//! Starts the workers, reports their ends, and leaves none behind.

use super::process::{Process, describe};
use super::{LaunchError, WorkerBinary};
use crate::cluster::Slot;
use rustix::process::Signal;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Time between looks at the processes.
const LOOK: Duration = Duration::from_millis(10);

/// What is started.
#[derive(Debug, Clone)]
pub struct LaunchPlan {
    /// The worker binary.
    pub binary: WorkerBinary,
    /// Slots `0..workers` are filled at once, spares among them.
    pub workers: u32,
    /// `http://host:port` of the coordinator.
    pub coordinator: String,
    /// The job.
    pub job: String,
    /// The token by which a worker proves that it was launched here.
    pub token: String,
    /// Threads of a worker.
    pub threads: u32,
    /// Its configuration is read by workers while they wait for their assignments; logs go to `logs/worker-N.log` in it.
    pub run_directory: PathBuf,
    /// Directory of the certificates by which a worker and this coordinator know each other; none: plain text.
    pub certificates: Option<PathBuf>,
}

/// A worker process that ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// Whose.
    pub slot: Slot,
    /// Which process; 0 for one that could not be started.
    pub process_id: u32,
    /// How: `with exit status 1`, `by signal 9 (SIGKILL)`.
    pub status: String,
    /// The line of its log, of those that it wrote itself, that says most of its end.
    pub last_words: Option<String>,
}

enum Command {
    /// Start a process in a slot that has none.
    Start(Slot),
    /// End a slot's process, and report nothing of it.
    End(Slot),
    /// Wait for the workers to end by themselves, then ask them to, then kill them.
    Stop {
        by_themselves: Duration,
        asked: Duration,
    },
    Kill,
}

/// The worker processes of a job. Dropping it kills them.
#[derive(Debug)]
pub struct Launcher {
    commands: Option<Sender<Command>>,
    /// One thread starts all workers and lives until the last has ended. A worker asks the kernel for a signal at
    /// its parent's death (`PR_SET_PDEATHSIG`), and for the kernel the parent is the *thread* that forked: started
    /// from a thread of the async runtime, which may end whenever the runtime likes, workers would be killed in the
    /// middle of a job.
    thread: Option<JoinHandle<()>>,
}

impl Launcher {
    /// Starts all workers. `on_exit` is told every end, on the launcher's thread.
    ///
    /// # Errors
    /// [`LaunchError::Start`] where one cannot be started; those that were are killed.
    pub fn start(plan: LaunchPlan, on_exit: impl Fn(Exit) + Send + 'static) -> Result<Self, LaunchError> {
        let (commands, orders) = channel();
        let (started, outcome) = channel();
        let thread = std::thread::Builder::new()
            .name("launcher".into())
            .spawn(move || {
                let processes: Result<Vec<Process>, LaunchError> =
                    (0..plan.workers).map(|slot| Process::start(&plan, slot)).collect();
                match processes {
                    Ok(processes) => {
                        let _ = started.send(Ok(()));
                        watch(&plan, processes, &orders, on_exit);
                    }
                    Err(error) => {
                        let _ = started.send(Err(error));
                    }
                }
            })
            .map_err(LaunchError::Thread)?;
        let launcher = Self { commands: Some(commands), thread: Some(thread) };
        match outcome.recv() {
            Ok(started) => started.map(|()| launcher),
            Err(_) => Err(LaunchError::Thread(std::io::Error::other("it ended early"))),
        }
    }

    /// Starts a process in a slot, in the place of one that ended. One that cannot be started is reported as an exit.
    pub fn start_one(&self, slot: Slot) {
        self.send(Command::Start(slot));
    }

    /// Kills a slot's process, if there is one, and reports nothing of it.
    pub fn end_one(&self, slot: Slot) {
        self.send(Command::End(slot));
    }

    /// Kills all workers now.
    pub fn kill(&self) {
        self.send(Command::Kill);
    }

    /// Waits until all workers have ended: by themselves within one time, asked to (SIGTERM) within another, else
    /// killed. Blocks for no longer than both.
    pub fn stop(mut self, by_themselves: Duration, asked: Duration) {
        self.send(Command::Stop { by_themselves, asked });
        self.join();
    }

    fn send(&self, command: Command) {
        if let Some(commands) = &self.commands {
            // The thread has ended only when no process is left.
            let _ = commands.send(command);
        }
    }

    fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Launcher {
    fn drop(&mut self) {
        // A launcher that is gone kills its workers.
        self.commands = None;
        self.join();
    }
}

/// How far the ending of the workers has come.
enum Phase {
    Working,
    Ending { ask_at: Instant, kill_at: Instant },
    Asked { kill_at: Instant },
    Killed,
}

fn watch(plan: &LaunchPlan, mut processes: Vec<Process>, orders: &Receiver<Command>, on_exit: impl Fn(Exit)) {
    let mut phase = Phase::Working;
    // Their ends were ordered and are nobody's concern.
    let mut ended: Vec<Process> = Vec::new();
    loop {
        ended.retain_mut(|process| process.reap().is_none());
        processes.retain_mut(|process| match process.reap() {
            None => true,
            Some((status, last_words)) => {
                let (slot, process_id) = (process.slot, process.id());
                on_exit(Exit { slot, process_id, status: describe(status), last_words });
                false
            }
        });
        if processes.is_empty() && ended.is_empty() && !matches!(phase, Phase::Working) {
            return;
        }
        let now = Instant::now();
        match orders.recv_timeout(LOOK) {
            Ok(Command::Start(slot)) => {
                let is_taken = processes.iter().any(|process| process.slot == slot);
                if matches!(phase, Phase::Working) && !is_taken {
                    match Process::start(plan, slot) {
                        Ok(process) => processes.push(process),
                        Err(error) => {
                            let status = format!("before it began: {error}");
                            on_exit(Exit { slot, process_id: 0, status, last_words: None });
                        }
                    }
                }
            }
            Ok(Command::End(slot)) => {
                for process in processes.extract_if(.., |process| process.slot == slot) {
                    process.signal(Signal::KILL);
                    ended.push(process);
                }
            }
            Ok(Command::Stop { by_themselves, asked }) => {
                if matches!(phase, Phase::Working) {
                    phase = Phase::Ending { ask_at: now + by_themselves, kill_at: now + by_themselves + asked };
                }
            }
            Ok(Command::Kill) => phase = kill(&processes),
            Err(RecvTimeoutError::Disconnected) => {
                phase = kill(&processes);
                // A channel without a sender no longer waits.
                std::thread::sleep(LOOK);
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
        phase = match phase {
            Phase::Ending { ask_at, kill_at } if now >= ask_at => {
                signal(&processes, Signal::TERM);
                Phase::Asked { kill_at }
            }
            Phase::Asked { kill_at } if now >= kill_at => kill(&processes),
            other => other,
        };
    }
}

fn kill(processes: &[Process]) -> Phase {
    signal(processes, Signal::KILL);
    Phase::Killed
}

fn signal(processes: &[Process], signal: Signal) {
    for process in processes {
        process.signal(signal);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::process::tests::script;
    use super::*;
    use std::path::Path;
    use std::sync::mpsc;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn launch(run: &Path, workers: u32, body: &str) -> (Launcher, mpsc::Receiver<Exit>) {
        std::fs::create_dir_all(run.join("logs")).unwrap();
        let (exits, ended) = mpsc::channel();
        let plan = LaunchPlan {
            binary: WorkerBinary::at(script(run, "worker", body)),
            workers,
            coordinator: "http://127.0.0.1:9".into(),
            job: "j1".into(),
            token: "secret".into(),
            threads: 3,
            run_directory: run.to_owned(),
            certificates: None,
        };
        let launcher = Launcher::start(plan, move |exit| {
            let _ = exits.send(exit);
        });
        (launcher.unwrap(), ended)
    }

    fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
        let start = Instant::now();
        while !holds() {
            assert!(start.elapsed() < PATIENCE, "waited for {what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn numbers(path: &Path) -> Vec<String> {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.split_whitespace().map(str::to_owned).collect()
    }

    /// Whether a process runs; one that has ended but was not reaped by its new parent yet does not.
    fn is_alive(number: &str) -> bool {
        std::fs::read_to_string(format!("/proc/{number}/stat"))
            .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().trim().starts_with(['Z', 'X']))
    }

    #[test]
    fn workers_get_their_orders_and_their_ends_are_reported_with_their_last_words() {
        let run = tempfile::tempdir().unwrap();
        let body = r#"echo "$*"; echo "token $MEDLEY_LAUNCH_TOKEN" >&2; echo "last words of $7"; test "$7" = 0 && kill -9 $$; exit 3"#;
        let (launcher, ended) = launch(run.path(), 2, body);
        let mut exits: Vec<Exit> = (0..2).map(|_| ended.recv_timeout(PATIENCE).unwrap()).collect();
        exits.sort_by_key(|exit| exit.slot);
        assert!(exits[0].status.starts_with("by signal 9"), "{exits:?}");
        assert_eq!(exits[1].status, "with exit status 3");
        assert_eq!(exits[1].last_words.as_deref(), Some("last words of 1"));
        let log = std::fs::read_to_string(run.path().join("logs/worker-1.log")).unwrap();
        let orders = format!(
            "work --coordinator http://127.0.0.1:9 --job j1 --slot 1 --threads 3 --config {}",
            run.path().join("run.toml").display()
        );
        assert_eq!(log.lines().collect::<Vec<_>>(), [orders.as_str(), "token secret", "last words of 1"]);
        launcher.stop(Duration::ZERO, Duration::ZERO);
    }

    #[test]
    fn a_slot_is_filled_again_and_an_ordered_end_is_not_reported() {
        let run = tempfile::tempdir().unwrap();
        let started = run.path().join("started");
        let body = format!("echo $$ >> {}; exec sleep 600", started.display());
        let (launcher, ended) = launch(run.path(), 2, &body);
        wait_for("two processes", || numbers(&started).len() == 2);
        launcher.end_one(1);
        launcher.start_one(1);
        launcher.start_one(0);
        wait_for("a third process", || numbers(&started).len() == 3);
        let all = numbers(&started);
        wait_for("one to end", || all.iter().filter(|number| is_alive(number)).count() == 2);
        assert!(ended.try_recv().is_err(), "an end that was ordered was reported");
        launcher.kill();
        let mut slots: Vec<Slot> = (0..2).map(|_| ended.recv_timeout(PATIENCE).unwrap().slot).collect();
        slots.sort_unstable();
        assert_eq!(slots, [0, 1]);
    }

    #[test]
    fn last_words_are_those_of_this_process() {
        let run = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(run.path().join("logs")).unwrap();
        std::fs::write(run.path().join("logs/worker-0.log"), "error: of an earlier session\n").unwrap();
        std::fs::write(run.path().join("logs/worker-1.log"), "error: of an earlier session\n").unwrap();
        let (_launcher, ended) = launch(run.path(), 2, r#"test "$7" = 0 || echo "of this one"; exit 3"#);
        let mut exits: Vec<Exit> = (0..2).map(|_| ended.recv_timeout(PATIENCE).unwrap()).collect();
        exits.sort_by_key(|exit| exit.slot);
        let said: Vec<Option<&str>> = exits.iter().map(|exit| exit.last_words.as_deref()).collect();
        assert_eq!(said, [None, Some("of this one")]);
    }

    #[test]
    fn dropping_the_launcher_leaves_no_process_and_no_child_of_one() {
        let run = tempfile::tempdir().unwrap();
        let started = run.path().join("started");
        let body = format!("trap '' TERM; sleep 600 & echo $$ $! >> {}; wait; sleep 600", started.display());
        let (launcher, _ended) = launch(run.path(), 2, &body);
        wait_for("four processes", || numbers(&started).len() == 4);
        let processes = numbers(&started);
        assert!(processes.iter().all(|number| is_alive(number)));
        drop(launcher);
        wait_for("their end", || !processes.iter().any(|number| is_alive(number)));
    }

    #[test]
    fn a_worker_that_ends_leaves_no_child_either() {
        let run = tempfile::tempdir().unwrap();
        let started = run.path().join("started");
        let body = format!("sleep 600 & echo $! > {}", started.display());
        let (_launcher, ended) = launch(run.path(), 1, &body);
        ended.recv_timeout(PATIENCE).unwrap();
        let child = numbers(&started);
        wait_for("the child's end", || !is_alive(&child[0]));
    }

    #[test]
    fn stopping_lets_asks_and_then_kills() {
        for (body, expected) in [
            ("exec sleep 0.1", "with exit status 0"),
            ("trap 'exit 7' TERM; while :; do sleep 0.05; done", "with exit status 7"),
            ("trap '' TERM; while :; do sleep 0.05; done", "by signal 9"),
        ] {
            let run = tempfile::tempdir().unwrap();
            let started = run.path().join("started");
            let announced = body.replacen("; while", &format!("; echo > {}; while", started.display()), 1);
            let (launcher, ended) = launch(run.path(), 1, &announced);
            if announced != body {
                wait_for("the trap", || started.exists());
            }
            launcher.stop(Duration::from_millis(400), Duration::from_millis(400));
            let exit = ended.try_recv().unwrap();
            assert!(exit.status.starts_with(expected), "{body}: {exit:?}");
        }
    }

    #[test]
    fn the_workers_input_stays_open_while_the_job_lives() {
        let run = tempfile::tempdir().unwrap();
        let (launcher, ended) = launch(run.path(), 1, "cat; echo the coordinator is gone");
        assert!(ended.recv_timeout(Duration::from_millis(100)).is_err());
        launcher.kill();
        assert!(ended.recv_timeout(PATIENCE).unwrap().status.starts_with("by signal 9"));
    }

    #[test]
    fn a_worker_that_cannot_be_started_is_an_error() {
        let run = tempfile::tempdir().unwrap();
        let plan = LaunchPlan {
            binary: WorkerBinary::at(run.path().join("nothing")),
            workers: 1,
            coordinator: String::new(),
            job: String::new(),
            token: String::new(),
            threads: 1,
            run_directory: run.path().to_owned(),
            certificates: None,
        };
        let error = Launcher::start(plan, |_| {}).unwrap_err().to_string();
        assert!(error.contains("cannot start worker 0"), "{error}");
    }
}
