//! The coordinator's gRPC service: who may join, and how messages reach the cluster and the workers.
//!
//! 1. [`Listener`] and [`Server`] in `serve`: the listening socket, its life and its limits.
//! 2. `door`: who may come in, how many, and how long they may take; `connection`: what was let in.
//! 3. `service`: joining and sessions.
//! 4. `control`: what people ask of a running job.
//! 5. `sessions`: who has joined, and the way to each worker.
//! 6. [`convert`]: wire messages into what the cluster is told, and back.
//! 7. `limits`: how many connections there may be at once.
//!
//! Invariants: nothing is decided here but who may join; a worker that does not read what it is sent loses its
//! session and holds nobody up; a connection that does not say what it wants is not served, and delays no other.

mod connection;
mod control;
pub mod convert;
mod door;
mod limits;
mod serve;
mod service;
mod sessions;

pub use control::Asked;
pub use serve::{Listener, Server, ServerError};
pub use sessions::Admission;
