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
                "integration-tests/tests/links.rs cuts and slows links between network namespaces"
            }
            Fault::ClockJump { .. } => {
                "no clock on the wall decides anything in Medley, where deadlines and leases go by the monotonic one"
            }
            Fault::EtcdMemberLoss { .. } | Fault::CoordinatorKill => {
                "integration-tests/tests/failover.rs plays it, with an etcd of its own"
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
    /// The last one's consequences are not over.
    open: Option<Open>,
    /// Stopped processes, and when they are continued.
    stopped: Vec<(Instant, u32)>,
    step: u64,
    /// When the last step was committed, since the Unix epoch.
    stepped_at: f64,
    begun: Option<Instant>,
    step_seconds: f64,
}

/// A fault whose consequences are not over.
#[derive(Debug)]
struct Open {
    since: Instant,
    is_noticed: bool,
    ends_generation: bool,
}

impl Injuries {
    /// Of a scenario; `random` draws the moments.
    pub fn new(scenario: &Scenario, random: ChaCha8Rng) -> Self {
        let mut planned: Vec<Planned> = scenario.events.clone();
        // A slow disk is nothing that anybody notices.
        planned.retain(|planned| !matches!(planned.fault, Fault::SlowDisk { .. }));
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
            stepped_at: 0.0,
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
                    self.step = self.step.max(step.step);
                    self.stepped_at = *time;
                    // What took no generation with it is over with the next step.
                    if self.open.as_ref().is_some_and(|open| open.is_noticed && !open.ends_generation) {
                        self.over(*time, tell);
                    }
                }
                Event::WorkerLost { .. } => self.noticed(*time, true),
                Event::Warning { message } if message.contains("exchange failed") => self.noticed(*time, true),
                Event::Warning { message } if message.contains("checkpoint") => self.noticed(*time, false),
                Event::Generation { step, .. } => {
                    if let Some(last) = self.records.last_mut().filter(|_| self.open.is_some()) {
                        last.steps_lost = last.steps_lost.max(last.after_step.saturating_sub(*step));
                    }
                }
                // Steps that were committed before a loss may be reported after it: this is the first one that was not.
                Event::Recovered { replayed, .. } => {
                    if let Some(last) = self.records.last_mut().filter(|_| self.open.is_some()) {
                        last.steps_lost = last.steps_lost.max(*replayed);
                        self.over(*time, tell);
                    }
                }
                _ => {}
            }
        }
    }

    fn noticed(&mut self, time: f64, ends_generation: bool) {
        if self.open.is_none() {
            // A worker has done it to itself, at some time after the last committed step.
            let Some(place) = self.planned.iter().position(|planned| planned.fault.is_the_workers()) else { return };
            if let Some(planned) = self.planned.remove(place) {
                self.record(&planned.fault, self.stepped_at);
            }
        }
        let (Some(open), Some(last)) = (self.open.as_mut(), self.records.last_mut()) else { return };
        if time >= last.at {
            last.noticed_seconds.get_or_insert(time - last.at);
            open.is_noticed = true;
            open.ends_generation |= ends_generation;
        }
    }

    fn over(&mut self, time: f64, tell: &mut dyn FnMut(&str)) {
        let Some(last) = self.records.last_mut() else { return };
        last.recovered_seconds = Some(time - last.at);
        self.open = None;
        let (noticed, recovered) = (last.noticed_seconds.unwrap_or_default(), time - last.at);
        tell(&format!("{}: noticed after {noticed:.2} s, the next step after {recovered:.2} s", last.fault));
    }

    fn record(&mut self, fault: &Fault, at: f64) {
        self.open = Some(Open { since: Instant::now(), is_noticed: false, ends_generation: false });
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
        if self.open.as_ref().is_some_and(|open| now - open.since < LONGEST_WAIT) {
            return Ok(());
        }
        let from_outside = |planned: &Planned| !planned.fault.is_the_workers();
        let place = self.planned.iter().position(from_outside);
        let (Some(place), Some(begun)) = (place, self.begun) else { return Ok(()) };
        let next = &self.planned[place];
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
        let Some(planned) = self.planned.remove(place) else { return Ok(()) };
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
