//! Coordinator.

pub mod job;
pub mod launch;
