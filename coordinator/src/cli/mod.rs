//! The `medley` command.
//!
//! [`run`] trains a cohort and [`scale`] changes it meanwhile; [`chaos`] disturbs one on purpose; [`coordinate`] is for
//! clusters; [`config`] checks and shows configurations; [`certs`] makes and shows certificates; [`checkpoint`] lists,
//! verifies and exports checkpoints; [`report`] compares runs; [`pass_on`] hands
//! `data` and `evaluate` to `medley-worker`, which has the networks and the data readers; [`logging`] says where
//! logs go. Results go to standard output, all else to standard error; an error is one line and an exit code of
//! [`medley_common::exit`].

mod certs;
mod chaos;
mod checkpoint;
mod config;
mod coordinate;
mod logging;
mod pass_on;
mod report;
mod run;
mod scale;

use clap::{CommandFactory, Parser, Subcommand};
use medley_common::exit;
use std::ffi::OsString;
use std::fmt::Display;
use std::io::{ErrorKind, Write};

/// Trains cohorts of peer networks that teach each other, for sequential recommendation.
#[derive(Debug, Parser)]
#[command(name = "medley", version, after_help = EXAMPLES, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  medley data generate toys.txt                             Make a data set to play with
  medley run configs/quickstart.toml --set data.path=toys.txt
                                                            Train a cohort
  medley run --resume runs/quickstart                       Go on after an interruption
  medley scale runs/quickstart --peers 4                    Change the cohort while it trains
  medley report runs/                                       Compare runs
  medley certs init                                         Encrypt, and let nobody else take part
  medley checkpoint export runs/quickstart --out model      One peer, for use elsewhere

Every command explains itself: medley run --help

Exit codes: 0 all went well; 1 the job failed; 2 the input is at fault and nothing was written;
130 stopped by Ctrl-C or SIGTERM after a checkpoint.";

#[derive(Debug, Subcommand)]
enum Command {
    Run(Box<run::RunArgs>),
    Scale(scale::ScaleArgs),
    Chaos(chaos::ChaosArgs),
    Coordinate(Box<coordinate::CoordinateArgs>),
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Look at, convert and generate interaction data
    ///
    /// All arguments go to `medley-worker data`; see `medley data --help`.
    #[command(disable_help_flag = true, after_help = DATA_EXAMPLES)]
    Data(pass_on::Arguments),
    /// Evaluate a checkpoint, or an exported peer
    ///
    /// All arguments go to `medley-worker evaluate`; see `medley evaluate --help`.
    #[command(disable_help_flag = true)]
    Evaluate(pass_on::Arguments),
    #[command(subcommand)]
    Checkpoint(checkpoint::CheckpointCommand),
    Report(report::ReportArgs),
    #[command(subcommand)]
    Certs(certs::CertsCommand),
    /// Print a script that completes `medley` commands in a shell
    #[command(after_help = COMPLETIONS_EXAMPLES)]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

const DATA_EXAMPLES: &str = "\
Examples:
  medley data stats toys.txt            Users, items, interactions, as papers tabulate them
  medley data generate toys.txt";

const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  medley completions bash > ~/.local/share/bash-completion/completions/medley
  medley completions zsh > \"${fpath[1]}/_medley\"
  medley completions fish > ~/.config/fish/completions/medley.fish";

/// Runs a command line; the exit code of the process.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and usage; whoever closed the pipe has seen enough.
            let _ = error.print();
            return error.exit_code() as u8;
        }
    };
    let result = match cli.command {
        Command::Run(arguments) => run::run(&arguments),
        Command::Scale(arguments) => scale::run(&arguments),
        Command::Chaos(arguments) => chaos::run(&arguments),
        Command::Coordinate(arguments) => coordinate::run(&arguments),
        Command::Config(command) => config::run(command),
        Command::Data(arguments) => pass_on::run("data", &arguments),
        Command::Evaluate(arguments) => pass_on::run("evaluate", &arguments),
        Command::Checkpoint(command) => checkpoint::run(&command),
        Command::Report(arguments) => report::run(&arguments),
        Command::Certs(command) => certs::run(command),
        Command::Completions { shell } => completions(shell),
    };
    let exit_code = result.unwrap_or_else(|error| {
        let _ = writeln!(std::io::stderr(), "error: {}", error.message);
        error.exit_code
    });
    exit_code as u8
}

/// What ends a command: one line and an exit code.
#[derive(Debug)]
struct CliError {
    message: String,
    exit_code: i32,
}

impl CliError {
    fn new(exit_code: i32, message: &impl Display) -> Self {
        // Whatever an error carries along, a person gets one line.
        let message = message.to_string();
        let lines: Vec<&str> = message.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        Self { message: lines.join("; "), exit_code }
    }

    fn bad_input(message: &impl Display) -> Self {
        Self::new(exit::BAD_INPUT, message)
    }
}

/// Writes a result to standard output. A reader that has gone, as `head` goes, has what it wanted.
fn print(text: &str) -> Result<(), CliError> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(CliError::new(exit::FAILURE, &format!("cannot write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}

fn completions(shell: clap_complete::Shell) -> Result<i32, CliError> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "medley", &mut script);
    print(&String::from_utf8_lossy(&script))?;
    Ok(exit::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_that_is_ours_shows_examples() {
        for command in Cli::command().get_subcommands() {
            let with_examples = std::iter::once(command)
                .chain(command.get_subcommands())
                .any(|command| command.get_after_help().is_some());
            assert!(with_examples || command.get_name() == "evaluate", "{}", command.get_name());
        }
    }

    #[test]
    fn an_error_is_one_line() {
        let error = CliError::bad_input(&"first\n  second\n\n");
        assert_eq!(error.message, "first; second");
    }
}
