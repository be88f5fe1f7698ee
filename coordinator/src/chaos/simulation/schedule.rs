//! A random schedule: a job, the machines that it runs on, and what befalls it. All of it follows from one number.

use super::queue::{MILLISECOND, SECOND, Time};
use crate::cluster::{CohortPlan, NewPeer, Recovery, Scale, Settings, Slot};
use medley_common::config::{CohortChange, RecoveryMode};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::time::Duration;

/// How rough a schedule is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weather {
    /// Nothing befalls the job: it completes in its first generation.
    Calm,
    /// Workers are lost and replaced, links are cut and heal: the job completes all the same.
    Rough,
    /// Anything, at any rate: the job completes, or fails with a verdict.
    Wild,
}

/// Who starts a worker process in the place of one that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restarts {
    /// The coordinator's launcher, when asked to. It also kills whom the coordinator dismisses.
    ByLauncher,
    /// Somebody whom the coordinator does not know, after any end of a process.
    FromOutside,
    /// Nobody.
    Never,
}

/// Where in a step a worker is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// It computes.
    Computing,
    /// It has sent all that the others need, and does not hold all of theirs.
    Preparing,
    /// It holds all that it takes to commit, and the others may not know.
    Prepared,
    /// It has committed, and others may not have.
    Committed,
    /// It enters a generation.
    Entering,
}

/// What befalls the job.
#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    /// SIGKILL.
    Kill {
        /// Whose.
        slot: Slot,
    },
    /// SIGKILL in the middle of a step.
    KillAt {
        /// Whose.
        slot: Slot,
        /// In the course of the step after this one, or of the next one at which it can be.
        step: u64,
        /// Where in it.
        moment: Moment,
    },
    /// A machine loses its power: nobody hears of its end.
    HostDies {
        /// Which.
        host: u32,
    },
    /// SIGSTOP, then SIGCONT.
    Freeze {
        /// Whose.
        slot: Slot,
        /// For how long, in microseconds.
        time: Time,
    },
    /// A worker's connection to the coordinator breaks, and can be made again at once.
    SessionBreaks {
        /// Whose.
        slot: Slot,
    },
    /// Nothing passes between a worker and the coordinator.
    CutOff {
        /// Whose.
        slot: Slot,
        /// For how long, in microseconds.
        time: Time,
    },
    /// Nothing passes between two workers.
    Cut {
        /// Whose.
        between: [Slot; 2],
        /// For how long, in microseconds.
        time: Time,
    },
    /// A worker computes so many times longer from now on.
    Slow {
        /// Whose.
        slot: Slot,
        /// How many times.
        factor: u64,
    },
    /// The coordinator's process is stopped, then continued.
    CoordinatorPauses {
        /// For how long, in microseconds.
        time: Time,
    },
    /// The leading coordinator is killed, and another takes over.
    CoordinatorDies {
        /// For how long nobody leads, in microseconds.
        time: Time,
        /// At the next thing that it keeps, before it has told anybody of it; else at once.
        keeping: bool,
    },
    /// A worker's own error.
    Fails {
        /// Whose.
        slot: Slot,
        /// The user's input is at fault.
        bad_input: bool,
        /// Another attempt would fail in the same way.
        is_final: bool,
    },
    /// Every process in a slot ends soon after its start from now on.
    CrashLoop {
        /// Whose.
        slot: Slot,
    },
    /// The next checkpoint cannot be committed.
    CommitFails,
    /// Somebody asks the job to stop.
    Stop,
    /// Somebody asks for another T.
    Scale(Scale),
}

/// A job, its machines, and what befalls it.
#[derive(Debug, Clone)]
pub struct Schedule {
    /// What all of it follows from.
    pub seed: u64,
    /// How rough it is.
    pub weather: Weather,
    /// The job.
    pub settings: Settings,
    /// Machines; the worker in slot s runs on number s modulo this.
    pub hosts: u32,
    /// Steps of the whole training.
    pub total_steps: u64,
    /// Validation no longer improves at this step.
    pub ends_early_at: Option<u64>,
    /// Steps between checkpoints.
    pub checkpoint_every: u64,
    /// How long a step is computed: at least, at most.
    pub step: [Time; 2],
    /// How long a message takes.
    pub latency: [Time; 2],
    /// How long a process takes from its start until it joins.
    pub start: [Time; 2],
    /// Between heartbeats.
    pub heartbeat: Time,
    /// The longest wait for another worker.
    pub deadline: Time,
    /// Who replaces processes.
    pub restarts: Restarts,
    /// When what happens.
    pub faults: Vec<(Time, Fault)>,
}

