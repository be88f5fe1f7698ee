//! The coordinator of a job, and the `medley` command.
//!
//! [`cluster`] decides; it is a pure state machine. Around it: [`job`] drives it, [`server`] speaks with the workers,
//! [`launch`] starts and ends them, [`checkpoint`] commits what they wrote, [`store`] keeps what must survive, [`election`]
//! says which of several coordinators leads, [`output`] writes and shows what happens, [`certificates`] makes a cluster's
//! authority, [`cli`] is what people type.

pub mod certificates;
pub mod chaos;
pub mod checkpoint;
pub mod cli;
pub mod cluster;
pub mod election;
pub mod job;
pub mod launch;
pub mod output;
mod random;
pub mod server;
pub mod store;
