//! `medley checkpoint verify`.

use super::kept::{Kept, Step};
use crate::checkpoint::damages;
use crate::cli::{CliError, print};
use medley_common::storage::{StorageError, Stored};
use medley_common::{exit, run_directory};
use std::io::Write;
use std::path::PathBuf;

/// Read every file of checkpoints again and compare hashes
///
/// Of a run directory all checkpoints, or the one that --step names; otherwise one checkpoint by its place. Each damage is one
/// line on standard error, and the exit code then is 1.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct VerifyArgs {
    /// A run directory, a checkpoint's directory, or s3://BUCKET/PREFIX/step-N
    #[arg(value_name = "RUN_OR_CHECKPOINT")]
    place: PathBuf,
    /// Of a run: best, latest or a step's number
    #[arg(long, value_name = "STEP")]
    step: Option<Step>,
}

const EXAMPLES: &str = "\
Examples:
  medley checkpoint verify runs/quickstart
  medley checkpoint verify runs/quickstart --step latest
  medley checkpoint verify runs/quickstart/checkpoints/step-600";

/// Runs `medley checkpoint verify`.
pub fn run(arguments: &VerifyArgs) -> Result<i32, CliError> {
    let is_run = arguments.place.join(run_directory::CONFIG).is_file();
    if !is_run && arguments.step.is_some() {
        let place = arguments.place.display();
        return Err(CliError::bad_input(&format!(
            "--step: {place} is no run directory (it has no run.toml); name one, or leave --step out"
        )));
    }
    let opened: Vec<Result<Stored, StorageError>> = if is_run {
        let kept = Kept::read(&arguments.place)?;
        let steps = match arguments.step {
            Some(step) => vec![kept.resolve(step)?],
            None => kept.storage.steps().map_err(|error| CliError::bad_input(&error))?,
        };
        steps.into_iter().map(|step| kept.storage.open(step)).collect()
    } else {
        vec![Stored::at(&arguments.place)]
    };
    let mut is_whole = true;
    for stored in opened {
        let found = match stored {
            Ok(stored) => {
                let found = damages(&stored);
                if found.is_empty() {
                    let files = stored.manifest.files.len();
                    print(&format!("{}: {files} files, whole\n", stored.place()))?;
                }
                found
            }
            // Nothing of that name is a slip of the pen; a directory without a manifest is no checkpoint.
            Err(error) if error.is_absent() && !is_run => return Err(CliError::bad_input(&error)),
            Err(error) => vec![error],
        };
        is_whole &= found.is_empty();
        for damage in found {
            // The exit code says it too, where nobody reads this.
            let _ = writeln!(std::io::stderr(), "error: {damage}");
        }
    }
    Ok(if is_whole { exit::SUCCESS } else { exit::FAILURE })
}
