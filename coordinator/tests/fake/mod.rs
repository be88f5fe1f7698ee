//! A scripted worker, and the scene that it plays in.

mod scene;
mod worker;

pub use scene::{Scene, coordinate_if_asked, eventually, lines_of, name};
pub use worker::play_if_asked;
