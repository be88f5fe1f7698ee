//! A run directory, a configuration, a worker binary, and what was observed.

use medley_common::config::RunConfig;
use medley_common::events::{Event, StepEvent};
use medley_coordinator::job::{self, JobError, JobRequest, Observer, Outcome, Stops, Surroundings};
use medley_coordinator::launch::WorkerBinary;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::mpsc;

/// The variable that names the directory of a scene whose job another process is to run.
const COORDINATE: &str = "MEDLEY_TEST_COORDINATE";

/// What a test plays in.
pub struct Scene {
    pub config: RunConfig,
    directory: Arc<tempfile::TempDir>,
    observed: Arc<Mutex<Observed>>,
    check: String,
    version: String,
    role: String,
    has_worker: bool,
}

/// Decides at which events a stop is asked for.
type Trigger = fn(&Event) -> bool;

#[derive(Default)]
struct Observed {
    events: Vec<Event>,
    progress: Vec<u64>,
    trigger: Option<(usize, Trigger, mpsc::Sender<String>)>,
}

struct Eye(Arc<Mutex<Observed>>);

impl Observer for Eye {
    fn event(&mut self, _: SystemTime, event: &Event) {
        let mut observed = self.0.lock().unwrap();
        if let Some((times, trigger, stop)) = &mut observed.trigger
            && *times > 0
            && trigger(event)
        {
            *times -= 1;
            stop.try_send("the test asked".into()).unwrap();
        }
        observed.events.push(event.clone());
    }

    fn progress(&mut self, step: &StepEvent) {
        self.0.lock().unwrap().progress.push(step.step);
    }
}

impl Scene {
    /// Two peers on two workers that play `role`.
    pub fn new(role: &str) -> Self {
        Self::inside(Arc::new(tempfile::tempdir().unwrap()), role)
    }

    fn inside(directory: Arc<tempfile::TempDir>, role: &str) -> Self {
        let mut config = RunConfig::default();
        config.data.path = "data.txt".into();
        config.cohort.workers = 2;
        config.output.log_every = 2;
        config.launch.heartbeat_ms = 50;
        // What its workers do wrong is to be seen, and not mended.
        config.recovery.attempts = 0;
        Self {
            config,
            directory,
            observed: Arc::default(),
            check: "echo '{\"users\": 3}'".into(),
            version: medley_common::VERSION.into(),
            role: role.into(),
            has_worker: true,
        }
    }

    /// The same directory with other workers and nothing observed yet.
    pub fn again(&self, role: &str) -> Self {
        Self::inside(Arc::clone(&self.directory), role)
    }

    pub fn set_check(&mut self, script: &str) {
        self.check = script.into();
    }

    pub fn set_version(&mut self, version: &str) {
        self.version = version.into();
    }

    pub fn remove_worker(&mut self) {
        self.has_worker = false;
    }

    pub fn run_directory(&self) -> PathBuf {
        self.directory.path().join("runs/one")
    }

    pub async fn run(&self, resume: bool) -> Result<Outcome, JobError> {
        self.run_with(resume, mpsc::channel(1)).await
    }

    /// A stop that is asked for `times` times, at events for which `trigger` holds.
    pub fn stop_when(&self, times: usize, trigger: Trigger) -> (mpsc::Sender<String>, mpsc::Receiver<String>) {
        let (stop, stops) = mpsc::channel(8);
        self.observed.lock().unwrap().trigger = Some((times, trigger, stop.clone()));
        (stop, stops)
    }

    pub async fn run_with(
        &self,
        resume: bool,
        (_stop, stops): (mpsc::Sender<String>, mpsc::Receiver<String>),
    ) -> Result<Outcome, JobError> {
        let surroundings =
            Surroundings { worker: Some(WorkerBinary::at(self.worker_script())), stops: Stops::Channel(stops) };
        let request = JobRequest { config: self.config.clone(), run_directory: self.run_directory(), resume };
        let eye = Box::new(Eye(Arc::clone(&self.observed)));
        let run = job::run_in(surroundings, request, vec![eye]);
        tokio::time::timeout(Duration::from_secs(60), run).await.expect("a job ends")
    }

