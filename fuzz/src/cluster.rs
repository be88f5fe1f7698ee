//! A job of three workers, and what is told to its coordinator: after a byte of settings come events, each of a byte
//! for slot and kind, a byte for the time since the one before and, where it is a worker's message, its
//! length-delimited encoding.

use medley_common::config::RecoveryMode;
use medley_common::proto;
use medley_coordinator::cluster::{
    Action, Cluster, CohortPlan, Event, Joined, Recovery, Resume, Settings, Slot, State,
};
use medley_coordinator::server::convert;
use prost::Message;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Workers of the job; there are messages from one slot more, since strangers must do no harm.
pub const WORKERS: u32 = 3;
/// Peers of the job.
pub const PEERS: u32 = 4;
/// The job's generation.
pub const GENERATION: u64 = 2;
/// The checkpoint that a resumed job starts from.
const RESUMED: u64 = 4;

const SETTINGS_RESUMED: u8 = 1;
const SETTINGS_STARTED: u8 = 2;

/// All deadlines of a job together, rounded up: left alone for so long it ends.
const ALL_DEADLINES: Duration = Duration::from_millis(30_000);

/// Plays the input; whatever is said, the invariants hold and the job ends.
pub fn check(input: &[u8]) -> bool {
    let [settings, script @ ..] = input else { return false };
    let mut job = Job::new(settings & SETTINGS_RESUMED != 0);
    if settings & SETTINGS_STARTED != 0 {
        for slot in 0..WORKERS {
            job.tell(0, joined(slot));
        }
    }
    let mut script = script;
    while let [control, pause, rest @ ..] = script {
        script = rest;
        let slot = u32::from(control & 3);
        let Some(event) = event(control >> 2, slot, &mut script) else { break };
        job.tell(u64::from(*pause), event);
    }
    let got_anywhere = job.committed > 0 || job.assigned.len() == WORKERS as usize;
    job.leave_alone();
    got_anywhere
}

fn joined(slot: Slot) -> Event {
    Event::Joined(Joined {
        slot,
        session: 1,
        process_id: 1,
        incarnation: format!("p{slot}"),
        address: format!("127.0.0.1:{slot}"),
        host: "h".into(),
        device: "cpu".into(),
        generation: 0,
    })
}

fn event(kind: u8, slot: Slot, script: &mut &[u8]) -> Option<Event> {
    let step = u64::from(kind >> 4);
    Some(match kind & 15 {
        0..=7 => {
            let message = proto::WorkerMessage::decode_length_delimited(&mut *script).ok()?;
            let generation = message.generation;
            match convert::report(message.body) {
                Some(report) => Event::Reported { slot, session: 1, generation, report },
                None => Event::Tick,
            }
        }
        8 => joined(slot),
        9 => Event::SessionLost { slot, session: 1, reason: "reset".into() },
        10 => Event::Exited { slot, process_id: 1, status: "by signal 9".into(), last_words: None },
        11 => Event::CheckpointCommitted { step, directory: "checkpoints/step".into(), bytes: 1 },
        12 => Event::CheckpointFailed { step, message: "disk full".into() },
        13 => Event::StopRequested { reason: "asked".into() },
        14 => Event::Broken { message: "the store is broken".into() },
        _ => Event::Tick,
    })
}

/// A job, and what was seen of it.
struct Job {
    cluster: Cluster,
    now: Duration,
    committed: u64,
    progress: u64,
    /// By generation and rank.
    assigned: BTreeMap<(u64, u32), Slot>,
    asked_to_commit: BTreeSet<u64>,
    has_finished: bool,
}

impl Job {
    fn new(is_resumed: bool) -> Self {
        let resume = is_resumed.then(|| Resume {
            step: RESUMED,
            directory: format!("checkpoints/step-{RESUMED}"),
            data_hash: "d".into(),
            peers: (0..PEERS).collect(),
        });
        let cluster = Cluster::new(Settings {
            cohort: CohortPlan { peers: PEERS, ..CohortPlan::default() },
            spares: 0,
            workers: WORKERS,
            generation: GENERATION,
            resume,
            log_every: 3,
            join: Duration::from_millis(2_000),
            death: Duration::from_millis(500),
            verdict: Duration::from_millis(200),
            stop: Duration::from_millis(1_000),
            recovery: Recovery {
                mode: RecoveryMode::Exact,
                replace: Duration::from_millis(300),
                reform: Duration::from_millis(600),
                attempts: 2,
            },
        });
        Self {
            committed: cluster.committed_step(),
            cluster,
            now: Duration::ZERO,
            progress: 0,
            assigned: BTreeMap::new(),
            asked_to_commit: BTreeSet::new(),
            has_finished: false,
        }
    }

    fn tell(&mut self, pause_ms: u64, event: Event) {
        self.now += Duration::from_millis(pause_ms);
        for action in self.cluster.apply(self.now, event) {
            self.see(action);
        }
        let committed = self.cluster.committed_step();
        assert!(committed >= self.committed, "step {committed} after {}", self.committed);
        self.committed = committed;
    }

    fn see(&mut self, action: Action) {
        assert!(!self.has_finished, "{action:?} after the finish");
        match action {
            Action::Assign { slot, assignment } => {
                let key = (assignment.generation, assignment.rank);
                // A worker that was away is told again.
                let other = self.assigned.insert(key, slot).filter(|other| *other != slot);
                assert!(other.is_none(), "rank assigned twice: {key:?} to {other:?} and {slot}");
                let mut peers: Vec<u32> = assignment.members.iter().flat_map(|member| member.peers.clone()).collect();
                peers.sort_unstable();
                assert_eq!(peers, (0..PEERS).collect::<Vec<_>>());
            }
            Action::Progress(step) => {
                assert!(step.step > self.progress, "step {} after {}", step.step, self.progress);
                self.progress = step.step;
            }
            Action::CommitCheckpoint(commit) => {
                assert!(self.asked_to_commit.insert(commit.step), "asked twice for the checkpoint of {}", commit.step);
            }
            Action::Finish(outcome) => {
                assert!(!outcome.message.is_empty(), "a job that ended for no reason");
                assert_eq!(outcome.message.lines().count(), 1, "more than a line: {:?}", outcome.message);
                assert_eq!(outcome.step, self.cluster.committed_step());
                self.has_finished = true;
            }
            _ => {}
        }
    }

    fn leave_alone(&mut self) {
        let end = self.now + ALL_DEADLINES;
        while self.now < end && !self.has_finished {
            self.tell(100, Event::Tick);
        }
        assert!(self.has_finished, "never ended: {:?}", self.cluster.state());
        assert_eq!(self.cluster.state(), &State::Ended);
    }
}
