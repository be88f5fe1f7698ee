//! The states of a job, and what moves it from one to the next.

use super::cohort::{CohortPlan, NewPeer};
use super::losses::{Evidence, Loss};
use super::messages::{Action, Event, Member, Outcome, SessionNumber, Settings, Slot, Suspended};
use super::origins::{Origin, Start};
use super::recoveries::Recoveries;
use super::reform::Reform;
use super::seats::Seat;
use super::shards::ShardGatherer;
use super::steps::StepMerger;
use medley_common::events::{Event as JobEvent, StepEvent};
use medley_common::{exit, proto};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// How long the launcher may take to say how a process ended that is gone.
const STATUS: Duration = Duration::from_millis(40);

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
        /// The workers were asked to leave the generation after a step that they agree on.
        pausing: bool,
    },
    /// A generation has ended and the next is not formed yet.
    Reforming(Reform),
    /// The outcome is known; checkpoints that were written are still being committed.
    Settling {
        /// The outcome.
        outcome: Outcome,
        /// Until when.
        until: Duration,
    },
    /// Nothing happens any more.
    Ended,
}

/// A request to stop.
#[derive(Debug, Clone, PartialEq)]
pub struct Stop {
    /// Why.
    pub reason: String,
    /// When it was first made.
    pub asked: Duration,
    /// Until when the workers must have ended.
    pub until: Duration,
}

/// The state machine of a job.
#[derive(Debug)]
pub struct Cluster {
    pub(super) settings: Settings,
    pub(super) state: State,
    pub(super) workers: BTreeMap<Slot, Worker>,
    /// Of the generation that was formed last, by rank.
    pub(super) seats: Vec<Seat>,
    /// What its workers were told of one another.
    pub(super) members: Arc<[Member]>,
    /// Where it began.
    pub(super) began: Option<Arc<Start>>,
    /// The last checkpoint that was committed then; 0 for none.
    pub(super) began_checkpoint: u64,
    /// Where those of its peers came from that have taken no step since.
    pub(super) came: BTreeMap<u32, Origin>,
    /// The members that are asked to leave it are asked for a checkpoint as well.
    pub(super) pause_saves: bool,
    /// Its number; before the first, that which the first will have, less one.
    pub(super) generation: u64,
    pub(super) evidence: Evidence,
    /// By slot, the process that was lost last.
    pub(super) parted: BTreeMap<Slot, u32>,
    /// Since when there is evidence that names no cause.
    pub(super) doubt_since: Option<Duration>,
    pub(super) recoveries: Recoveries,
    pub(super) cohort: CohortPlan,
    pub(super) wanted_workers: u32,
    /// Peers that left, and the checkpoint that holds them.
    pub(super) parked: BTreeMap<u32, String>,
    pub(super) steps: StepMerger,
    pub(super) shards: ShardGatherer,
    /// Checkpoints whose commit is under way, with their peers.
    pub(super) committing: BTreeMap<u64, Vec<u32>>,
    /// The last checkpoint that came to nothing, and why.
    pub(super) lost_checkpoint: Option<(u64, String)>,
    /// The last committed checkpoint.
    pub(super) checkpoint: Option<Committed>,
    /// What the workers agree on, once all have met.
    pub(super) ready: Option<proto::Ready>,
    /// By split, protocol and number of users: who drew the candidates first, and their hash.
    pub(super) candidates: BTreeMap<(String, String, u64), (Slot, String)>,
    /// The last merged step, while it is not logged.
    pub(super) unlogged: Option<StepEvent>,
    pub(super) stop: Option<Stop>,
    /// A stop was asked for a second time.
    pub(super) is_hurried: bool,
    pub(super) now: Duration,
    /// Like `now`, but of a pause of the coordinator itself only a part counts, so that its own sleep is not taken
    /// for the workers' silence.
    pub(super) awake: Duration,
}

/// A committed checkpoint.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Committed {
    pub step: u64,
    pub directory: String,
    pub peers: Vec<u32>,
}

