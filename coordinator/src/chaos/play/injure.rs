//! Faults that are done to a run, one after the other, and what followed from each.

use super::job::Job;
use super::{PlayError, io};
use crate::chaos::scenario::{Planned, Scenario};
use medley_common::events::{Event, EventLine};
use medley_common::faults::Fault;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The next fault waits this long for the one before to be over.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// A fault, and what followed from it. Times are in seconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// What was done.
    pub fault: String,
    /// The last committed step before.
    pub after_step: u64,
    /// From the fault until the coordinator knew; none where it never did.
    pub noticed_seconds: Option<f64>,
    /// From the fault until the next step was committed after it was noticed.
    pub recovered_seconds: Option<f64>,
    /// Committed steps that had to be taken again.
    pub steps_lost: u64,
    /// When, since the Unix epoch.
    #[serde(skip)]
    pub(super) at: f64,
}

/// Faults that this level can bring about.
pub fn refuse_unplayable(scenario: &Scenario) -> Result<(), PlayError> {
    for planned in &scenario.events {
        let instead = match planned.fault {
            Fault::Partition { .. } | Fault::Delay { .. } | Fault::Loss { .. } => {
                "integration-tests/tests/links.rs plays it between network namespaces"
            }
            Fault::ClockJump { .. } => "no clock on the wall decides anything in Medley; the simulation sets its clock",
            Fault::EtcdMemberLoss { .. } | Fault::CoordinatorKill => {
                "the tests of several coordinators play it, with an etcd of their own"
            }
            _ => continue,
        };
        let (scenario, fault) = (scenario.name.clone(), planned.fault.name());
        return Err(PlayError::Unplayable { scenario, fault, instead });
    }
    Ok(())
}

/// The faults of a scenario while it is played.
#[derive(Debug)]
pub struct Injuries {
    planned: VecDeque<Planned>,
    random: ChaCha8Rng,
    /// The next one strikes then.
    strikes: Option<Instant>,
    records: Vec<Record>,
    /// The last one's consequences are not over, since then.
    open: Option<Instant>,
    /// Stopped processes, and when they are continued.
    stopped: Vec<(Instant, u32)>,
    step: u64,
    begun: Option<Instant>,
    step_seconds: f64,
}

impl Injuries {
    /// Of a scenario; `random` draws the moments.
    pub fn new(scenario: &Scenario, random: ChaCha8Rng) -> Self {
        let mut planned: Vec<Planned> = scenario.events.clone();
        let order = |planned: &Planned| (planned.at_step.unwrap_or(0), planned.after_seconds.unwrap_or(0.0));
        planned.sort_by(|one, other| order(one).partial_cmp(&order(other)).unwrap_or(std::cmp::Ordering::Equal));
        Self {
            planned: planned.into(),
            random,
            strikes: None,
            records: Vec::new(),
            open: None,
            stopped: Vec::new(),
            step: 0,
            begun: None,
            step_seconds: 0.01,
        }
    }

    /// Everything that was done.
    pub fn into_records(self) -> Vec<Record> {
        self.records
    }

    /// Takes note of what happened in the run.
    pub fn observe(&mut self, news: &[EventLine], tell: &mut dyn FnMut(&str)) {
        for EventLine { time, event } in news {
            match event {
                Event::Step(step) => {
                    self.begun.get_or_insert_with(Instant::now);
                    self.step_seconds = step.seconds;
                    self.stepped(step.step, *time, tell);
                }
                Event::WorkerLost { .. } => self.noticed(*time),
                Event::Warning { message } if message.contains("checkpoint") || message.contains("exchange") => {
                    self.noticed(*time);
                }
                Event::Generation { step, .. } => {
                    if let Some(last) = self.records.last_mut().filter(|_| self.open.is_some()) {
                        last.steps_lost = last.steps_lost.max(last.after_step.saturating_sub(*step));
                    }
                }
                Event::Recovered { replayed, .. } => {
                    if let Some(last) = self.records.last_mut() {
                        last.steps_lost = last.steps_lost.max(*replayed);
                    }
                }
                _ => {}
            }
        }
    }