/// Every so many-th schedule is of 1,000 workers; of 50 to 200.
const LARGEST_EVERY: u64 = 500;
const LARGE_EVERY: u64 = 50;

impl Schedule {
    /// The schedule of a seed.
    pub fn draw(seed: u64) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let random = &mut random;
        let workers: u32 = match seed {
            _ if seed % LARGEST_EVERY == LARGEST_EVERY / 2 => 1_000,
            _ if seed % LARGE_EVERY == LARGE_EVERY / 2 => random.random_range(50..=200),
            _ if random.random_bool(0.1) => random.random_range(9..=24),
            _ => random.random_range(1..=8),
        };
        let weather = match random.random_range(0..20) {
            0 => Weather::Calm,
            1..11 => Weather::Rough,
            _ => Weather::Wild,
        };
        let total_steps = if workers > 24 { random.random_range(3..=8) } else { random.random_range(3..=40) };
        let settings = settings(random, workers, weather, total_steps);
        let step = random.random_range(5..40) * MILLISECOND;
        let mut schedule = Self {
            seed,
            weather,
            hosts: if random.random_bool(0.5) { 1 } else { random.random_range(1..=workers.div_ceil(2)) },
            total_steps,
            ends_early_at: random.random_bool(0.1).then(|| random.random_range(1..=total_steps)),
            checkpoint_every: random.random_range(1..=12),
            step: [step, step * 3 / 2],
            latency: [100, *pick(random, &[1_000, 5_000, 60_000])],
            start: [100 * MILLISECOND, random.random_range(200..2_500) * MILLISECOND],
            heartbeat: 250 * MILLISECOND,
            deadline: random.random_range(1_500..2_500) * MILLISECOND,
            restarts: Restarts::ByLauncher,
            faults: Vec::new(),
            settings,
        };
        match weather {
            Weather::Calm => {}
            Weather::Rough => {
                if random.random_bool(0.2) {
                    schedule.restarts = Restarts::FromOutside;
                }
                schedule.draw_faults(random, false);
            }
            Weather::Wild => {
                schedule.restarts = *pick(random, &[Restarts::ByLauncher, Restarts::FromOutside, Restarts::Never]);
                schedule.draw_faults(random, true);
            }
        }
        if schedule.restarts != Restarts::ByLauncher {
            let most = schedule.settings.workers;
            for (_, fault) in &mut schedule.faults {
                // Nobody would start them.
                if let Fault::Scale(Scale { workers: Some(workers), .. }) = fault {
                    *workers = most.min(*workers);
                }
            }
        }
        schedule
    }

    /// T may change while it runs, by requests that come at no certain step; or peers may be left out.
    pub fn is_undisturbed_known(&self) -> bool {
        let asks = self.faults.iter().any(|(_, fault)| matches!(fault, Fault::Scale(_)));
        // A peer that left comes back as its last checkpoint has it, which a loss at that very step may make an older one.
        let counts = std::iter::once(self.settings.cohort.peers as usize)
            .chain(self.settings.cohort.changes.iter().map(|change| change.peers));
        let only_grows = counts.is_sorted();
        !asks && only_grows && self.settings.recovery.mode == RecoveryMode::Exact
    }

    /// The machine of a slot.
    pub fn host(&self, slot: Slot) -> u32 {
        slot % self.hosts
    }

    /// When the last fault is over.
    pub fn calm_from(&self) -> Time {
        let end = |(at, fault): &(Time, Fault)| match fault {
            Fault::Freeze { time, .. }
            | Fault::CutOff { time, .. }
            | Fault::Cut { time, .. }
            | Fault::CoordinatorPauses { time }
            | Fault::CoordinatorDies { time, .. } => at + time,
            _ => *at,
        };
        self.faults.iter().map(end).max().unwrap_or(0)
    }

    fn draw_faults(&mut self, random: &mut ChaCha8Rng, is_wild: bool) {
        let expected = self.start[1] + self.total_steps * (self.step[1] + 4 * self.latency[1]);
        let count = if is_wild { random.random_range(1..=12) } else { random.random_range(1..=5) };
        for _ in 0..count {
            // Faults come where the work is: many of them while a job recovers from others.
            let at = random.random_range(0..expected * 2);
            let fault = if is_wild && random.random_bool(0.3) { self.wild(random) } else { self.rough(random) };
            self.faults.push((at, fault));
        }
        // One that launched its workers takes them with it.
        if self.restarts != Restarts::ByLauncher {
            for _ in 0..random.random_range(0..=3) {
                let time = random.random_range(50 * MILLISECOND..8 * SECOND);
                let fault = Fault::CoordinatorDies { time, keeping: random.random_bool(0.5) };
                self.faults.push((random.random_range(0..expected * 2), fault));
            }
        }
        if random.random_bool(0.2) {
            let fault = Fault::Scale(self.scale(random));
            self.faults.push((random.random_range(0..expected), fault));
        }
    }

    /// What a job must survive.
    fn rough(&self, random: &mut ChaCha8Rng) -> Fault {
        let slots = self.settings.workers + self.settings.spares;
        let slot = random.random_range(0..slots);
        let time = random.random_range(50 * MILLISECOND..8 * SECOND);
        match random.random_range(0..12) {
            0 | 1 => Fault::Kill { slot },
            2..6 => {
                let moments =
                    [Moment::Computing, Moment::Preparing, Moment::Prepared, Moment::Committed, Moment::Entering];
                Fault::KillAt { slot, step: random.random_range(0..self.total_steps), moment: *pick(random, &moments) }
            }
            6 => Fault::HostDies { host: random.random_range(0..self.hosts) },
            7 => Fault::Freeze { slot, time },
            8 => Fault::SessionBreaks { slot },
            9 => Fault::CutOff { slot, time },
            10 => Fault::Cut { between: [slot, random.random_range(0..slots)], time },
            _ if random.random_bool(0.5) => Fault::Slow { slot, factor: random.random_range(2..6) },
            _ => Fault::CoordinatorPauses { time },
        }
    }

    fn wild(&self, random: &mut ChaCha8Rng) -> Fault {
        let slot = random.random_range(0..self.settings.workers + self.settings.spares);
        match random.random_range(0..5) {
            0 => Fault::Fails { slot, bad_input: random.random_bool(0.2), is_final: random.random_bool(0.2) },
            1 => Fault::CrashLoop { slot },
            2 => Fault::CommitFails,
            3 => Fault::Stop,
            _ => Fault::Scale(self.scale(random)),
        }
    }

    fn scale(&self, random: &mut ChaCha8Rng) -> Scale {
        let most = (self.settings.cohort.peers * 2).max(3);
        let source = random.random_range(0..self.settings.cohort.peers);
        Scale {
            peers: random.random_range(1..=most.min(1_200)),
            workers: random.random_bool(0.5).then(|| random.random_range(1..=self.settings.workers + 2)),
            new_peers: random.random_bool(0.3).then_some(NewPeer::CopyOf { peer: source, noise: 0.1 }),
        }
    }
}

