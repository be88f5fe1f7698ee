//! The states of a job, and what moves it from one to the next.

use super::messages::{Action, Assignment, Event, Member, Outcome, Settings, Slot, worker_name};
use super::placement::placement;
use super::shards::ShardGatherer;
use super::steps::StepMerger;
use super::verdict::Evidence;
use medley_common::events::{Event as JobEvent, StepEvent};
use medley_common::{exit, proto};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A terminal or `timeout` may signal the process and its group: within this, signals are one request to stop.
const ONE_REQUEST: Duration = Duration::from_secs(1);

/// Where a job stands.
#[derive(Debug, Clone, PartialEq)]
pub enum State {
    /// Waiting for all workers to join.
    Joining {
        /// Until when.
        until: Duration,
    },
    /// The workers have their assignments: they read data, meet, train and evaluate.
    Running {
        /// Until when all must have met; `None` once they have.
        meet_until: Option<Duration>,
    },
    /// The end is asked for or certain, and something is still waited for.
    Stopping(Stopping),
    /// Nothing happens any more.
    Ended,
}

/// What is waited for before the job ends.
#[derive(Debug, Clone, PartialEq)]
pub enum Stopping {
    /// The workers were asked to write a checkpoint and complete.
    Asked {
        /// Why.
        reason: String,
        /// Until when.
        until: Duration,
    },
    /// Something failed; more evidence may show what the cause is.
    Failing {
        /// Until when.
        until: Duration,
    },
    /// The outcome is known; checkpoints that were written are still being committed.
    Settling {
        /// The outcome.
        outcome: Outcome,
        /// Until when.
        until: Duration,
    },
}

/// The state machine of a job.
#[derive(Debug)]
pub struct Cluster {
    pub(super) settings: Settings,
    pub(super) state: State,
    pub(super) workers: BTreeMap<Slot, Worker>,
    pub(super) evidence: Evidence,
    pub(super) steps: StepMerger,
    pub(super) shards: ShardGatherer,
    /// Checkpoints whose commit is under way.
    pub(super) committing: BTreeSet<u64>,
    /// The last checkpoint that came to nothing, and why.
    pub(super) lost_checkpoint: Option<(u64, String)>,
    /// The last committed checkpoint.
    pub(super) checkpoint: Option<u64>,
    /// What the workers agree on, once all have met.
    pub(super) ready: Option<proto::Ready>,
    /// By split, protocol and number of users: who drew the candidates first, and their hash.
    pub(super) candidates: BTreeMap<(String, String, u64), (Slot, String)>,
    /// The last merged step, while it is not logged.
    pub(super) unlogged: Option<StepEvent>,
    /// When a stop was first asked for.
    stop_asked: Option<Duration>,
    /// A stop was asked for a second time.
    is_hurried: bool,
    pub(super) now: Duration,
    /// Like `now`, but of a pause of the coordinator itself only a part counts, so that its own sleep is not taken
    /// for the workers' silence.
    pub(super) awake: Duration,
}

/// What is known of a worker.
#[derive(Debug)]
pub(super) struct Worker {
    pub address: String,
    pub rank: Option<u32>,
    pub has_session: bool,
    /// On the clock `Cluster::awake`.
    pub last_heard: Duration,
    pub ready: Option<proto::Ready>,
    pub completed: Option<proto::Completed>,
}

impl Cluster {
    /// A job whose workers are about to be started. Times are since this moment.
    pub fn new(settings: Settings) -> Self {
        let resumed_from = settings.resume.as_ref().map(|resume| resume.step);
        Self {
            state: State::Joining { until: settings.join },
            workers: BTreeMap::new(),
            evidence: Evidence::default(),
            steps: StepMerger::new(settings.workers, resumed_from.unwrap_or(0)),
            shards: ShardGatherer::new(settings.workers),
            committing: BTreeSet::new(),
            lost_checkpoint: None,
            checkpoint: resumed_from,
            ready: None,
            candidates: BTreeMap::new(),
            unlogged: None,
            stop_asked: None,
            is_hurried: false,
            now: Duration::ZERO,
            awake: Duration::ZERO,
            settings,
        }
    }

