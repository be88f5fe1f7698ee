//! Training: from a configuration and a place in the cohort to evaluated peers.
//!
//! Read in this order: [`schedule`] (what each step does: stage, learning rate, loss), [`optimizer`] (AdamW over flat
//! vectors), [`step`] (one step of the cohort, from batch to update, on all peers or on none), [`agreement`] (what workers
//! tell one another in it), [`material`] (data and samples), [`trainer`] (the loop: steps, validations, the end),
//! [`validation`], [`saving`] (checkpoints); and for recovery [`holdings`] (what a worker has of the training's state),
//! [`entry`] (how a generation begins from it), [`transfer`] (how states move).
//!
//! Invariants: every worker takes the same decisions from the same numbers, so that no one need be told; the shared
//! parameters are bit for bit the same on every worker after every step, and a copy of a peer is what the peer is.

pub mod agreement;
pub mod entry;
pub mod error;
pub mod evaluation;
pub mod holdings;
pub mod material;
pub mod optimizer;
mod saving;
pub mod schedule;
pub mod step;
pub mod trainer;
mod transfer;
mod validation;

pub use entry::{Entry, Origin, meeting_deadline};
pub use error::TrainError;
pub use material::Material;
pub use trainer::{Ending, Reporter, Trainer};
