//! A run as a child process, and what its events say while it goes on.

use super::{Plan, PlayError, io};
use medley_common::events::{Event, EventLine};
use medley_common::faults::Fault;
use medley_common::{environment, run_directory};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A small mutual job, whose steps are long enough to be struck in their middle and short enough for many.
const JOB: &str = r#"name = "chaos"
[samples]
max_length = 20
copies = 4
[network]
dimension = 32
feed_forward = 64
[cohort]
peers = 4
[optimizer]
learning_rate = 2e-3
[train]
steps = 120
batch_size = 48
checkpoint_every = 10
evaluate_every = 60
[evaluation]
protocols = ["full"]
[launch]
death_ms = 1000
"#;

/// Its peers.
pub const PEERS: usize = 4;

/// Its steps, where neither the scenario nor a configuration says otherwise.
pub const STEPS: u64 = 120;

/// Generates data and a job for it; the configuration's path.
pub fn generate(medley: &Path, out: &Path) -> Result<PathBuf, PlayError> {
    let out = std::path::absolute(out).map_err(io(format!("find {}", out.display())))?;
    let data = out.join("data.txt");
    let mut command = Command::new(medley);
    command.args(["data", "generate"]).arg(&data).args(["--users", "300", "--items", "400", "--mean-length", "14"]);
    let output = command.stdin(Stdio::null()).output().map_err(io("start medley data generate"))?;
    if !output.status.success() {
        return Err(PlayError::Undisturbed(last_line(&String::from_utf8_lossy(&output.stderr))));
    }
    let config = out.join("job.toml");
    let path = toml::Value::String(data.display().to_string());
    let text = format!("{JOB}[data]\npath = {path}\n");
    std::fs::write(&config, text).map_err(io(format!("write {}", config.display())))?;
    Ok(config)
}

/// A `medley run`. Dropping it kills it, and with it its workers.
#[derive(Debug)]
pub struct Job {
    child: Child,
    directory: PathBuf,
    errors: PathBuf,
    has_succeeded: Option<bool>,
    read: u64,
    rest: String,
    step: u64,
    outcome: String,
    message: String,
    warnings: Vec<String>,
    workers: BTreeMap<u32, u32>,
}

impl Job {
    /// Starts it with a directory of its own in the plan's.
    pub fn start(plan: &Plan, config: &Path, name: &str, faults: &[Fault]) -> Result<Self, PlayError> {
        let directory = plan.out.join(name);
        let errors = plan.out.join(format!("{name}.log"));
        let log = File::create(&errors).map_err(io(format!("write {}", errors.display())))?;
        let mut command = Command::new(&plan.medley);
        command.arg("run").arg(config).arg("--out").arg(&directory).arg("--quiet");
        command.args(["--workers", &plan.scenario.workers.to_string(), "--set", "output.log_every=1"]);
        for (key, value) in &plan.scenario.job {
            command.args(["--set", &format!("{key}={value}")]);
        }
        if !faults.is_empty() {
            let list = serde_json::to_string(faults).unwrap_or_default();
            command.env(environment::FAULTS, list);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().map_err(io(format!("start {}", plan.medley.display())))?;
        Ok(Self {
            child,
            directory,
            errors,
            has_succeeded: None,
            read: 0,
            rest: String::new(),
            step: 0,
            outcome: "failed".into(),
            message: String::new(),
            warnings: Vec::new(),
            workers: BTreeMap::new(),
        })
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> Result<bool, PlayError> {
        if self.has_succeeded.is_none() {
            let status = self.child.try_wait().map_err(io("wait for medley run"))?;
            self.has_succeeded = status.map(|status| status.success());
        }
        Ok(self.has_succeeded.is_some())
    }

    /// What has happened since one looked last.
    pub fn look(&mut self) -> Result<Vec<EventLine>, PlayError> {
        let path = self.directory.join(run_directory::EVENTS);
        let Ok(mut file) = File::open(&path) else { return Ok(Vec::new()) };
        let failed = || io(format!("read {}", path.display()));
        file.seek(SeekFrom::Start(self.read)).map_err(failed())?;
        let mut text = String::new();
        self.read += file.read_to_string(&mut text).map_err(failed())? as u64;
        self.rest += &text;
        let whole = self.rest.rfind('\n').map_or(0, |end| end + 1);
        let rest = self.rest.split_off(whole);
        let lines = std::mem::replace(&mut self.rest, rest);
        let news: Vec<EventLine> = lines.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        for line in &news {
            self.take_in(&line.event);
        }
        Ok(news)
    }

    fn take_in(&mut self, event: &Event) {
        match event {
            Event::WorkerJoined { slot, process_id, .. } => drop(self.workers.insert(*slot, *process_id)),
            Event::Step(step) => self.step = self.step.max(step.step),
            Event::Warning { message } => self.warnings.push(message.clone()),
            Event::Finished { outcome, message, .. } => {
                (self.outcome, self.message) = (outcome.clone(), message.clone());
            }
            _ => {}
        }
    }

    /// The process in a worker's place.
    pub fn worker(&self, slot: u32) -> Option<u32> {
        self.workers.get(&slot).copied()
    }

    pub fn has_succeeded(&self) -> bool {
        self.has_succeeded == Some(true)
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub fn step(&self) -> u64 {
        self.step
    }

    pub fn outcome(&self) -> String {
        self.outcome.clone()
    }

    pub fn message(&self) -> String {
        if self.message.is_empty() { self.last_words() } else { self.message.clone() }
    }

    pub fn warnings(&self) -> Vec<String> {
        self.warnings.clone()
    }

    /// The last line that it wrote to standard error.
    pub fn last_words(&self) -> String {
        last_line(&std::fs::read_to_string(&self.errors).unwrap_or_default())
    }

    /// That it did not end.
    pub fn hangs(&self, run: &'static str, bound: Duration) -> PlayError {
        PlayError::Hangs { run, seconds: bound.as_secs(), directory: self.directory.display().to_string() }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if self.has_succeeded.is_none() {
            // It may have ended by itself meanwhile.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn last_line(text: &str) -> String {
    let line = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
    line.trim_start_matches("error: ").to_owned()
}
