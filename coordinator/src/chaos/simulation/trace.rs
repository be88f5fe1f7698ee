//! What a person reads of a schedule that broke an invariant.

use super::queue::Time;
use crate::cluster::{Action, Event, Report};
use std::fmt::Write;

/// Lines, each with its time; none where nobody will read them.
#[derive(Debug, Default)]
pub struct Trace {
    lines: Option<Vec<String>>,
}

impl Trace {
    /// Keeps what happens.
    pub fn kept() -> Self {
        Self { lines: Some(Vec::new()) }
    }

    /// All that was kept.
    pub fn into_lines(self) -> Vec<String> {
        self.lines.unwrap_or_default()
    }

    /// Something happened outside of the coordinator.
    pub fn note(&mut self, now: Time, what: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.lines {
            lines.push(format!("{}        {}", clock(now), what()));
        }
    }

    /// The coordinator is told.
    pub fn event(&mut self, now: Time, event: &Event) {
        let is_routine = matches!(event, Event::Tick | Event::Reported { report: Report::Heartbeat, .. });
        if let Some(lines) = self.lines.as_mut().filter(|_| !is_routine) {
            lines.push(format!("{} told   {event:?}", clock(now)));
        }
    }

    /// The coordinator asks.
    pub fn action(&mut self, now: Time, action: &Action) {
        if let Some(lines) = &mut self.lines {
            lines.push(format!("{} asks     {}", clock(now), describe(action)));
        }
    }
}

fn clock(now: Time) -> String {
    format!("{:>10.3} ms", now as f64 / 1e3)
}

fn describe(action: &Action) -> String {
    let Action::Assign { slot, assignment } = action else {
        return format!("{action:?}");
    };
    let mut text = format!("Assign slot {slot} rank {} of generation {}", assignment.rank, assignment.generation);
    if assignment.rank == 0 {
        for member in assignment.members.iter() {
            let _ = write!(text, "; slot {} {:?} kept by {}", member.slot, member.peers, member.buddy);
        }
        let start = &assignment.start;
        let _ = write!(text, "; after {}, shared {:?}, {:?}", start.step, start.shared, start.peers);
    }
    text
}
