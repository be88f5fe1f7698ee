//! `medley checkpoint export`.

use super::kept::{Kept, Step};
use crate::cli::CliError;
use crate::launch;
use medley_common::run_directory;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;

/// Write one peer of a run, with the shared parameters, to a directory of its own
///
/// The directory has model.safetensors (tensors `shared.*` and `encoder.*`) and model.json: the configuration, the hash of the
/// data, items, peer, the validation metric that chose it, and the checkpoint that it comes from. `medley evaluate
/// --checkpoint DIR` measures it.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct ExportArgs {
    /// The run directory
    #[arg(value_name = "RUN")]
    run: PathBuf,
    /// best (by validation metric), latest or a step's number; by default best where steps were validated, else latest
    #[arg(long, value_name = "STEP")]
    step: Option<Step>,
    /// best (by validation metric) or a peer's number
    #[arg(long, value_name = "PEER", default_value = "best")]
    peer: String,
    /// Evaluate the average of the peers' encoders on the validation split, and export it if it is better than the best peer
    ///
    /// Prints both figures. Peers that began from different random encoders seldom have an average that is any good.
    #[arg(long)]
    average: bool,
    /// The directory to make
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Change where the data is: data.path=FILE
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  medley checkpoint export runs/quickstart --out model
  medley checkpoint export runs/quickstart --step latest --peer 2 --out model
  medley checkpoint export runs/quickstart --average --out model
  medley evaluate --checkpoint model --set data.path=toys.txt";

/// Finds the checkpoint and becomes `medley-worker export`.
pub fn run(arguments: &ExportArgs) -> Result<i32, CliError> {
    let kept = Kept::read(&arguments.run)?;
    let step = arguments.step.unwrap_or(if kept.best.is_some() { Step::Best } else { Step::Latest });
    let step = kept.resolve(step)?;
    let binary = launch::WorkerBinary::find().map_err(|error| CliError::bad_input(&error))?;
    let mut command = binary.command();
    command.arg("export").arg("--checkpoint").arg(run_directory::place(&arguments.run, &kept.storage.checkpoint(step)));
    command.arg("--config").arg(arguments.run.join(run_directory::CONFIG));
    command.arg("--peer").arg(&arguments.peer).arg("--out").arg(&arguments.out);
    for (flag, is_given) in [("--average", arguments.average), ("--json", arguments.json)] {
        command.args(is_given.then_some(flag));
    }
    for change in &arguments.set {
        command.arg("--set").arg(change);
    }
    let error = command.exec();
    Err(CliError::bad_input(&format!("cannot run {}: {error}", binary.path().display())))
}
