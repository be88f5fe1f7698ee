//! The base network of a peer: shared embedding, positions and prediction layer; private encoder.
//!
//! Read in this order: [`Parameters`] (one flat vector with named views, so that the optimiser, the exchange and
//! checkpoints each see one array), [`Shared`] (what all peers share: HAIL section 3.1), [`Encoder`] (what is a peer's
//! own), [`Network`] (batch in, hidden rows out), [`packed`] (how the processor computes it).
//!
//! Shapes: `d` is `network.dimension`, `V` the catalogue, `b` sequences of a bucket, `L` its padded length, `R` the rows
//! (masked positions) of the batch.

mod encoder;
mod network;
pub(crate) mod packed;
mod parameters;
mod shared;

pub use encoder::Encoder;
pub use network::{Computation, Network};
pub use parameters::{Initial, Parameters, Specification};
pub use shared::Shared;

/// Added to the variance in every layer normalisation (BERT's).
const NORM_EPSILON: f64 = 1e-12;