/// What is known of a worker that lives, as far as one knows.
#[derive(Debug)]
pub(super) struct Worker {
    pub session: SessionNumber,
    pub process_id: u32,
    /// Tells it from other processes that were in its slot.
    pub incarnation: String,
    pub address: String,
    pub host: String,
    pub has_session: bool,
    /// On the clock `Cluster::awake`.
    pub last_heard: Duration,
    pub role: Role,
}

/// What a worker is doing.
#[derive(Debug)]
pub(super) enum Role {
    /// It waits for its first assignment.
    Idle,
    /// It takes part in the present generation.
    Member(Membership),
    /// It left the last generation and waits for the next.
    Suspended(Box<Suspended>),
}

/// A worker's part in a generation.
#[derive(Debug, Default)]
pub(super) struct Membership {
    pub rank: u32,
    pub ready: Option<proto::Ready>,
    pub completed: Option<proto::Completed>,
}

impl Worker {
    pub fn member(&self) -> Option<&Membership> {
        if let Role::Member(member) = &self.role { Some(member) } else { None }
    }

    pub fn member_mut(&mut self) -> Option<&mut Membership> {
        if let Role::Member(member) = &mut self.role { Some(member) } else { None }
    }

    pub fn suspended(&self) -> Option<&Suspended> {
        if let Role::Suspended(held) = &self.role { Some(held) } else { None }
    }

    pub fn has_completed(&self) -> bool {
        self.member().is_some_and(|member| member.completed.is_some())
    }
}

