//! The `medley` command; see [`medley_coordinator::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(medley_coordinator::cli::main(std::env::args_os()))
}
