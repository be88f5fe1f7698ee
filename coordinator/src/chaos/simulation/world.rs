//! The simulated world: what happens next, and to whom.

use super::checks::Checks;
use super::exchange::Group;
use super::lineage::Snapshot;
use super::process::{Activity, Process, ProcessId};
use super::queue::{MILLISECOND, Queue, SECOND, Time};
use super::schedule::{Fault, Restarts, Schedule};
use super::trace::Trace;
use super::{Outline, Violation};
use crate::cluster::{Assignment, Cluster, Commit, Event, Kept, Outcome, Report, SessionNumber, Slot, State};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

/// Between ticks, as the real coordinator has them.
const TICK: Time = 50 * MILLISECOND;

/// How often workers look whether they have waited too long for each other.
const WATCH: Time = 250 * MILLISECOND;

/// Left alone, a job must end within this and ten times the longest that its steps can take.
const PATIENCE: Time = 600 * SECOND;

/// Something that will happen.
#[derive(Debug, Clone)]
pub enum Happening {
    /// The coordinator looks at its clock.
    Tick,
    /// All workers say that they live.
    Beats,
    /// The members of a generation look at theirs.
    Watch { generation: u64 },
    /// A report reaches the coordinator.
    Up { process: ProcessId, session: SessionNumber, sequence: u64 },
    /// The coordinator sees a session end.
    SessionSeen { process: ProcessId, session: SessionNumber },
    /// The launcher sees a process end.
    ExitSeen { process: ProcessId },
    /// The thread that commits checkpoints is done with one, of a coordinator that may be dead.
    Committed { commit: Commit, term: u64 },
    /// Another coordinator takes over.
    Succeeds { term: u64 },
    /// A worker calls Join and opens its session.
    Join { process: ProcessId },
    /// An order reaches a worker.
    Down { process: ProcessId, session: SessionNumber, order: Order },
    /// A process begins.
    Launched { slot: Slot },
    /// A process ends by itself.
    Crashes { process: ProcessId },
    /// A step is computed up to the exchange.
    Computed { process: ProcessId, generation: u64 },
    /// A process holds what all others sent in a round.
    Round { process: ProcessId, generation: u64, round: u32 },
    /// A process sees its exchange fail.
    Broke { process: ProcessId, generation: u64, because_of_rank: Option<u32>, reason: &'static str },
    /// A process's part of a checkpoint is written and synced.
    Written { process: ProcessId, generation: u64, report: Report },
    /// A process has evaluated its peers.
    Evaluated { process: ProcessId, generation: u64 },
    /// The coordinator's process is continued.
    Resumes,
    /// SIGCONT.
    Thaws { process: ProcessId },
    /// Something befalls the job.
    Fault(Fault),
}

impl Happening {
    /// The process that it happens to, where it cannot while that is stopped.
    fn subject(&self) -> Option<ProcessId> {
        match self {
            Self::Down { process, .. }
            | Self::Join { process }
            | Self::Crashes { process }
            | Self::Computed { process, .. }
            | Self::Round { process, .. }
            | Self::Broke { process, .. }
            | Self::Written { process, .. }
            | Self::Evaluated { process, .. } => Some(*process),
            _ => None,
        }
    }

