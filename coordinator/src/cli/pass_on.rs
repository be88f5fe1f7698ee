//! Commands of `medley-worker` under `medley`'s name.

use super::CliError;
use crate::launch;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// For `medley-worker`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENTS")]
    arguments: Vec<OsString>,
}

/// Becomes `medley-worker COMMAND ARGUMENTS`.
pub fn run(command: &str, arguments: &Arguments) -> Result<i32, CliError> {
    let binary = launch::WorkerBinary::find().map_err(|error| CliError::bad_input(&error))?;
    let error = binary.command().arg(command).args(&arguments.arguments).exec();
    Err(CliError::bad_input(&format!("cannot run {}: {error}", binary.path().display())))
}
