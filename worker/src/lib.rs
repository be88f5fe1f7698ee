//! Worker.
pub mod collective;
