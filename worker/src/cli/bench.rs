//! `medley-worker bench`: how fast this machine takes steps, and what bounds them.

use crate::bench::member::Task;
use crate::bench::{BenchError, Shape, StepResult, StepSettings, group, member};
use crate::data;
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use medley_common::config::{ExchangeMode, Precision};
use medley_common::method::MethodName;
use std::path::PathBuf;

/// What to measure.
#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Time of a training step, its parts, and how far it is from its matrix products alone
    Step(StepArguments),
    /// A worker of a measurement; the other commands start it
    #[command(hide = true)]
    Member,
}

/// Time of a training step: dropout, losses, exchange, update and all.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  medley-worker bench step --shape ml-1m                        two peers in one worker on all cores
  medley-worker bench step --shape ml-1m --peers 4 --workers 4  a worker process a peer, over loopback
  medley-worker bench step --shape toys --data data/toys.txt    real sequences
  medley-worker bench step --shape chi-18 --json                one JSON object, times in milliseconds")]
pub struct StepArguments {
    /// Catalogue, sequence length and masks of a data set: synthetic sequences of full length
    #[arg(long, value_enum, default_value = "ml-1m")]
    shape: Shape,
    /// Real sequences in their place: windows from the end, a fifth of each masked
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// T, networks that learn from one another
    #[arg(long, value_name = "T", default_value_t = 2)]
    peers: usize,
    /// W, worker processes that host them, over loopback
    #[arg(long, value_name = "W", default_value_t = 1)]
    workers: usize,
    /// Threads of each worker; 0: its share of the cores
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
    /// What crosses the wire: hidden, logits or distributions
    #[arg(long, value_name = "MODE", default_value = "hidden", value_parser = parse_name::<ExchangeMode>)]
    exchange: ExchangeMode,
    /// How peers learn: hail, peerrec (its second stage) or dml
    #[arg(long, value_name = "NAME", default_value = "hail", value_parser = parse_name::<MethodName>)]
    method: MethodName,
    /// Measured steps
    #[arg(long, value_name = "N", default_value_t = 10)]
    steps: usize,
    /// Steps before them that are not measured
    #[arg(long, value_name = "N", default_value_t = 3)]
    warmup: usize,
    /// Sequences of a batch
    #[arg(long, value_name = "N", default_value_t = 256)]
    batch: usize,
    /// Dropout in embeddings and encoders
    #[arg(long, value_name = "SHARE", default_value_t = 0.2)]
    dropout: f64,
    /// In what matrix products are computed: float32 or bf16
    #[arg(long, value_name = "NAME", default_value = "float32", value_parser = parse_name::<Precision>)]
    precision: Precision,
    /// One JSON object on standard output
    #[arg(long)]
    json: bool,
    /// Items of the catalogue, in the place of the shape's
    #[arg(long, hide = true)]
    items: Option<usize>,
    /// Items of the longest sequence, in the place of the shape's
    #[arg(long, hide = true)]
    length: Option<usize>,
    /// Most masks of a sequence, in the place of the shape's
    #[arg(long, hide = true)]
    masks: Option<usize>,
}

/// Runs a measurement; results go to standard output.
pub fn run(command: &BenchCommand) -> Result<(), BenchError> {
    match command {
        BenchCommand::Step(arguments) => step(arguments),
        BenchCommand::Member => member::run(),
    }
}

fn step(arguments: &StepArguments) -> Result<(), BenchError> {
    let settings = arguments.settings()?;
    let result = measure_step(&settings)?;
    print(arguments.json, &result, |result| result.table())
}

/// Measures steps under a progress bar.
fn measure_step(settings: &StepSettings) -> Result<StepResult, BenchError> {
    let bar = progress_bar(settings.warmup + settings.steps);
    bar.set_message(format!("{}, {} peer(s)", settings.shape.as_str(), settings.peers));
    let parts = group::run(&Task::Step(settings.clone()), settings.workers, &mut |done| {
        bar.set_position(done as u64);
        if done == settings.warmup + settings.steps {
            bar.set_message("matrix products alone");
        }
    });
    bar.finish_and_clear();
    StepResult::of(settings, parts?)
}

impl StepArguments {
    fn settings(&self) -> Result<StepSettings, BenchError> {
        let settings = StepSettings {
            shape: self.shape,
            data: self.data.clone(),
            peers: self.peers,
            workers: self.workers,
            threads: if self.threads == 0 { (cores() / self.workers.max(1)).max(1) } else { self.threads },
            exchange: self.exchange,
            method: self.method,
            steps: self.steps,
            warmup: self.warmup,
            items: self.items.unwrap_or(self.shape.items()),
            length: self.length.unwrap_or(self.shape.length()),
            masks: self.masks.unwrap_or(self.shape.masks()),
            batch: self.batch,
            dropout: self.dropout,
            precision: self.precision,
        };
        settings.check()?;
        // What the configuration refuses is refused before a process is started.
        settings.config()?;
        Ok(settings)
    }
}

/// Prints a result for a program or for a person.
fn print<R: serde::Serialize>(json: bool, result: &R, table: impl FnOnce(&R) -> String) -> Result<(), BenchError> {
    let text = if json {
        let failed = |error: serde_json::Error| BenchError::System { what: "write the result", source: error.into() };
        serde_json::to_string(result).map_err(failed)? + "\n"
    } else {
        table(result)
    };
    Ok(data::cli::print(&text)?)
}

/// A bar on standard error, where that is a terminal.
fn progress_bar(length: usize) -> ProgressBar {
    let bar = ProgressBar::new(length as u64);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len}  {elapsed_precise}  {msg}") {
        bar.set_style(style);
    }
    bar
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// A value by the name that configurations give it.
fn parse_name<T: serde::de::DeserializeOwned>(name: &str) -> Result<T, String> {
    serde_json::from_value(name.into()).map_err(|error| error.to_string())
}
