//! Coordinator.

pub mod checkpoint;
pub mod cluster;
pub mod job;
pub mod launch;
mod random;
pub mod server;
pub mod store;
