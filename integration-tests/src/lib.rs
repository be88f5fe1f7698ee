//! The harness of the tests that run real processes: finds the binaries, makes data, runs jobs, reads their results.
//!
//! The binaries are those of the profile that the tests were built with; `make test` builds them first.

#![allow(clippy::expect_used)]

pub mod etcd;
pub mod hosts;

use medley_common::events::{Event, EventLine};
use medley_common::run_directory;
use medley_common::summary::Summary;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// No job of these tests may take longer.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// A directory of its own for a test, with a small dataset in it.
pub struct Bench {
    directory: tempfile::TempDir,
}

impl Bench {
    /// A fresh directory with generated data of this many users, items and mean length.
    pub fn new(users: usize, items: usize, mean_length: usize) -> Self {
        let bench = Self { directory: tempfile::tempdir().expect("a temporary directory") };
        let numbers = [users, items, mean_length].map(|number| number.to_string());
        let output = bench
            .command(&["data", "generate", "data.txt", "--users", &numbers[0], "--items", &numbers[1]])
            .args(["--mean-length", &numbers[2]])
            .output()
            .expect("medley starts");
        assert!(output.status.success(), "{}", text(&output.stderr));
        bench.write(
            "job.toml",
            "name = \"job\"\n[data]\npath = \"data.txt\"\n[samples]\nmax_length = 12\ncopies = 3\n\
             [network]\ndimension = 16\nfeed_forward = 32\n[optimizer]\nlearning_rate = 0.003\nwarmup_steps = 5\n\
             [train]\nsteps = 50\nbatch_size = 16\n[evaluation]\nprotocols = [\"full\"]\n\
             [output]\nlog_every = 1\n",
        );
        bench
    }

    /// A directory with data for quick jobs.
    pub fn small() -> Self {
        Self::new(80, 100, 12)
    }

    /// Where the test's files lie; commands run there.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Writes a file.
    pub fn write(&self, name: &str, contents: impl AsRef<[u8]>) {
        std::fs::write(self.path().join(name), contents).expect("the test's directory is writable");
    }

    /// A `medley` command in the test's directory.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary("medley"));
        command.args(arguments).current_dir(self.path()).stdin(Stdio::null());
        command.env("MEDLEY_WORKER", binary("medley-worker")).env("RUST_BACKTRACE", "0");
        command
    }

    /// Runs `medley` to its end.
    pub fn medley(&self, arguments: &[&str]) -> Output {
        let child = self.start(arguments);
        wait(child)
    }

    /// Starts `medley` with its output captured.
    pub fn start(&self, arguments: &[&str]) -> Child {
        let mut command = self.command(arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("medley starts")
    }

    /// `medley run job.toml --out NAME` with settings; panics unless it succeeds. Returns the run directory.
    pub fn run(&self, name: &str, settings: &[&str]) -> PathBuf {
        let mut arguments = vec!["run", "job.toml", "--out", name];
        arguments.extend(settings.iter().flat_map(|setting| ["--set", setting]));
        let output = self.medley(&arguments);
        assert!(output.status.success(), "{settings:?}: {}{}", text(&output.stdout), text(&output.stderr));
        self.path().join(name)
    }
}

/// Waits for a process with a bound, collecting what it prints.
pub fn wait(mut child: Child) -> Output {
    let (stdout, stderr) = (drain(child.stdout.take()), drain(child.stderr.take()));
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = child.try_wait().expect("the child can be waited for") {
            break status;
        }
        if Instant::now() > deadline {
            child.kill().expect("the child can be killed");
            panic!("still running after {PATIENCE:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let collect = |reader: std::thread::JoinHandle<Vec<u8>>| reader.join().expect("the reader ends with the pipe");
    Output { status, stdout: collect(stdout), stderr: collect(stderr) }
}

fn drain(pipe: Option<impl std::io::Read + Send + 'static>) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            pipe.read_to_end(&mut bytes).expect("the pipe can be read");
        }
        bytes
    })
}

/// A binary of this build.
pub fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test knows itself");
    let profile = test.parent().and_then(Path::parent).expect("tests lie in target/PROFILE/deps");
    let path = profile.join(name);
    assert!(path.is_file(), "{} is missing: build it first, as `make test` does", path.display());
    path
}

/// Output as text.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The result of a run.
pub fn summary(run: &Path) -> Summary {
    let bytes = std::fs::read(run.join(run_directory::SUMMARY)).expect("a run leaves a summary");
    serde_json::from_slice(&bytes).expect("the summary has its documented form")
}

/// All that happened in a run, with the times.
pub fn event_lines(run: &Path) -> Vec<EventLine> {
    let lines = std::fs::read_to_string(run.join(run_directory::EVENTS)).expect("a run leaves events");
    let parse = |line: &str| serde_json::from_str(line).expect("events have their documented form");
    // Of a run that goes on, the last line may be half written.
    lines.split_inclusive('\n').filter(|line| line.ends_with('\n')).map(parse).collect()
}

/// All that happened in a run.
pub fn events(run: &Path) -> Vec<Event> {
    event_lines(run).into_iter().map(|line| line.event).collect()
}

/// When each invocation of a run had its first event and its last, in seconds.
pub fn invocations(run: &Path) -> Vec<(f64, f64)> {
    let mut times: Vec<(f64, f64)> = Vec::new();
    for EventLine { time, event } in event_lines(run) {
        match times.last_mut() {
            Some((_, last)) if !matches!(event, Event::JobStarted { .. }) => *last = time,
            _ => times.push((time, time)),
        }
    }
    times
}

/// The total loss of every peer by step; of a step that was trained twice, the later.
pub fn curves(run: &Path) -> BTreeMap<u32, BTreeMap<u64, f64>> {
    let mut curves: BTreeMap<u32, BTreeMap<u64, f64>> = BTreeMap::new();
    for event in events(run) {
        if let Event::Step(step) = event {
            for (peer, losses) in step.losses {
                curves.entry(peer).or_default().insert(step.step, losses.total);
            }
        }
    }
    curves
}

/// Largest relative difference between the curves of two runs.
pub fn difference(left: &Path, right: &Path) -> f64 {
    let (left, right) = (curves(left), curves(right));
    assert_eq!(left.len(), right.len(), "the same peers");
    let mut worst: f64 = 0.0;
    for (peer, left) in &left {
        let right = &right[peer];
        assert_eq!(left.len(), right.len(), "the same steps");
        for (step, left) in left {
            worst = worst.max((left - right[step]).abs() / left.abs().max(1e-9));
        }
    }
    worst
}

/// Processes whose command line contains a text.
pub fn processes_with(text: &str) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").expect("a /proc");
    let matches = |id: &u32| {
        let line = std::fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).replace('\0', " ").contains(text)
    };
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).filter(matches).collect()
}

/// Waits until something holds; panics with `what` when it does not in time.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "timed out waiting until {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
