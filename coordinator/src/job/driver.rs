//! Drives a job: feeds the cluster what happens, does what it asks for.

use super::{JobError, JobRequest, Observer, Outcome, Prepared};
use crate::checkpoint::{self, Committed};
use crate::cluster::{Action, Cluster, Commit, Event, Resume, Settings, Slot};
use crate::launch::{Exited, Launch, Launcher};
use crate::server::{self, Incoming, Outgoing, Server};
use crate::store::{Embedded, JobRecord, Store};
use medley_common::config::{self, RunConfig};
use medley_common::events::Event as JobEvent;
use medley_common::manifest::TrainingState;
use medley_common::{VERSION, run_directory};
use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

/// How often the cluster is told of the time.
const TICK: Duration = Duration::from_millis(50);

/// How long the cause of a failure is waited for once its consequences are seen.
const VERDICT: Duration = Duration::from_secs(2);

/// How long workers have to finish their step and write a checkpoint when asked to stop.
const STOP: Duration = Duration::from_secs(120);

/// How long released workers have to end by themselves.
const RELEASE: Duration = Duration::from_secs(5);

/// Runs a prepared job to its end.
///
/// # Errors
/// When it cannot begin; once workers run, every end is an [`Outcome`].
pub async fn run(prepared: Prepared, observers: Vec<Box<dyn Observer>>) -> Result<Outcome, JobError> {
    let Prepared { request, binary, preflight, checkpoint } = prepared;
    let JobRequest { config, run_directory: run, .. } = request;
    checkpoint::remove_stale_staging(&run)?;
    let store = Embedded::open(&run.join(run_directory::STORE))?;
    let mut record = match JobRecord::load(&store)? {
        Some(record) => record,
        None => JobRecord::new(random_hex(4)?),
    };
    record.generation += 1;
    record.status = "running".into();
    record.checkpoint = checkpoint.as_ref().map(|(step, _)| *step);
    record.save(&store)?;

    let workers = if config.cohort.workers == 0 { config.cohort.peers } else { config.cohort.workers } as u32;
    let token = random_hex(16)?;
    let heartbeat = Duration::from_millis(config.launch.heartbeat_ms);
    let (server, incoming) = Server::start(&config.launch.listen, &record.id, &token, workers, heartbeat).await?;
    let signals = Signals::new()?;
    let (exits, exited) = mpsc::unbounded_channel();
    let launch = Launch {
        binary,
        coordinator: server.url(),
        job: record.id.clone(),
        token,
        workers,
        threads: threads(&config, workers),
        run_directory: run.clone(),
    };
    let launcher = Launcher::start(launch, exits)?;
    let resume = checkpoint.map(|(step, directory)| Resume {
        step,
        directory: directory.strip_prefix(&run).unwrap_or(&directory).display().to_string(),
        data_hash: preflight.data_hash,
    });
    let settings = Settings {
        peers: config.cohort.peers as u32,
        workers,
        generation: record.generation,
        resume: resume.clone(),
        log_every: config.output.log_every,
        join: Duration::from_millis(config.launch.join_ms),
        death: Duration::from_millis(config.launch.death_ms),
        verdict: VERDICT,
        stop: STOP,
    };
    let terms = server::convert::JobTerms {
        job: record.id.clone(),
        config: config::to_toml(&config),
        run_directory: absolute(&run).display().to_string(),
        secret: random_bytes::<32>()?.to_vec(),
    };
    let (committed, commits) = mpsc::unbounded_channel();
    let mut driver = Driver {
        cluster: Cluster::new(settings),
        started: Instant::now(),
        observers,
        outgoing: HashMap::new(),
        launcher: Some(launcher),
        terms,
        config: Arc::new(config),
        run: run.clone(),
        store: Box::new(store),
        record,
        committed,
        writing: 0,
        outcome: None,
    };
    driver.tell(&JobEvent::JobStarted {
        job: driver.record.id.clone(),
        version: VERSION.into(),
        method: driver.config.method.name.to_string(),
        peers: driver.config.cohort.peers as u32,
        workers,
        resumed_from: resume.map(|resume| resume.step),
    });
    let outcome = driver.drive(incoming, exited, commits, signals).await;
    driver.end(&outcome).await;
    drop(server);
    Ok(outcome)
}

struct Driver {
    cluster: Cluster,
    started: Instant,
    observers: Vec<Box<dyn Observer>>,
    outgoing: HashMap<Slot, Outgoing>,
    launcher: Option<Launcher>,
    terms: server::convert::JobTerms,
    config: Arc<RunConfig>,
    run: PathBuf,
    store: Box<dyn Store>,
    record: JobRecord,
    committed: mpsc::UnboundedSender<(Commit, Result<Committed, String>)>,
    /// Checkpoints that are being committed.
    writing: usize,
    outcome: Option<Outcome>,
}

