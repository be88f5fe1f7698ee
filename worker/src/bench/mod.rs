//! Measuring: how long a step takes, what bounds it, and how both grow with the cohort.
//!
//! Read in this order:
//! - [`settings`]: what is measured ([`Shape`], [`StepSettings`]);
//! - [`batches`]: the batches of a measurement, made like those of the eager program that Medley is compared with;
//! - [`work`]: the floating-point operations of a step's matrix products, by formula;
//! - [`products`]: how fast this process computes those products when it does nothing else;
//! - [`step`]: one worker's part of a measured cohort; [`result`](mod@result): all workers' parts put together;
//! - [`loss`]: the cross-peer loss alone; [`exchange`]: the collectives alone;
//! - [`growth`]: how all of it grows with the cohort, measured and modelled;
//! - [`group`]: worker processes of a measurement, started and heard; [`member`]: what such a process does;
//! - [`error`]: what can go wrong.
//!
//! Invariants: every measurement runs in processes of its own, with the environment and the threads that `medley run`
//! gives a worker, so that peak memory is a worker's and nothing else's. What a step is compared with, the rate of
//! plain matrix products, is measured by the same processes at the same time.

pub mod batches;
pub mod error;
pub mod exchange;
pub mod group;
pub mod growth;
pub mod loss;
pub mod member;
pub mod products;
pub mod result;
pub mod settings;
pub mod step;
pub mod work;

pub use error::BenchError;
pub use result::StepResult;
pub use settings::{Shape, StepSettings};