    /// The script is written by another process: while this one had it open for writing, a process started by
    /// another test would inherit it, and it could not be run ("text file busy").
    fn worker_script(&self) -> PathBuf {
        let path = self.directory.path().join(format!("worker-{}", self.role));
        if !self.has_worker {
            return path;
        }
        let program = std::env::current_exe().unwrap();
        let body = format!(
            "#!/bin/sh\ncase \"$1\" in\n--version) echo medley-worker {};;\ncheck) cat >/dev/null; {};;\nwork) echo $$ >> {}; MEDLEY_TEST_ROLE={} MEDLEY_TEST_ARGUMENTS=\"$*\" exec {} --exact fake_worker --nocapture --test-threads 1;;\nesac",
            self.version,
            self.check,
            self.pids().display(),
            self.role,
            program.display(),
        );
        let status = Command::new("/bin/sh")
            .args(["-c", "rm -f \"$0\"; printf '%s\\n' \"$1\" > \"$0\" && chmod +x \"$0\""])
            .arg(&path)
            .arg(body)
            .status()
            .unwrap();
        assert!(status.success());
        path
    }

    fn pids(&self) -> PathBuf {
        self.directory.path().join("pids")
    }

    /// Every worker process that was started.
    pub fn worker_processes(&self) -> Vec<String> {
        lines_of(&self.pids())
    }

    pub fn assert_all_workers_have_ended(&self) {
        let processes = self.worker_processes();
        assert_eq!(processes.len(), 2);
        let start = Instant::now();
        while processes.iter().any(|number| is_alive(number)) {
            assert!(start.elapsed() < Duration::from_secs(20), "a worker is left");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn events(&self) -> Vec<Event> {
        self.observed.lock().unwrap().events.clone()
    }

    pub fn progress(&self) -> Vec<u64> {
        self.observed.lock().unwrap().progress.clone()
    }

    /// Another process that runs this scene's job.
    pub fn run_in_another_process(&self) -> Child {
        self.worker_script();
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "coordinator_to_be_killed", "--nocapture"])
            .env(COORDINATE, self.directory.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }
}

/// Runs the job of a scene of another process, where this process was started for that.
pub fn coordinate_if_asked() {
    let Some(directory) = std::env::var_os(COORDINATE).map(PathBuf::from) else {
        return;
    };
    let surroundings =
        Surroundings { worker: Some(WorkerBinary::at(directory.join("worker-until-stopped"))), stops: Stops::Signals };
    let mut config = RunConfig::default();
    config.data.path = "data.txt".into();
    config.cohort.workers = 2;
    let request = JobRequest { config, run_directory: directory.join("runs/one"), resume: false };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(job::run_in(surroundings, request, Vec::new())).unwrap();
}

/// Waits until something holds.
pub async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(20), "waited for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub fn lines_of(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// Whether a process runs; one that has ended but was not reaped by its new parent yet does not.
fn is_alive(number: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{number}/stat")).is_ok_and(|stat| {
        let after_name = stat.rsplit(')').next().unwrap_or_default().trim();
        !after_name.starts_with(['Z', 'X'])
    })
}

/// The kind of an event.
pub fn name(event: &Event) -> &'static str {
    match event {
        Event::JobStarted { .. } => "started",
        Event::WorkerJoined { .. } => "joined",
        Event::Generation { .. } => "generation",
        Event::Ready { .. } => "ready",
        Event::Step(_) => "step",
        Event::Evaluation(_) => "evaluation",
        Event::Checkpoint { .. } => "checkpoint",
        Event::WorkerCompleted { .. } => "worker completed",
        Event::WorkerLost { .. } => "lost",
        Event::Recovered { .. } => "recovered",
        Event::Led { .. } => "led",
        Event::Warning { .. } => "warning",
        Event::Finished { .. } => "finished",
    }
}
