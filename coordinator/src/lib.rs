//! Coordinator: takes one job from its configuration to its results. Knows nothing of tensors.
//!
//! Read in this order:
//! 1. [`cluster`]: what is decided, and when: a state machine without sockets, files or a clock.
//! 2. [`job`]: one job, everything below wired to it.
//! 3. [`server`]: gRPC between coordinator and workers.
//! 4. [`launch`]: worker processes on this machine.
//! 5. [`checkpoint`]: what makes files that workers wrote a checkpoint.
//! 6. [`store`]: what must survive the coordinator.

pub mod checkpoint;
pub mod cluster;
pub mod job;
pub mod launch;
mod random;
pub mod server;
pub mod store;
