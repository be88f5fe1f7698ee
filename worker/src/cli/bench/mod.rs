//! `medley-worker bench`: how fast this machine takes steps, and what bounds them.

mod growth;

use crate::bench::exchange::{ExchangePart, ExchangeResult, ExchangeSettings, parse_sizes};
use crate::bench::loss::{LossResult, LossSettings};
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
    /// Time of the cross-peer loss alone, against its three matrix products
    Loss(LossArguments),
    /// Time and bandwidth of the collectives alone, against copying memory
    Exchange(ExchangeArguments),
    /// How time, bytes and memory grow with the cohort, and a model of it: GROWTH.md and growth.svg
    Growth(growth::GrowthArguments),
    /// A worker of a measurement; the other commands start it
    #[command(hide = true)]
    Member,
}

/// Time of a training step: dropout, losses, exchange, update and all.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  medley-worker bench step                                  ML-1M's shape, two peers in one worker
  medley-worker bench step --peers 4 --workers 4            a worker process a peer, over loopback
  medley-worker bench step --shape toys --data FILE         real sequences
  medley-worker bench step --shape chi-18 --json            one JSON object, times in milliseconds")]
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

/// The cross-peer loss, with all peers in one process: hidden rows in, all gradients out.
#[derive(Debug, Args)]
#[command(after_help = "Example: medley-worker bench loss --rows 2560 --items 3416 --peers 4")]
pub struct LossArguments {
    /// R, rows of a batch
    #[arg(long, value_name = "N", default_value_t = 2560)]
    rows: usize,
    /// V, items of the catalogue
    #[arg(long, value_name = "N", default_value_t = 3416)]
    items: usize,
    /// T
    #[arg(long, value_name = "T", default_value_t = 4)]
    peers: usize,
    /// Threads; 0: all cores
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
    /// Measured repetitions
    #[arg(long, value_name = "N", default_value_t = 20)]
    steps: usize,
    /// One JSON object on standard output
    #[arg(long)]
    json: bool,
}

/// All-reduce, all-to-all and all-gather between worker processes over loopback.
#[derive(Debug, Args)]
#[command(after_help = "Sizes and bus bandwidth are defined as in NCCL's tests: of S bytes an all-reduce sends
2 S (W-1)/W from each worker, the others S (W-1)/W.

Examples:
  medley-worker bench exchange --workers 2
  medley-worker bench exchange --workers 4 --sizes 64KB,4MB --json
  medley-worker bench exchange --certificates certificates  encrypted, as with security.certificates")]
pub struct ExchangeArguments {
    /// W, worker processes
    #[arg(long, value_name = "W", default_value_t = 2)]
    workers: usize,
    /// Sizes of a call: a list, or a range in powers of ten
    #[arg(long, value_name = "SIZES", default_value = "1KB..100MB")]
    sizes: String,
    /// Encrypt, with worker.pem, worker.key and authority.pem from this directory
    #[arg(long, value_name = "DIR", env = medley_common::environment::CERTIFICATES)]
    certificates: Option<PathBuf>,
    /// One JSON object on standard output
    #[arg(long)]
    json: bool,
}

/// Runs a measurement; results go to standard output.
pub fn run(command: &BenchCommand) -> Result<(), BenchError> {
    match command {
        BenchCommand::Step(arguments) => step(arguments),
        BenchCommand::Loss(arguments) => loss(arguments),
        BenchCommand::Exchange(arguments) => exchange(arguments),
        BenchCommand::Growth(arguments) => growth::run(arguments),
        BenchCommand::Member => member::run(),
    }
}

fn loss(arguments: &LossArguments) -> Result<(), BenchError> {
    let threads = if arguments.threads == 0 { cores() } else { arguments.threads };
    let &LossArguments { rows, items, peers, steps, .. } = arguments;
    let settings = LossSettings { rows, items, peers, threads, steps };
    settings.check()?;
    let results: Vec<LossResult> = group::run(&Task::Loss(settings), 1, &mut |_| {})?;
    results.iter().try_for_each(|result| print(arguments.json, result, LossResult::table))
}

fn exchange(arguments: &ExchangeArguments) -> Result<(), BenchError> {
    let sizes = parse_sizes(&arguments.sizes).map_err(|reason| BenchError::Input(format!("--sizes: {reason}")))?;
    let settings = ExchangeSettings { workers: arguments.workers, sizes, certificates: arguments.certificates.clone() };
    settings.check()?;
    print(arguments.json, &measure_exchange(&settings)?, ExchangeResult::table)
}

/// Measures the collectives under a progress bar.
fn measure_exchange(settings: &ExchangeSettings) -> Result<ExchangeResult, BenchError> {
    let bar = progress_bar(settings.cases().count());
    bar.set_message("collectives alone");
    let task = Task::Exchange(settings.clone());
    let parts: Result<Vec<ExchangePart>, _> =
        group::run(&task, settings.workers, &mut |done| bar.set_position(done as u64));
    bar.finish_and_clear();
    Ok(ExchangeResult::of(settings, &parts?))
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
    StepResult::of(settings, &parts?)
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