    /// Whether it needs the coordinator.
    fn is_for_coordinator(&self) -> bool {
        matches!(
            self,
            Self::Tick
                | Self::Up { .. }
                | Self::SessionSeen { .. }
                | Self::ExitSeen { .. }
                | Self::Committed { .. }
                | Self::Join { .. }
                | Self::Fault(Fault::Stop | Fault::Scale(_))
        )
    }
}

/// What the coordinator sends a worker.
#[derive(Debug, Clone)]
pub enum Order {
    /// Enter a generation.
    Assign(Assignment),
    /// Leave it at once.
    Abort { generation: u64 },
    /// Leave it after a step that all agree on.
    Pause { generation: u64, checkpoint: bool },
    /// End after such a step.
    Stop { generation: u64 },
}

/// All of it.
pub struct World {
    pub(super) schedule: Schedule,
    pub(super) random: ChaCha8Rng,
    pub(super) now: Time,
    pub(super) queue: Queue<Happening>,
    pub(super) cluster: Cluster,
    pub(super) processes: Vec<Process>,
    /// Who has joined in each slot last.
    pub(super) places: BTreeMap<Slot, ProcessId>,
    pub(super) sessions: SessionNumber,
    /// The exchanges of the last generations.
    pub(super) groups: BTreeMap<u64, Group>,
    /// Until when nothing passes between two slots' workers.
    pub(super) cuts: Vec<([Slot; 2], Time)>,
    /// Workers that are to be killed in the middle of a step.
    pub(super) traps: Vec<Fault>,
    pub(super) loops: BTreeSet<Slot>,
    pub(super) commit_fails: bool,
    /// The present coordinator's; those before it are dead.
    pub(super) term: u64,
    /// When it began.
    pub(super) term_began: Time,
    /// Until when there is none.
    pub(super) leaderless_until: Time,
    /// The coordinator dies when next it keeps something, and nobody leads for so long.
    pub(super) dies_keeping: Option<Time>,
    /// What was kept last.
    pub(super) kept: Option<Kept>,
    pub(super) paused_until: Time,
    /// What waits for the coordinator meanwhile, in its order.
    pub(super) waiting: VecDeque<Happening>,
    /// Staged files, by step and name: the state that each holds.
    pub(super) staged: BTreeMap<(u64, String), u64>,
    /// Committed checkpoints by directory.
    pub(super) checkpoints: BTreeMap<String, Rc<Snapshot>>,
    pub(super) checks: Checks,
    pub(super) trace: Trace,
    pub(super) outcome: Option<Outcome>,
}

impl World {
    /// The beginning of a schedule.
    pub fn new(schedule: Schedule, trace: Trace) -> Self {
        let mut world = Self {
            random: ChaCha8Rng::seed_from_u64(schedule.seed ^ 0x5eed),
            now: 0,
            queue: Queue::new(),
            cluster: Cluster::new(schedule.settings.clone()),
            processes: Vec::new(),
            places: BTreeMap::new(),
            sessions: 0,
            groups: BTreeMap::new(),
            cuts: Vec::new(),
            traps: Vec::new(),
            loops: BTreeSet::new(),
            commit_fails: false,
            term: 1,
            term_began: 0,
            leaderless_until: 0,
            dies_keeping: None,
            kept: None,
            paused_until: 0,
            waiting: VecDeque::new(),
            staged: BTreeMap::new(),
            checkpoints: BTreeMap::new(),
            checks: Checks::new(&schedule),
            trace,
            outcome: None,
            schedule,
        };
        for slot in 0..world.schedule.settings.workers + world.schedule.settings.spares {
            world.queue.push(0, Happening::Launched { slot });
        }
        for (at, fault) in world.schedule.faults.clone() {
            world.queue.push(at, Happening::Fault(fault));
        }
        world.queue.push(TICK, Happening::Tick);
        world.queue.push(world.schedule.heartbeat, Happening::Beats);
        world
    }

    /// Runs to the job's end.
    ///
    /// # Errors
    /// The first violation of an invariant.
    pub fn run(mut self) -> Result<Outline, Violation> {
        let longest_step = self.schedule.step[1] * 6 + 6 * self.schedule.latency[1];
        let bound = self.schedule.calm_from() + PATIENCE + 10 * self.schedule.total_steps * longest_step;
        while self.outcome.is_none() && self.checks.violation.is_none() {
            let Some((at, happening)) = self.queue.pop() else { break };
            self.now = at;
            if at > bound {
                self.checks.violate(format!(
                    "the job did not end within {} s of simulated time: {:?}",
                    bound / SECOND,
                    brief(self.cluster.state())
                ));
                break;
            }
            self.happen(happening);
        }
        if self.checks.violation.is_none() {
            self.check_end();
        }
        match self.checks.violation.take() {
            Some(what) => Err(Violation { seed: self.schedule.seed, what, trace: self.trace.into_lines() }),
            None => Ok(Outline {
                weather: self.schedule.weather,
                workers: self.schedule.settings.workers,
                generations: self.checks.generations,
                rollbacks: self.checks.rollbacks,
                steps: self.cluster.committed_step(),
                simulated: Duration::from_micros(self.now),
                outcome: self.outcome.map(|outcome| outcome.outcome).unwrap_or_default(),
            }),
        }
    }

    fn happen(&mut self, happening: Happening) {
        if happening.is_for_coordinator() && self.now < self.leaderless_until {
            return self.missed(happening);
        }
        if happening.is_for_coordinator() && self.now < self.paused_until {
            return self.waiting.push_back(happening);
        }
        if let Some(process) = happening.subject() {
            let process = &mut self.processes[process];
            if !process.is_alive() {
                return;
            }
            if self.now < process.frozen_until {
                return process.deferred.push(happening);
            }
        }
        match happening {
            Happening::Tick => {
                self.tell(Event::Tick);
                self.queue.push(self.now + TICK, Happening::Tick);
            }
            Happening::Beats => self.beat(),
            Happening::Watch { generation } => {
                if self.watch(generation) {
                    self.queue.push(self.now + WATCH, Happening::Watch { generation });
                }
            }
            Happening::Up { process, session, sequence } => self.received(process, session, sequence),
            Happening::SessionSeen { process, session } => self.session_seen(process, session),
            Happening::ExitSeen { process } => self.exit_seen(process),
            Happening::Committed { commit, term } => self.checkpoint_written(&commit, term),
            Happening::Succeeds { term } => self.succeed(term),
            Happening::Join { process } => self.join(process),
            Happening::Down { process, session, order } => {
                if self.processes[process].session == Some(session) {
                    self.ordered(process, order);
                }
            }
            Happening::Launched { slot } => self.launched(slot),
            Happening::Crashes { process } => self.end(process, true),
            Happening::Computed { process, generation } => {
                if self.processes[process].takes_part(generation) {
                    self.send_round(process);
                }
            }
            Happening::Round { process, generation, round } => {
                let is_awaited = self.processes[process].round.is_some_and(|(awaited, _)| awaited == round);
                if is_awaited && self.processes[process].takes_part(generation) {
                    self.round_done(process, round);
                }
            }
            Happening::Broke { process, generation, because_of_rank, reason } => {
                if self.processes[process].takes_part(generation) {
                    self.leave(process, because_of_rank, reason, false);
                }
            }
            Happening::Written { process, generation, report } => {
                if self.processes[process].generation() == generation {
                    self.report(process, report);
                }
            }
            Happening::Evaluated { process, generation } => self.evaluated(process, generation),
            Happening::Resumes if self.now >= self.paused_until => {
                for waiting in std::mem::take(&mut self.waiting) {
                    self.happen(waiting);
                }
            }
            Happening::Resumes => {}
            Happening::Thaws { process } => {
                let process = &mut self.processes[process];
                if self.now >= process.frozen_until {
                    for happening in std::mem::take(&mut process.deferred) {
                        self.queue.push(self.now, happening);
                    }
                }
            }
            Happening::Fault(fault) => self.befall(fault),
        }
    }

