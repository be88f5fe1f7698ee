//! `medley-worker`: trains the peers that a coordinator assigns to it, and works on data and checkpoints.

use std::process::ExitCode;

fn main() -> ExitCode {
    medley_worker::cli::main()
}
