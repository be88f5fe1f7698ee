//! `medley checkpoint`: what a run keeps, whether it is whole, and one peer of it for use elsewhere.
//!
//! [`kept`] reads what a run keeps; `list`, `verify` and `export` are the commands. Export computes, so `medley-worker` does it.

mod export;
mod kept;
mod list;
mod verify;

use super::CliError;

/// List, verify and export checkpoints
#[derive(Debug, clap::Subcommand)]
#[command(after_help = EXAMPLES)]
pub enum CheckpointCommand {
    List(list::ListArgs),
    Verify(verify::VerifyArgs),
    Export(export::ExportArgs),
}

const EXAMPLES: &str = "\
Examples:
  medley checkpoint list runs/quickstart
  medley checkpoint verify runs/quickstart
  medley checkpoint verify s3://bucket/quickstart/step-600
  medley checkpoint export runs/quickstart --out model
  medley evaluate --checkpoint model";

/// Runs a `medley checkpoint` command.
pub fn run(command: &CheckpointCommand) -> Result<i32, CliError> {
    match command {
        CheckpointCommand::List(arguments) => list::run(arguments),
        CheckpointCommand::Verify(arguments) => verify::run(arguments),
        CheckpointCommand::Export(arguments) => export::run(arguments),
    }
}
