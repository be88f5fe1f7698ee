//! What the coordinator decides, as a pure state machine: no sockets, no files, no clock.
//!
//! Read in this order:
//! 1. [`messages`]: what the cluster is told ([`Event`]) and what it asks for ([`Action`]).
//! 2. [`Cluster`] in `machine`: the states of a job and what moves it from one to the next.
//! 3. `membership`: workers that join, come back and are lost; `losses`: which of several signs is the cause;
//!    `recoveries`: losses in a row, and when there are enough of them.
//! 4. `reform`: from one generation to the next; `formation`: the next; `origins`: where training stands then, and where each state comes from;
//!    `seats` and [`placement()`]: who hosts which peers; `cohort` and `scaling`: T over time.
//! 5. `reports`: what a worker's reports change; `ending`: how a job ends.
//! 6. `steps` and `shards`: what all workers must have reported before a step or a checkpoint counts.
//! 7. `takeover`: what another coordinator must know that goes on with the job.
//!
//! Invariants, checked by the simulation (`chaos::simulation`): a rank is assigned at most once in a
//! generation; the committed step never decreases; nothing is asked for after [`Action::Finish`]; a job whose
//! workers say nothing ends by its deadlines.

mod cohort;
mod ending;
mod formation;
mod losses;
mod machine;
mod membership;
pub mod messages;
mod origins;
mod placement;
mod recoveries;
mod reform;
mod reports;
mod resumed;
mod scaling;
mod seats;
mod shards;
mod steps;
mod takeover;

#[cfg(test)]
mod tables;

pub use cohort::{CohortPlan, NewPeer};
pub use machine::{Cluster, State, Stop};
pub use messages::{
    Action, Assignment, Commit, Event, Joined, Member, Outcome, Recovery, Report, Resume, Scale, SessionNumber,
    Settings, Slot, Suspended, worker_log, worker_name,
};
pub use origins::{Origin, Start};
pub use placement::placement;
pub use reform::Reform;
pub use takeover::{Kept, KeptReady};
