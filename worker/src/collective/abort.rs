//! Stopping a group from outside the training thread.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use super::CollectiveError;

type Action = Box<dyn FnOnce(&str) + Send>;

/// Makes every pending and later call of a group fail at once. Cheap to clone; usable from any thread, also before the
/// group has formed, so that a formation that waits for a dead worker can be given up too. One handle serves one
/// generation: an aborted handle stays aborted.
#[derive(Clone, Default)]
pub struct AbortHandle {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    reason: Option<String>,
    actions: Vec<Action>,
}

impl AbortHandle {
    /// A handle that has not been used.
    pub fn new() -> Self {
        Self::default()
    }

    /// Aborts the group. Only the first reason counts.
    pub fn abort(&self, reason: impl Into<String>) {
        let reason = reason.into();
        let actions = {
            let mut state = self.lock();
            if state.reason.is_some() {
                return;
            }
            state.reason = Some(reason.clone());
            std::mem::take(&mut state.actions)
        };
        for action in actions {
            action(&reason);
        }
    }

    /// The reason of the abort, if there was one.
    pub fn reason(&self) -> Option<String> {
        self.lock().reason.clone()
    }

    /// Fails with [`CollectiveError::Aborted`] once the handle was used.
    pub fn check(&self) -> Result<(), CollectiveError> {
        self.reason().map_or(Ok(()), |reason| Err(CollectiveError::Aborted { reason }))
    }

    /// Runs `action` with the reason when the group is aborted, at once if it already was. This is how a
    /// collective wakes its own waits; the action must be quick and must not own what it wakes.
    pub(super) fn on_abort(&self, action: impl FnOnce(&str) + Send + 'static) {
        let reason = {
            let mut state = self.lock();
            match state.reason.clone() {
                Some(reason) => reason,
                None => return state.actions.push(Box::new(action)),
            }
        };
        action(&reason);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for AbortHandle {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("AbortHandle").field("reason", &self.reason()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn actions_run_once_with_the_first_reason_also_when_they_come_late() {
        let handle = AbortHandle::new();
        let (sender, seen) = mpsc::channel();
        let early = sender.clone();
        handle.on_abort(move |reason| early.send(format!("early {reason}")).unwrap_or_default());
        assert!(handle.check().is_ok());
        handle.abort("first");
        handle.abort("second");
        handle.on_abort(move |reason| sender.send(format!("late {reason}")).unwrap_or_default());
        assert_eq!(seen.iter().collect::<Vec<_>>(), ["early first", "late first"]);
        assert!(matches!(handle.check(), Err(CollectiveError::Aborted { reason }) if reason == "first"));
    }
}
