//! Worker.

pub mod data;
