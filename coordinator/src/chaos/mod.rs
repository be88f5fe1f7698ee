//! Faults on purpose: what a job survives, shown at three levels.
//!
//! 1. [`simulation`]: the coordinator's decisions under simulated time, in thousands of random schedules.
//! 2. [`scenario`]: faults as data (`medley_common::faults`), their times, and what must hold; [`play`]: real jobs as
//!    processes of one machine, disturbed and not, compared: `medley chaos`.
//! 3. Several hosts as network namespaces, with links that are cut and slowed: `integration-tests/tests/links.rs`.

pub mod play;
pub mod scenario;
pub mod simulation;