    fn noticed(&mut self, time: f64) {
        if let Some(last) = self.records.last_mut().filter(|last| time >= last.at)
            && self.open.is_some()
        {
            last.noticed_seconds.get_or_insert(time - last.at);
        }
    }

    fn stepped(&mut self, step: u64, time: f64, tell: &mut dyn FnMut(&str)) {
        self.step = self.step.max(step);
        if let Some(last) = self.records.last_mut().filter(|last| last.noticed_seconds.is_some())
            && self.open.is_some()
        {
            last.recovered_seconds = Some(time - last.at);
            self.open = None;
            let noticed = last.noticed_seconds.unwrap_or_default();
            tell(&format!("{}: noticed after {noticed:.2} s, step {step} after {:.2} s", last.fault, time - last.at));
        }
        // What workers do to themselves strikes in the step after this one.
        let own = |planned: &Planned| match planned.fault {
            Fault::FailAt { step: at, .. } | Fault::CorruptedFrame { step: at, .. } => step + 1 >= at,
            Fault::DiskFull { step: at, .. } | Fault::HalfWrittenCheckpoint { step: at, .. } => step >= at,
            Fault::SlowDisk { .. } => true,
            _ => false,
        };
        if self.open.is_none()
            && let Some(place) = self.planned.iter().position(own)
            && let Some(planned) = self.planned.remove(place)
        {
            self.record(&planned.fault, time);
        }
    }

    fn record(&mut self, fault: &Fault, at: f64) {
        self.open = Some(Instant::now());
        self.records.push(Record {
            fault: fault.to_string(),
            after_step: self.step,
            noticed_seconds: None,
            recovered_seconds: None,
            steps_lost: 0,
            at,
        });
    }

    /// Does what is due.
    ///
    /// # Errors
    /// Where a signal is refused.
    pub fn injure(&mut self, job: &Job, tell: &mut dyn FnMut(&str)) -> Result<(), PlayError> {
        let now = Instant::now();
        for (_, process) in self.stopped.extract_if(.., |(until, _)| now >= *until) {
            if signal(process, Signal::CONT)? {
                tell(&format!("SIGCONT: process {process} goes on"));
            }
        }
        if self.open.is_some_and(|since| now - since < LONGEST_WAIT) {
            return Ok(());
        }
        let (Some(next), Some(begun)) = (self.planned.front(), self.begun) else { return Ok(()) };
        let due = match (next.at_step, next.after_seconds) {
            (Some(step), _) => self.step >= step,
            (_, Some(seconds)) => now - begun >= Duration::from_secs_f64(seconds),
            (None, None) => false,
        };
        if !due {
            return Ok(());
        }
        let within = self.step_seconds.max(0.001) * 2.0;
        let moment = now + Duration::from_secs_f64(self.random.random_range(0.0..within));
        if now < *self.strikes.get_or_insert(moment) {
            return Ok(());
        }
        self.strikes = None;
        let Some(planned) = self.planned.pop_front() else { return Ok(()) };
        self.strike(&planned.fault, job)
    }

    fn strike(&mut self, fault: &Fault, job: &Job) -> Result<(), PlayError> {
        let (Fault::Kill { worker } | Fault::StopAndContinue { worker, .. }) = *fault else { return Ok(()) };
        let Some(process) = job.worker(worker) else { return Ok(()) };
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let struck = match *fault {
            Fault::StopAndContinue { seconds, .. } => {
                self.stopped.push((Instant::now() + Duration::from_secs_f64(seconds), process));
                signal(process, Signal::STOP)?
            }
            _ => signal(process, Signal::KILL)?,
        };
        if struck {
            self.record(fault, at);
        }
        Ok(())
    }
}

/// Sends a signal; `false` where there is no such worker any more.
fn signal(process: u32, signal: Signal) -> Result<bool, PlayError> {
    // A number may have passed to somebody else's process.
    let line = std::fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
    let is_worker = String::from_utf8_lossy(&line).contains("--coordinator");
    let Some(id) = i32::try_from(process).ok().and_then(Pid::from_raw).filter(|_| is_worker) else {
        return Ok(false);
    };
    match kill_process(id, signal) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::SRCH) => Ok(false),
        Err(error) => Err(io(format!("signal process {process}"))(error.into())),
    }
}