impl Cluster {
    /// A job whose workers are about to be started. Times are since this moment.
    pub fn new(settings: Settings) -> Self {
        let checkpoint = settings.resume.as_ref().map(|resume| Committed {
            step: resume.step,
            directory: resume.directory.clone(),
            peers: resume.peers.clone(),
        });
        let resumed_from = checkpoint.as_ref().map(|checkpoint| checkpoint.step);
        Self {
            state: State::Joining { until: settings.join },
            workers: BTreeMap::new(),
            seats: Vec::new(),
            members: Arc::new([]),
            began: None,
            began_checkpoint: 0,
            came: BTreeMap::new(),
            pause_saves: false,
            generation: settings.generation.saturating_sub(1),
            evidence: Evidence::default(),
            parted: BTreeMap::new(),
            doubt_since: None,
            recoveries: Recoveries::new(settings.recovery.attempts),
            cohort: settings.cohort.clone(),
            wanted_workers: settings.workers,
            parked: BTreeMap::new(),
            steps: StepMerger::new(resumed_from.unwrap_or(0)),
            shards: ShardGatherer::new(resumed_from),
            committing: BTreeMap::new(),
            lost_checkpoint: None,
            checkpoint,
            ready: None,
            candidates: BTreeMap::new(),
            unlogged: None,
            stop: None,
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

    /// The generation that was formed last.
    pub fn generation(&self) -> u64 {
        self.generation
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
        // A heartbeat of a worker that is known and a tick in which nothing is due are nearly all that happens.
        let is_routine = self.take_in(event, &mut actions);
        if is_routine {
            return actions;
        }
        while self.advance(&mut actions) {}
        actions
    }

    /// Whether nothing can follow from the event but what the next tick notices as well.
    fn take_in(&mut self, event: Event, actions: &mut Vec<Action>) -> bool {
        match event {
            Event::Joined(joined) => self.joined(joined, actions),
            Event::Reported { slot, session, generation, report } => {
                return self.reported(slot, session, generation, report, actions);
            }
            Event::SessionLost { slot, session, reason } => {
                if let Some(worker) = self.workers.get_mut(&slot).filter(|worker| worker.session == session) {
                    worker.has_session = false;
                    if !worker.has_completed() {
                        self.evidence.session_lost(slot, reason);
                    }
                }
            }
            Event::Exited { slot, process_id, status, last_words } => {
                if self.awaits(slot, process_id) {
                    self.evidence.exited(slot, status, last_words);
                }
            }
            Event::CheckpointCommitted { step, directory, bytes } => {
                self.checkpoint_committed(step, directory, bytes, actions)
            }
            Event::CheckpointFailed { step, message } => {
                if self.committing.remove(&step).is_some() {
                    self.checkpoint_lost(step, format!("was not committed: {message}"), actions);
                }
            }
            Event::ScaleRequested(scale) => self.scale_requested(scale, actions),
            Event::StopRequested { reason } => self.stop_requested(reason, actions),
            Event::Broken { message } => self.fail(message, exit::FAILURE, actions),
            Event::Tick => {}
        }
        false
    }

    fn checkpoint_committed(&mut self, step: u64, directory: String, bytes: u64, actions: &mut Vec<Action>) {
        let Some(peers) = self.committing.remove(&step) else {
            return;
        };
        if self.checkpoint.as_ref().is_none_or(|before| before.step < step) {
            self.checkpoint = Some(Committed { step, directory: directory.clone(), peers });
        }
        actions.push(Action::Record(JobEvent::Checkpoint { step, directory, bytes }));
    }

    /// Whether a process's end is a loss: it has not completed, and was not lost before.
    fn awaits(&self, slot: Slot, process_id: u32) -> bool {
        match self.workers.get(&slot) {
            Some(worker) => worker.process_id == process_id && !worker.has_completed(),
            None => slot < self.slots() && self.parted.get(&slot) != Some(&process_id),
        }
    }

    /// Slots that may be filled.
    pub fn slots(&self) -> u32 {
        self.wanted_workers.max(self.settings.workers) + self.settings.spares
    }

    /// Moves to the next state where what the present one waits for has come or is overdue; whether it moved.
    fn advance(&mut self, actions: &mut Vec<Action>) -> bool {
        let now = self.now;
        if matches!(self.state, State::Joining { .. } | State::Running { .. } | State::Reforming(_)) {
            self.note_silence();
            if let Some(loss) = self.next_loss() {
                self.lose(loss, actions);
                return true;
            }
            self.start_replacements(actions);
        }
        match &self.state {
            State::Joining { until } => {
                if self.workers.len() >= self.wanted_workers as usize {
                    self.begin_first(actions);
                } else if now >= *until {
                    self.fail_to_join(actions);
                } else {
                    return false;
                }
            }
            State::Running { meet_until, pausing } => {
                let is_stuck = self.stop.as_ref().is_some_and(|stop| now >= stop.until);
                if self.all_completed() {
                    self.settle_completed(actions);
                } else if meet_until.is_some_and(|until| now >= until) {
                    self.fail_to_meet(actions);
                } else if is_stuck {
                    self.fail_to_stop(actions);
                } else if self.workers.values().any(|worker| worker.suspended().is_some()) {
                    self.leave_generation(actions);
                } else if !pausing && meet_until.is_none() && self.wants_another_generation() {
                    self.pause(actions);
                } else {
                    return false;
                }
            }
            State::Reforming(_) => return self.advance_reform(actions),
            State::Settling { outcome, until } => {
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
            if !worker.has_completed() && silence >= self.settings.death {
                self.evidence.silent(*slot, self.settings.death);
            }
        }
    }

    /// A worker whose loss is certain, or as good as that since nothing more was heard for a while.
    fn next_loss(&mut self) -> Option<Loss> {
        if self.evidence.is_empty() {
            self.doubt_since = None;
            return None;
        }
        let since = *self.doubt_since.get_or_insert(self.now);
        let has_session = |slot| self.workers.get(&slot).is_some_and(|worker: &Worker| worker.has_session);
        let waited = self.now - since;
        let evidence = &self.evidence;
        evidence
            .certain(has_session)
            .or_else(|| evidence.gone(has_session).filter(|_| waited >= STATUS))
            .or_else(|| evidence.ended().filter(|_| waited >= self.settings.verdict))
    }

    pub(super) fn all_completed(&self) -> bool {
        let mut members = self.seats.iter().map(|seat| self.workers.get(&seat.slot));
        members.all(|worker| worker.is_none_or(Worker::has_completed))
    }

    /// The peers of the present generation.
    pub(super) fn active(&self) -> BTreeSet<u32> {
        self.seats.iter().flat_map(|seat| seat.peers.iter().copied()).collect()
    }

    /// What peers that were never there before start from.
    pub(super) fn new_peers(&self) -> NewPeer {
        self.cohort.new_peers
    }
}
