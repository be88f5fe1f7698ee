//! What the coordinator decides, as a pure state machine: no sockets, no files, no clock.
//!
//! Read in this order:
//! 1. [`messages`]: what the cluster is told ([`Event`]) and what it asks for ([`Action`]).
//! 2. [`placement()`]: which peers a worker hosts.
//! 3. [`Cluster`] in `machine`: the states of a job and what moves it from one to the next.
//! 4. `reports`: what a worker's reports change; `ending`: how a job ends.
//! 5. `steps` and `shards`: what all workers must have reported before a step or a checkpoint counts.
//! 6. `verdict`: which of several errors is the cause and which are its consequences.
//!
//! Invariants, checked by the property tests in `tests/cluster_properties.rs`: a rank is assigned at most once in a
//! generation; the committed step never decreases; nothing is asked for after [`Action::Finish`]; a job whose
//! workers say nothing ends by its deadlines.

mod ending;
mod machine;
pub mod messages;
mod placement;
mod reports;
mod shards;
mod steps;
mod verdict;

#[cfg(test)]
mod tables;

pub use machine::{Cluster, State, Stopping};
pub use messages::{
    Action, Assignment, Commit, Event, Member, Outcome, Report, Resume, Settings, Slot, worker_log, worker_name,
};
pub use placement::placement;
