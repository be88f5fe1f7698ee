//! Exit codes of `medley` and `medley-worker`, the same for both.

/// All went well.
pub const SUCCESS: i32 = 0;
/// The job failed: a worker died, a deadline passed, a disk was full.
pub const FAILURE: i32 = 1;
/// The input is at fault: configuration, data, checkpoint, environment. Nothing was written.
pub const BAD_INPUT: i32 = 2;
/// Stopped by Ctrl-C or SIGTERM, after a checkpoint.
pub const INTERRUPTED: i32 = 130;
