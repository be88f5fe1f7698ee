//! The coordinator's gRPC service: who may join, and how messages reach the cluster and the workers.
//!
//! 1. [`Listener`] and [`Server`] in `serve`: the listening socket, its life and its limits.
//! 2. `service`: joining and sessions.
//! 3. `sessions`: who has joined, and the way to each worker.
//! 4. [`convert`]: wire messages into what the cluster is told, and back.
//! 5. `limits`: how many connections there may be at once.
//!
//! Invariants: nothing is decided here but who may join; a worker that does not read what it is sent loses its
//! session and holds nobody up.

pub mod convert;
mod limits;
mod serve;
mod service;
mod sessions;

pub use serve::{Listener, Server, ServerError};
pub use sessions::Admission;
