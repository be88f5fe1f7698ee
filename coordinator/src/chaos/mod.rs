//! Faults on purpose: what a job survives, shown at three levels.
//!
//! 1. [`simulation`]: the coordinator's decisions under simulated time, in thousands of random schedules.

pub mod simulation;
