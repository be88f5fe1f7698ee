//! The commands of `medley-worker`. People use `medley`, which starts this one where numbers are needed.

mod bench;
mod check;
mod evaluate;
mod export;
mod work;

use crate::bench::BenchError;
use crate::data;
use crate::train::TrainError;
use clap::{Parser, Subcommand};
use medley_common::exit;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;
pub(crate) use work::use_threads;

/// Trains the peers that a coordinator assigns to it, and works on data and checkpoints.
#[derive(Debug, Parser)]
#[command(name = "medley-worker", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Join a coordinator and train what it assigns; `medley run` starts this.
    Work(work::Arguments),
    /// Check a configuration against its data without writing anything; prints one JSON object.
    Check(check::Arguments),
    /// Statistics of a dataset, or a synthetic one.
    #[command(subcommand)]
    Data(data::cli::DataCommand),
    /// Evaluate the peers of a checkpoint, or an exported peer.
    Evaluate(evaluate::Arguments),
    Export(export::Arguments),
    /// Measure this machine: steps, and what bounds them.
    #[command(subcommand)]
    Bench(bench::BenchCommand),
    /// Print a completion script for a shell, for example `medley-worker completions bash`.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// Runs the command line; all errors become one line and an exit code.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_env(medley_common::environment::LOG_FILTER);
    tracing_subscriber::fmt()
        .with_env_filter(filter.unwrap_or_else(|_| EnvFilter::new("info,object_store=warn")))
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    let code = match run(arguments.command) {
        Ok(()) => exit::SUCCESS,
        Err(failure) => {
            eprintln!("error: {}", failure.line);
            if failure.is_bad_input { exit::BAD_INPUT } else { exit::FAILURE }
        }
    };
    ExitCode::from(code as u8)
}

/// What a command that failed says, and whose fault it is.
struct Failure {
    line: String,
    is_bad_input: bool,
}

impl From<TrainError> for Failure {
    fn from(error: TrainError) -> Self {
        Self { line: error.to_string(), is_bad_input: error.is_bad_input() }
    }
}

impl From<BenchError> for Failure {
    fn from(error: BenchError) -> Self {
        Self { line: error.to_string(), is_bad_input: error.is_bad_input() }
    }
}

fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Work(arguments) => Ok(work::run(&arguments)?),
        Command::Check(arguments) => Ok(check::run(&arguments)?),
        Command::Data(command) => Ok(data::cli::command(&command).map_err(TrainError::from)?),
        Command::Export(arguments) => Ok(export::run(&arguments)?),
        Command::Evaluate(arguments) => Ok(evaluate::run(&arguments)?),
        Command::Bench(command) => Ok(bench::run(&command)?),
        Command::Completions { shell } => {
            let mut command = <Arguments as clap::CommandFactory>::command();
            clap_complete::generate(shell, &mut command, "medley-worker", &mut std::io::stdout());
            Ok(())
        }
    }
}
