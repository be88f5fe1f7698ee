//! Training: from a configuration and a place in the cohort to evaluated peers.
//!
//! Read in this order: [`schedule`] (what each step does: stage, learning rate, loss), [`optimizer`] (AdamW over flat
//! vectors), [`step`] (one step of the cohort, from batch to update), [`trainer`] (the loop: steps, validations,
//! the end), [`saving`] (checkpoints).
//!
//! Invariants: every worker takes the same decisions from the same numbers, so that no one need be told; the shared
//! parameters are bit for bit the same on every worker after every step.

pub mod error;
pub mod evaluation;
pub mod optimizer;
mod saving;
pub mod schedule;
pub mod step;
pub mod trainer;

pub use error::TrainError;
pub use trainer::{Reporter, Trainer};
