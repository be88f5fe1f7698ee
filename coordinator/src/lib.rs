//! Coordinator.

pub mod checkpoint;
pub mod cluster;
pub mod store;
