//! The loop between the cluster's decisions and the world.

use super::committer::Request;
use super::stops::StopRequests;
use super::{Observer, SharedStore};
use crate::cluster::{Action, Cluster, Event, Outcome};
use crate::launch::Launcher;
use crate::server::Server;
use crate::store::JobRecord;
use medley_common::events::Event as JobEvent;
use medley_common::storage::Attempt;
use medley_common::{exit, proto};
use std::collections::VecDeque;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

/// Time between ticks: how late a deadline may be noticed.
const TICK: Duration = Duration::from_millis(50);

/// How long workers that were let go may take to end by themselves, and then once asked to by SIGTERM.
const ENDING: Duration = Duration::from_secs(5);

/// A job whose workers are being started. Dropping it kills them.
pub struct Driver {
    pub cluster: Cluster,
    pub server: Server,
    /// Dropped before `launcher`, whose thread may be waiting for room in it.
    pub incoming: mpsc::Receiver<Event>,
    pub launcher: Option<Launcher>,
    pub commits: Sender<Request>,
    pub store: SharedStore,
    pub record: JobRecord,
    pub observers: Vec<Box<dyn Observer>>,
    /// The part of an assignment that is the same for all workers.
    pub job_part: proto::Assignment,
}

/// Tells all observers of an event.
pub fn tell(observers: &mut [Box<dyn Observer>], event: &JobEvent) {
    let time = SystemTime::now();
    for observer in observers {
        observer.event(time, event);
    }
}

impl Driver {
    /// Lets the job fail as soon as it runs.
    pub fn doom(&mut self, message: String) {
        let (sender, incoming) = mpsc::channel(1);
        self.incoming = incoming;
        // The channel is new and has room for one.
        let _ = sender.try_send(Event::Broken { message });
    }

    /// Runs the job to its end, and ends all that belongs to it.
    pub async fn run(mut self, mut stops: StopRequests) -> Outcome {
        let start = Instant::now();
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut outcome = loop {
            let event = tokio::select! {
                Some(event) = self.incoming.recv() => event,
                Some(reason) = stops.recv() => Event::StopRequested { reason },
                _ = ticks.tick() => Event::Tick,
            };
            if let Some(outcome) = self.apply(start, event) {
                break outcome;
            }
        };
        let must_hurry = self.cluster.is_hurried() || outcome.exit_code == exit::FAILURE;
        self.end_workers(must_hurry).await;
        self.record.status = outcome.outcome.clone();
        if let Err(error) = self.record.save(self.store.as_ref()) {
            outcome = complain(outcome, &error.to_string());
        }
        self.server.shutdown().await;
        outcome
    }

    /// Tells the cluster, and does what it asks for, until it asks for nothing more.
    fn apply(&mut self, start: Instant, event: Event) -> Option<Outcome> {
        let mut events = VecDeque::from([event]);
        let mut outcome = None;
        while let Some(event) = events.pop_front() {
            for action in self.cluster.apply(start.elapsed(), event) {
                match self.perform(action) {
                    Performed::Done => {}
                    Performed::Caused(event) => events.push_back(event),
                    Performed::Finished(finished) => outcome = Some(finished),
                }
            }
        }
        outcome
    }

    fn perform(&mut self, action: Action) -> Performed {
        match action {
            Action::Assign { slot, assignment } => {
                if !self.server.assign(slot, &assignment, &self.job_part) {
                    return Performed::deaf(slot);
                }
            }
            Action::SendStop { slot, generation, reason } => {
                if !self.server.stop(slot, generation, &reason) {
                    return Performed::deaf(slot);
                }
            }
            // A worker that can no longer be told is ended by the launcher.
            Action::Release { slot, generation } => {
                self.server.release(slot, generation);
            }
            Action::CommitCheckpoint(commit) => {
                let step = commit.step;
                if self.commits.send(Request::Commit(commit)).is_err() {
                    let message = "the thread that commits checkpoints has ended".into();
                    return Performed::Caused(Event::CheckpointFailed { step, message });
                }
            }
            Action::DiscardCheckpoint { step, generation } => {
                if self.commits.send(Request::Discard(Attempt { step, generation })).is_err() {
                    tracing::warn!(
                        "the thread that removes what was written of the checkpoint of step {step} has ended"
                    );
                }
            }
            Action::Record(event) => {
                tell(&mut self.observers, &event);
                if let JobEvent::Checkpoint { step, .. } = event {
                    self.record.checkpoint = Some(step);
                    if let Err(error) = self.record.save(self.store.as_ref()) {
                        let message = error.to_string();
                        return Performed::Caused(Event::Broken { message });
                    }
                }
            }
            Action::Progress(step) => {
                for observer in &mut self.observers {
                    observer.progress(&step);
                }
            }
            Action::KillAll => {
                if let Some(launcher) = &self.launcher {
                    launcher.kill();
                }
            }
            Action::Finish(outcome) => return Performed::Finished(outcome),
        }
        Performed::Done
    }

    async fn end_workers(&mut self, must_hurry: bool) {
        let Some(launcher) = self.launcher.take() else {
            return;
        };
        // Exits that are still reported have nobody to wait for them.
        self.incoming.close();
        let ended = tokio::task::spawn_blocking(move || {
            if must_hurry {
                drop(launcher);
            } else {
                launcher.stop(ENDING, ENDING);
            }
        });
        // A panic there is a bug that the launcher's drop has cleaned up after.
        let _ = ended.await;
    }
}

enum Performed {
    Done,
    Caused(Event),
    Finished(Outcome),
}

impl Performed {
    fn deaf(slot: u32) -> Self {
        let reason = "it does not take what it is sent".into();
        Self::Caused(Event::SessionLost { slot, reason })
    }
}

/// The outcome of a job that went well but whose record could not be kept.
fn complain(outcome: Outcome, message: &str) -> Outcome {
    if outcome.exit_code == exit::FAILURE {
        return outcome;
    }
    Outcome { message: format!("{}; {message}", outcome.message), exit_code: exit::FAILURE, ..outcome }
}
