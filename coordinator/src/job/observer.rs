//! What watches a job: the terminal, the event log, the summary.
use medley_common::events::{Event, StepEvent};
use std::time::SystemTime;

/// Is told everything that happens to a job, in order.
pub trait Observer: Send {
    /// Something happened that the event log keeps.
    fn event(&mut self, time: SystemTime, event: &Event);
    /// A step was committed; called for every one, also for those that the event log leaves out.
    fn progress(&mut self, _step: &StepEvent) {}
}
