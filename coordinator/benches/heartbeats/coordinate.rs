//! The coordinator under load: its gRPC server, its state machine and its event log as in a job, without the processes
//! that a job launches.

use crate::load::{Handled, JOB, Load, Said};
use medley_common::config::RecoveryMode;
use medley_common::events::Event as JobEvent;
use medley_common::proto;
use medley_coordinator::cluster::{Action, Cluster, CohortPlan, Event, Outcome, Recovery, Report, Settings, State};
use medley_coordinator::job::Observer;
use medley_coordinator::output::event_log::EventLog;
use medley_coordinator::server::{Admission, Listener, Server};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

/// As a job's.
const TICK: Duration = Duration::from_millis(50);
/// As a job's.
const EVENTS: usize = 4096;
/// As `launch.death_ms` and `launch.join_ms` by default.
const DEATH: Duration = Duration::from_secs(10);
const JOIN: Duration = Duration::from_secs(60);

/// An event, and when its message was decoded.
pub struct Timed {
    decoded: Instant,
    event: Event,
}

impl From<Event> for Timed {
    fn from(event: Event) -> Self {
        Self { decoded: Instant::now(), event }
    }
}

/// A coordinator whose workers are about to be started.
pub struct Coordinator {
    server: Server,
    incoming: mpsc::Receiver<Timed>,
    load: Load,
    /// Where workers reach it.
    pub url: String,
    /// What they must show.
    pub token: String,
}

impl Coordinator {
    /// Listens on a free port of this machine.
    pub async fn listen(load: Load) -> Self {
        let listener = Listener::bind("127.0.0.1:0").await.expect("a free port");
        let url = listener.local_url();
        let token = "a simulated launcher's".to_owned();
        let admission = Admission {
            job: JOB.into(),
            token: token.clone(),
            slots: load.workers,
            workers: load.workers,
            heartbeat: load.heartbeat,
            death: DEATH,
        };
        let (events, incoming) = mpsc::channel(EVENTS);
        // Nobody asks anything of this job.
        let (requests, _) = mpsc::channel(1);
        Self { server: Server::start(listener, admission, events, requests), incoming, load, url, token }
    }

    /// Runs the job to its end. Its event log goes to `directory`.
    pub async fn run(mut self, directory: &Path) -> Handled {
        let mut cluster = Cluster::new(Settings {
            cohort: CohortPlan { peers: self.load.workers, ..CohortPlan::default() },
            spares: 0,
            workers: self.load.workers,
            generation: 1,
            resume: None,
            log_every: 10,
            join: JOIN,
            death: DEATH,
            verdict: Duration::from_secs(2),
            stop: JOIN,
            recovery: Recovery { mode: RecoveryMode::Exact, replace: JOIN, reform: JOIN, attempts: 0 },
        });
        let mut log = EventLog::new(directory);
        let mut seen = Seen::default();
        let start = Instant::now();
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let outcome = loop {
            let Timed { decoded, event } = tokio::select! {
                Some(timed) = self.incoming.recv() => timed,
                _ = ticks.tick() => Event::Tick.into(),
            };
            let message = Message::of(&event);
            let begun = Instant::now();
            let mut outcome = None;
            for action in cluster.apply(start.elapsed(), event) {
                outcome = self.perform(action, &mut log, &mut seen).or(outcome);
            }
            seen.note(message, decoded, begun, matches!(cluster.state(), State::Running { meet_until: None, .. }));
            if let Some(outcome) = outcome {
                break outcome;
            }
        };
        self.server.shutdown().await;
        seen.finish(cluster.committed_step(), outcome)
    }

    fn perform(&self, action: Action, log: &mut EventLog, seen: &mut Seen) -> Option<Outcome> {
        match action {
            Action::Assign { slot, assignment } => {
                let common = proto::Assignment { job: JOB.into(), ..proto::Assignment::default() };
                assert!(self.server.assign(slot, &assignment, &common), "worker {slot} does not listen");
            }
            Action::Record(event) => {
                seen.lost += u64::from(matches!(event, JobEvent::WorkerLost { .. }));
                log.event(SystemTime::now(), &event);
            }
            Action::Finish(outcome) => {
                self.server.release_all();
                return Some(outcome);
            }
            // Nobody is lost here, and nothing is to survive this process.
            Action::Abort { .. }
            | Action::Pause { .. }
            | Action::Dismiss { .. }
            | Action::Start { .. }
            | Action::Keep(_)
            | Action::DiscardCheckpoint { .. } => {}
            Action::SendStop { .. } | Action::CommitCheckpoint(_) | Action::Progress(_) | Action::KillAll => {}
        }
        None
    }
}

/// Which message an event is.
#[derive(Clone, Copy)]
enum Message {
    Heartbeat,
    Steps { count: u64, sent: Duration },
    Other,
}

impl Message {
    fn of(event: &Event) -> Self {
        match event {
            Event::Reported { report: Report::Heartbeat, .. } => Self::Heartbeat,
            Event::Reported { report: Report::Steps(steps), .. } => {
                let sent = steps.last().map_or(0.0, |step| step.seconds);
                Self::Steps { count: steps.len() as u64, sent: Duration::from_secs_f64(sent) }
            }
            _ => Self::Other,
        }
    }
}

/// What is measured, as it happens.
#[derive(Default)]
struct Seen {
    said: Said,
    handling: Vec<Duration>,
    applying: Vec<Duration>,
    one_way: Vec<Duration>,
    lost: u64,
    /// Since when all workers were there, and the processor time used until then.
    complete: Option<(Instant, Duration)>,
    /// The same at the last message while they were.
    last: Option<Instant>,
}

impl Seen {
    fn note(&mut self, message: Message, decoded: Instant, begun: Instant, is_complete: bool) {
        let done = Instant::now();
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut one_way = None;
        match message {
            Message::Heartbeat => self.said.heartbeats += 1,
            Message::Steps { count, sent } => {
                self.said.steps += count;
                one_way = Some(wall.saturating_sub(sent));
            }
            Message::Other => return,
        }
        if !is_complete {
            return;
        }
        self.complete.get_or_insert_with(|| (done, processor_time()));
        self.last = Some(done);
        self.handling.push(done - decoded);
        self.applying.push(done - begun);
        self.one_way.extend(one_way);
    }

    fn finish(self, committed: u64, outcome: Outcome) -> Handled {
        let (wall, processor) = match (self.complete, self.last) {
            (Some((since, before)), Some(last)) => (last - since, processor_time().saturating_sub(before)),
            _ => (Duration::ZERO, Duration::ZERO),
        };
        Handled {
            said: self.said,
            handling: self.handling,
            applying: self.applying,
            one_way: self.one_way,
            committed,
            lost: self.lost,
            wall,
            processor,
            outcome,
        }
    }
}

/// Processor time of all threads of this process that are there.
fn processor_time() -> Duration {
    let of_thread = |thread: std::fs::DirEntry| -> Option<u64> {
        let text = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse().ok()
    };
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    Duration::from_nanos(threads.filter_map(of_thread).sum())
}