    /// Tells the cluster, and does what it asks for.
    pub(super) fn tell(&mut self, event: Event) {
        if self.outcome.is_some() || self.checks.violation.is_some() || self.now < self.leaderless_until {
            return;
        }
        self.trace.event(self.now, &event);
        let before = self.cluster.committed_step();
        let term = self.term;
        let actions = self.cluster.apply(Duration::from_micros(self.now - self.term_began), event);
        let after = self.cluster.committed_step();
        self.checks.check(after >= before, || format!("the committed step fell from {before} to {after}"));
        if after > before {
            self.checks.floor = self.checks.floor.max(after);
        }
        for action in actions {
            if self.term != term {
                // It died before it came to this.
                return;
            }
            self.trace.action(self.now, &action);
            if self.outcome.is_some() {
                self.checks.violate(format!("{action:?} was asked for after the end"));
            }
            self.perform(action);
        }
    }

    fn beat(&mut self) {
        let everybody: Vec<ProcessId> = self.places.values().copied().collect();
        for id in everybody {
            let process = &self.processes[id];
            let is_heard = process.is_alive() && self.now >= process.frozen_until && self.now >= process.cut_until;
            let session = process.session.filter(|session| process.known_session == Some(*session));
            if let Some(session) = session.filter(|_| is_heard && self.now >= self.paused_until) {
                let (slot, generation) = (process.slot, process.generation());
                self.tell(Event::Reported { slot, session, generation, report: Report::Heartbeat });
                self.acknowledge(id);
            }
        }
        self.queue.push(self.now + self.schedule.heartbeat, Happening::Beats);
    }

    fn launched(&mut self, slot: Slot) {
        let id = self.processes.len();
        self.processes.push(Process::new(slot, self.schedule.host(slot)));
        let [least, most] = self.schedule.start;
        let at = self.now + self.random.random_range(least..=most);
        self.trace.note(self.now, || format!("process {id} begins in slot {slot}"));
        if self.loops.contains(&slot) {
            let lives = self.random.random_range(0..2 * (at - self.now));
            self.queue.push(self.now + lives, Happening::Crashes { process: id });
        }
        self.queue.push(at, Happening::Join { process: id });
    }

    /// A process is dead. A machine that lost its power tells nobody.
    pub(super) fn end(&mut self, id: ProcessId, is_seen: bool) {
        let process = &mut self.processes[id];
        if !process.is_alive() {
            return;
        }
        let slot = process.slot;
        let was_at_work = process.activity == Activity::AtWork;
        process.activity = Activity::Gone;
        self.trace.note(self.now, || format!("process {id} in slot {slot} ends"));
        if is_seen {
            if let Some(session) = self.processes[id].session.take() {
                let at = self.soon().max(self.processes[id].cut_until).max(self.processes[id].last_up);
                self.queue.push(at, Happening::SessionSeen { process: id, session });
            }
            if self.schedule.restarts != Restarts::FromOutside {
                let at = self.now + self.random.random_range(1..300) * MILLISECOND;
                self.queue.push(at, Happening::ExitSeen { process: id });
            }
        }
        if was_at_work && is_seen {
            self.break_group(id);
        }
        if self.schedule.restarts == Restarts::FromOutside {
            let at = self.now + self.random.random_range(10..2_000) * MILLISECOND;
            self.queue.push(at, Happening::Launched { slot });
        }
    }

    /// When a message sent now arrives.
    pub(super) fn soon(&mut self) -> Time {
        let [least, most] = self.schedule.latency;
        self.now + self.random.random_range(least..=most)
    }

    /// The step at which training ends.
    pub(super) fn last_step(&self) -> u64 {
        self.schedule.ends_early_at.unwrap_or(self.schedule.total_steps)
    }
}

fn brief(state: &State) -> String {
    match state {
        State::Reforming(reform) => format!("Reforming({reform:?})"),
        other => format!("{other:?}"),
    }
}