    /// Where the job stands.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The last step that all workers committed.
    pub fn committed_step(&self) -> u64 {
        self.steps.committed()
    }

    /// Whether a stop was asked for a second time: nobody wants to wait for anything.
    pub fn is_hurried(&self) -> bool {
        self.is_hurried
    }

    /// Takes in what happened `now` (since the start) and says what is to be done.
    pub fn apply(&mut self, now: Duration, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.state == State::Ended {
            return actions;
        }
        let passed = now.saturating_sub(self.now);
        self.now = self.now.max(now);
        self.awake += passed.min(self.settings.death / 4);
        self.take_in(event, &mut actions);
        while self.advance(&mut actions) {}
        actions
    }

    fn take_in(&mut self, event: Event, actions: &mut Vec<Action>) {
        match event {
            Event::Joined { slot, process_id, address, device } => {
                self.joined(slot, process_id, address, device, actions)
            }
            Event::Reported { slot, generation, report } => self.reported(slot, generation, report, actions),
            Event::SessionLost { slot, reason } => {
                if let Some(worker) = self.workers.get_mut(&slot) {
                    worker.has_session = false;
                    if worker.completed.is_none() {
                        self.evidence.session_lost(slot, reason);
                    }
                }
            }
            Event::Exited { slot, status, last_words } => {
                if self.awaits(slot) {
                    self.evidence.exited(slot, status, last_words);
                }
            }
            Event::CheckpointCommitted { step, directory, bytes } => {
                if self.committing.remove(&step) {
                    self.checkpoint = self.checkpoint.max(Some(step));
                    actions.push(Action::Record(JobEvent::Checkpoint { step, directory, bytes }));
                }
            }
            Event::CheckpointFailed { step, message } => {
                if self.committing.remove(&step) {
                    self.checkpoint_lost(step, format!("was not committed: {message}"), actions);
                }
            }
            Event::StopRequested { reason } => self.stop_requested(reason, actions),
            Event::Broken { message } => self.fail(message, exit::FAILURE, actions),
            Event::Tick => {}
        }
    }

    /// Whether a worker's end would be a loss: it has not completed.
    fn awaits(&self, slot: Slot) -> bool {
        slot < self.settings.workers && self.workers.get(&slot).is_none_or(|worker| worker.completed.is_none())
    }

    fn joined(&mut self, slot: Slot, process_id: u32, address: String, device: String, actions: &mut Vec<Action>) {
        let joining = matches!(self.state, State::Joining { .. });
        if !joining || slot >= self.settings.workers || self.workers.contains_key(&slot) {
            return;
        }
        let worker =
            Worker { address, rank: None, has_session: true, last_heard: self.awake, ready: None, completed: None };
        self.workers.insert(slot, worker);
        actions.push(Action::Record(JobEvent::WorkerJoined { worker: worker_name(slot), slot, process_id, device }));
    }

    fn stop_requested(&mut self, reason: String, actions: &mut Vec<Action>) {
        let now = self.now;
        let is_repeated = match self.stop_asked {
            Some(first) if now - first < ONE_REQUEST => return,
            first => first.is_some(),
        };
        self.stop_asked.get_or_insert(now);
        self.is_hurried |= is_repeated;
        match &mut self.state {
            State::Joining { .. } => self.settle_stopped(&reason, actions),
            State::Running { .. } => {
                for (slot, worker) in &self.workers {
                    if worker.completed.is_none() {
                        actions.push(Action::SendStop {
                            slot: *slot,
                            generation: self.settings.generation,
                            reason: reason.clone(),
                        });
                    }
                }
                let until = now + self.settings.stop;
                self.state = State::Stopping(Stopping::Asked { reason, until });
            }
            State::Stopping(Stopping::Asked { .. }) => {
                let reason = format!("{reason}, a second time");
                self.settle_stopped(&reason, actions);
                self.hurry();
            }
            // The end is certain, and a checkpoint may be on its way: only who asks again does not want it.
            State::Stopping(Stopping::Settling { .. }) if !is_repeated => {}
            State::Stopping(_) => self.hurry(),
            State::Ended => {}
        }
    }

