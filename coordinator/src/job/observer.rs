//! What is told everything that happens to a job: the event log, the summary, the terminal.

use medley_common::events::{Event, StepEvent};
use std::time::SystemTime;

/// Is told everything that happens, in order. The run directory exists by the first call. Called on the loop that
/// drives the job: it must not wait long.
pub trait Observer: Send {
    /// Something happened that `events.jsonl` keeps.
    fn event(&mut self, time: SystemTime, event: &Event);

    /// All workers committed a step; called for every one, also for those that the event log leaves out.
    fn progress(&mut self, step: &StepEvent) {
        let _ = step;
    }
}
