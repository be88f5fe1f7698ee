//! The loop between the cluster's decisions and the world.

use super::address::Published;
use super::committer::{Commits, Request};
use super::stops::StopRequests;
use super::{Observer, SharedStore};
use crate::cluster::{Action, Cluster, Event, Outcome, Report, Slot};
use crate::launch::Launcher;
use crate::server::{Asked, Server};
use crate::store::{JobRecord, StoreError};
use medley_common::events::Event as JobEvent;
use medley_common::storage::Attempt;
use medley_common::{exit, proto};
use std::collections::{HashMap, VecDeque};
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
    pub requests: mpsc::Receiver<Asked>,
    pub launcher: Option<Launcher>,
    /// Once this is dropped, nothing is committed any more.
    pub commits: Commits,
    pub store: SharedStore,
    pub record: JobRecord,
    pub observers: Vec<Box<dyn Observer>>,
    /// The part of an assignment that is the same for all workers.
    pub job_part: proto::Assignment,
    /// Per slot, the last report that its worker was told of.
    pub acknowledged: HashMap<Slot, u64>,
    /// Withdrawn when it is dropped.
    pub address: Published,
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
        let outcome = loop {
            let event = tokio::select! {
                Some(event) = self.incoming.recv() => event,
                Some(Asked { scale, answer }) = self.requests.recv() => {
                    let checked = self.cluster.check_scale(&scale);
                    let outcome = match &checked {
                        Ok(_) => self.apply(start, Event::ScaleRequested(scale)).await,
                        Err(_) => None,
                    };
                    // Whoever asked may have gone. What was promised is kept by now.
                    let _ = answer.send(checked);
                    match outcome {
                        Some(outcome) => break outcome,
                        None => continue,
                    }
                }
                Some(reason) = stops.recv() => Event::StopRequested { reason },
                _ = ticks.tick() => Event::Tick,
            };
            if let Some(outcome) = self.apply(start, event).await {
                break outcome;
            }
        };
        let must_hurry = self.cluster.is_hurried() || outcome.exit_code == exit::FAILURE;
        self.end_workers(must_hurry).await;
        drop(self.address);
        if !must_hurry {
            self.incoming.close();
            self.commits.finish().await;
        }
        self.server.shutdown().await;
        outcome
    }

    /// Tells the cluster, and does what it asks for, until it asks for nothing more.
    async fn apply(&mut self, start: Instant, event: Event) -> Option<Outcome> {
        let heard = heartbeat_of(&event);
        if let Event::Joined(joined) = &event {
            // What it was told over another session may not have reached it.
            self.acknowledged.remove(&joined.slot);
        }
        let mut events = VecDeque::from([event]);
        let mut outcome = None;
        while let Some(event) = events.pop_front() {
            for action in self.cluster.apply(start.elapsed(), event) {
                match self.perform(action).await {
                    Performed::Done => {}
                    // What was to follow may rest on what could not be done.
                    Performed::Caused(event @ Event::Broken { .. }) => {
                        events.push_front(event);
                        break;
                    }
                    Performed::Caused(event) => events.push_back(event),
                    Performed::Finished(finished) => outcome = Some(finished),
                }
            }
        }
        if let Some(slot) = heard {
            self.acknowledge(slot);
        }
        outcome
    }

    /// Tells a worker which reports need not be sent again, should it come to speak with another coordinator: those that
    /// were dealt with, as long as nothing that they began is unfinished.
    fn acknowledge(&mut self, slot: Slot) {
        let received = self.server.received(slot);
        let known = self.acknowledged.entry(slot).or_default();
        if received != *known && self.incoming.is_empty() && self.cluster.has_settled_reports(slot) {
            *known = received;
            self.server.acknowledge(slot, self.cluster.generation(), received);
        }
    }

    async fn perform(&mut self, action: Action) -> Performed {
        match action {
            Action::Abort { slot, generation, reason } => {
                // One that cannot be told notices by itself, or is lost.
                self.server.abort(slot, generation, &reason);
            }
            Action::Pause { slot, generation, checkpoint } => {
                self.server.pause(slot, generation, checkpoint);
            }
            Action::Dismiss { slot, reason } => {
                self.server.dismiss(slot, &reason);
                if let Some(launcher) = &self.launcher {
                    launcher.end_one(slot);
                }
            }
            Action::Start { slot } => {
                if let Some(launcher) = &self.launcher {
                    launcher.start_one(slot);
                }
            }
            Action::Keep(kept) => {
                self.record.generation = kept.generation;
                self.record.kept = Some(kept);
                if let Err(message) = self.save().await {
                    return Performed::Caused(Event::Broken { message });
                }
            }
            Action::Assign { slot, assignment } => {
                // One that does not take it loses its session by that, and is waited for no longer than a silent one.
                let secret = self.record.secret_of(assignment.generation);
                let job_part = proto::Assignment { secret, ..self.job_part.clone() };
                self.server.assign(slot, &assignment, &job_part);
            }
            Action::SendStop { slot, generation, reason } => {
                self.server.stop(slot, generation, &reason);
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
                    if let Err(message) = self.save().await {
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
            Action::Finish(outcome) => {
                self.record.status = outcome.outcome.clone();
                self.record.message = outcome.message.clone();
                let saved = self.save().await;
                // Not before: whoever took the job over until then would need them. One that cannot be told is ended by the
                // launcher, or finds no coordinator.
                self.server.release_all();
                return Performed::Finished(match saved {
                    Ok(()) => outcome,
                    Err(message) => complain(outcome, &message),
                });
            }
        }
        Performed::Done
    }

    /// Keeps the record. A store that does not answer is waited for: nothing may be done that a coordinator which takes
    /// over would not know of.
    async fn save(&self) -> Result<(), String> {
        loop {
            match self.record.save(self.store.as_ref()).await {
                Ok(()) => return Ok(()),
                Err(error) if error.is_passing() => tracing::warn!("the job waits for its store: {error}"),
                // Whoever runs a leader's job ends it when the lead is lost.
                Err(StoreError::Deposed { .. }) => std::future::pending().await,
                Err(error) => return Err(error.to_string()),
            }
        }
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

/// Whose heartbeat an event is.
fn heartbeat_of(event: &Event) -> Option<Slot> {
    match event {
        Event::Reported { slot, report: Report::Heartbeat, .. } => Some(*slot),
        _ => None,
    }
}

enum Performed {
    Done,
    Caused(Event),
    Finished(Outcome),
}

/// The outcome of a job that went well but whose record could not be kept.
fn complain(outcome: Outcome, message: &str) -> Outcome {
    if outcome.exit_code == exit::FAILURE {
        return outcome;
    }
    Outcome { message: format!("{}; {message}", outcome.message), exit_code: exit::FAILURE, ..outcome }
}