impl Driver {
    async fn drive(
        &mut self,
        mut incoming: mpsc::Receiver<Incoming>,
        mut exited: mpsc::UnboundedReceiver<Exited>,
        mut commits: mpsc::UnboundedReceiver<(Commit, Result<Committed, String>)>,
        mut signals: Signals,
    ) -> Outcome {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let event = tokio::select! {
                biased;
                reason = signals.next() => Event::StopRequested { reason: reason.into() },
                Some((commit, result)) = commits.recv() => self.committed(&commit, result),
                Some(incoming) = incoming.recv() => self.came(incoming),
                Some(Exited { slot, status, last_words }) = exited.recv() => {
                    // What it said before it ended comes first: drain what is there.
                    while let Ok(earlier) = incoming.try_recv() {
                        let event = self.came(earlier);
                        self.take(event);
                    }
                    Event::Exited { slot, status, last_words }
                }
                _ = ticks.tick() => Event::Tick,
            };
            self.take(event);
            if let Some(outcome) = self.outcome.take() {
                return outcome;
            }
        }
    }

    /// Feeds the cluster an event and does what it asks for, until it asks for nothing more.
    fn take(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            for action in self.cluster.apply(self.started.elapsed(), event) {
                if let Err(message) = self.act(action) {
                    events.push_back(Event::Broken { message });
                }
            }
        }
    }

    fn came(&mut self, incoming: Incoming) -> Event {
        match incoming {
            Incoming::Event(event) => event,
            Incoming::Opened { event, slot, outgoing } => {
                self.outgoing.insert(slot, outgoing);
                event
            }
        }
    }

    fn act(&mut self, action: Action) -> Result<(), String> {
        match action {
            Action::Assign { slot, assignment } => {
                self.send(slot, server::convert::assignment(assignment, &self.terms));
            }
            Action::SendStop { slot, generation, reason } => {
                self.send(slot, server::convert::stop(generation, reason));
            }
            Action::Release { slot, generation } => self.send(slot, server::convert::release(generation)),
            Action::CommitCheckpoint(commit) => self.commit(commit),
            Action::Record(event) => self.tell(&event),
            Action::Progress(step) => self.observers.iter_mut().for_each(|observer| observer.progress(&step)),
            Action::KillAll => {
                if let Some(launcher) = &self.launcher {
                    launcher.kill();
                }
            }
            Action::Finish(outcome) => self.outcome = Some(outcome),
        }
        Ok(())
    }

    fn tell(&mut self, event: &JobEvent) {
        let now = SystemTime::now();
        self.observers.iter_mut().for_each(|observer| observer.event(now, event));
    }

    fn send(&self, slot: Slot, message: medley_common::proto::CoordinatorMessage) {
        // A worker that takes no orders any more is noticed by its session's end or its silence.
        if let Some(outgoing) = self.outgoing.get(&slot)
            && outgoing.try_send(Ok(message)).is_err()
        {
            tracing::warn!(slot, "an order found no worker");
        }
    }

    /// Hashing and syncing take time: off the loop.
    fn commit(&mut self, commit: Commit) {
        let (run, job, config) = (self.run.clone(), self.record.id.clone(), Arc::clone(&self.config));
        let done = self.committed.clone();
        self.writing += 1;
        tokio::task::spawn_blocking(move || {
            let result = checkpoint::commit(&run, &job, &config, &commit).map_err(|error| error.to_string());
            if result.is_ok()
                && let Ok(state) = serde_json::from_str::<TrainingState>(&commit.state)
                && let Err(error) = checkpoint::retain(&run, config.output.keep_checkpoints, state.best_step)
            {
                tracing::warn!(%error, "an old checkpoint cannot be removed");
            }
            // The loop may have ended by another way.
            let _ = done.send((commit, result));
        });
    }

    fn committed(&mut self, commit: &Commit, result: Result<Committed, String>) -> Event {
        self.writing -= 1;
        match result {
            Ok(committed) => {
                self.record.checkpoint = Some(committed.step);
                if let Err(error) = self.record.save(&*self.store) {
                    return Event::Broken { message: error.to_string() };
                }
                Event::CheckpointCommitted {
                    step: committed.step,
                    directory: committed.directory,
                    bytes: committed.bytes,
                }
            }
            Err(message) => Event::CheckpointFailed { step: commit.step, message },
        }
    }

    /// Lets the workers end, makes those that do not, and keeps the outcome.
    async fn end(&mut self, outcome: &Outcome) {
        self.outgoing.clear();
        if let Some(launcher) = self.launcher.take() {
            let grace = if outcome.outcome == "failed" { Duration::ZERO } else { RELEASE };
            if let Err(error) = tokio::task::spawn_blocking(move || launcher.finish(grace)).await {
                tracing::error!(%error, "ending the workers failed");
            }
        }
        self.record.status.clone_from(&outcome.outcome);
        if let Err(error) = self.record.save(&*self.store) {
            tracing::warn!(%error, "the outcome was not kept");
        }
    }
}

/// SIGINT and SIGTERM.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> Result<Self, JobError> {
        let listen = |kind| signal(kind).map_err(|source| JobError::Io { doing: "cannot listen for signals", source });
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "Ctrl-C",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}

/// Threads of a worker: its share of the cores.
fn threads(config: &RunConfig, workers: u32) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    match config.train.threads {
        0 => (cores / workers.max(1) as usize).max(1),
        threads => threads,
    }
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

fn random_bytes<const N: usize>() -> Result<[u8; N], JobError> {
    use std::io::Read;
    let mut bytes = [0; N];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(|source| JobError::Io { doing: "cannot draw a secret from /dev/urandom", source })?;
    Ok(bytes)
}

fn random_hex(bytes: usize) -> Result<String, JobError> {
    let drawn = random_bytes::<16>()?;
    Ok(drawn[..bytes.min(16)].iter().map(|byte| format!("{byte:02x}")).collect())
}
