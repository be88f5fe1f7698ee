//! The gRPC side of the coordinator: lets workers in, and carries messages between their sessions and the job.
//!
//! Decides nothing about the job: what comes in goes to it as [`Incoming`], in the order in which each worker sent it.

pub mod convert;
mod service;

pub use service::{Incoming, Outgoing, Server, ServerError};
