//! Vectors of `f32` of whatever width the machine has, and functions on them.
//!
//! 1. [`lanes`]: the vectors, and the one place where a width is chosen at run time.
//! 2. [`elementary`]: exponential, logarithms, the normal distribution.
//! 3. [`keep`]: dropout's factors, a pure function of a key and a place.

pub(crate) mod elementary;
pub(crate) mod keep;
pub(crate) mod lanes;
