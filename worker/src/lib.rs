//! The worker: everything numeric.
//!
//! A batch goes in, gradients come out; data flows one way:
//! [`data`] → [`model`] → [`exchange`] + [`loss`] → [`train`] → [`eval`], over [`collective`], with [`checkpoint`] beside
//! them. [`device`] says where it is computed, [`session`] is the line to the coordinator,
//! [`certificates`] says who this worker is, [`cli`] the commands of the binary,
//! [`bench`](mod@bench) measures all of it.

pub mod bench;
pub mod caches;
pub mod certificates;
pub mod checkpoint;
pub mod cli;
pub mod collective;
pub mod data;
pub mod device;
pub mod eval;
pub mod exchange;
pub mod faults;
pub mod loss;
pub mod matrix;
pub mod model;
pub mod random;
pub mod session;
mod simd;
pub mod train;