fn settings(random: &mut ChaCha8Rng, workers: u32, weather: Weather, total_steps: u64) -> Settings {
    let peers = if random.random_bool(0.6) { workers } else { workers + random.random_range(0..=workers) };
    let milliseconds = Duration::from_millis;
    let mut changes = Vec::new();
    let mut step = 0;
    while random.random_bool(0.15) && step + 1 < total_steps {
        step = random.random_range(step + 1..total_steps);
        changes.push(CohortChange { step, peers: random.random_range(1..=peers as usize + 2) });
    }
    let new_peers = match random.random_bool(0.3) {
        true => NewPeer::CopyOf { peer: random.random_range(0..peers), noise: 0.1 },
        false => NewPeer::Fresh,
    };
    let is_wild = weather == Weather::Wild;
    Settings {
        cohort: CohortPlan { peers, changes, new_peers },
        workers,
        spares: if random.random_bool(0.3) { random.random_range(1..=2) } else { 0 },
        generation: random.random_range(1..4),
        resume: None,
        log_every: random.random_range(1..10),
        join: milliseconds(30_000),
        death: milliseconds(1_000),
        verdict: milliseconds(300),
        stop: milliseconds(30_000),
        recovery: Recovery {
            mode: if random.random_bool(0.3) { RecoveryMode::Continue } else { RecoveryMode::Exact },
            replace: milliseconds(random.random_range(500..10_000)),
            reform: milliseconds(5_000),
            attempts: if is_wild { random.random_range(0..6) } else { 40 + 4 * workers },
        },
    }
}

fn pick<'a, T>(random: &mut ChaCha8Rng, choices: &'a [T]) -> &'a T {
    &choices[random.random_range(0..choices.len())]
}
