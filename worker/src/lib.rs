//! Worker.

pub mod loss;
