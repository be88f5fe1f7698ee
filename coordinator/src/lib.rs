//! Coordinator.

pub mod job;
pub mod launch;
pub mod output;