    /// Waits no longer for anything.
    fn hurry(&mut self) {
        if let State::Stopping(
            Stopping::Asked { until, .. } | Stopping::Failing { until } | Stopping::Settling { until, .. },
        ) = &mut self.state
        {
            *until = self.now;
        }
    }

    /// Moves to the next state where what the present one waits for has come or is overdue; whether it moved.
    fn advance(&mut self, actions: &mut Vec<Action>) -> bool {
        let now = self.now;
        if matches!(self.state, State::Joining { .. } | State::Running { .. } | State::Stopping(Stopping::Asked { .. }))
        {
            self.note_silence();
            if !self.evidence.is_empty() {
                let until = now + self.settings.verdict;
                self.state = State::Stopping(Stopping::Failing { until });
                return true;
            }
        }
        match &self.state {
            State::Joining { until } => {
                if self.workers.len() == self.settings.workers as usize {
                    self.assign(actions);
                } else if now >= *until {
                    self.fail_to_join(actions);
                } else {
                    return false;
                }
            }
            State::Running { meet_until } => {
                if self.all_completed() {
                    self.settle_completed(actions);
                } else if meet_until.is_some_and(|until| now >= until) {
                    self.fail_to_meet(actions);
                } else {
                    return false;
                }
            }
            State::Stopping(Stopping::Asked { until, .. }) => {
                if self.all_completed() {
                    self.settle_completed(actions);
                } else if now >= *until {
                    self.fail_to_stop(actions);
                } else {
                    return false;
                }
            }
            State::Stopping(Stopping::Failing { until }) => {
                let has_session = |slot| self.workers.get(&slot).is_some_and(|worker| worker.has_session);
                let verdict = match self.evidence.certain(has_session) {
                    None if now >= *until => self.evidence.likeliest(),
                    verdict => verdict,
                };
                match verdict {
                    Some(verdict) => self.settle_failed(verdict, actions),
                    None => return false,
                }
            }
            State::Stopping(Stopping::Settling { outcome, until }) => {
                if !self.committing.is_empty() && now < *until {
                    return false;
                }
                let outcome = self.judge_last_checkpoint(outcome.clone());
                actions.push(Action::Record(JobEvent::Finished {
                    outcome: outcome.outcome.clone(),
                    step: outcome.step,
                    message: outcome.message.clone(),
                }));
                actions.push(Action::Finish(outcome));
                self.state = State::Ended;
            }
            State::Ended => return false,
        }
        true
    }

    fn note_silence(&mut self) {
        for (slot, worker) in &self.workers {
            let silence = self.awake.saturating_sub(worker.last_heard);
            if worker.completed.is_none() && silence >= self.settings.death {
                self.evidence.silent(*slot, self.settings.death);
            }
        }
    }

    fn assign(&mut self, actions: &mut Vec<Action>) {
        let generation = self.settings.generation;
        let placed = placement(self.settings.peers, self.settings.workers);
        let members: Vec<Member> = (0..)
            .zip(self.workers.values_mut())
            .zip(&placed)
            .map(|((rank, worker), peers)| {
                worker.rank = Some(rank);
                Member { rank, address: worker.address.clone(), peers: peers.clone() }
            })
            .collect();
        actions.push(Action::Record(JobEvent::Generation { generation, placement: placed }));
        let resume = self.settings.resume.as_ref();
        for (slot, worker) in &self.workers {
            let Some(rank) = worker.rank else { continue };
            actions.push(Action::Assign {
                slot: *slot,
                assignment: Assignment {
                    generation,
                    rank,
                    members: members.clone(),
                    checkpoint: resume.map(|resume| resume.directory.clone()),
                },
            });
        }
        self.state = State::Running { meet_until: Some(self.now + self.settings.join) };
    }

    fn all_completed(&self) -> bool {
        self.workers.values().all(|worker| worker.completed.is_some())
    }
}
