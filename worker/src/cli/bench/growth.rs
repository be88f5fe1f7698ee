//! `medley-worker bench growth`: cohorts of each size, one after the other, and the page about them.

use super::{cores, measure_exchange, measure_step};
use crate::bench::exchange::ExchangeSettings;
use crate::bench::growth::model::Constants;
use crate::bench::growth::{Point, fit, plan, plot, report};
use crate::bench::{BenchError, Shape, StepResult, StepSettings};
use crate::data;
use clap::Args;
use std::path::{Path, PathBuf};

/// Cohorts of growing size, one peer a worker, all on this machine.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  medley-worker bench growth --output bench
  medley-worker bench growth --shapes toys,chi-18 --peers 1,2,4 --steps 2 --output /tmp/growth")]
pub struct GrowthArguments {
    /// Directory of GROWTH.md and growth.svg
    #[arg(long, value_name = "DIR", default_value = "bench")]
    output: PathBuf,
    /// Shapes
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["ml-1m", "toys", "chi-18", "nyc-16", "lastfm"])]
    shapes: Vec<Shape>,
    /// Sizes of the cohort; constants are fitted to 1 and 2, which are measured in any case
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2, 4, 8, 16])]
    peers: Vec<usize>,
    /// Measured steps of each
    #[arg(long, value_name = "N", default_value_t = 3)]
    steps: usize,
    /// Sequences of a batch
    #[arg(long, hide = true)]
    batch: Option<usize>,
}

/// Share of the free memory that a cohort may take.
const MEMORY_SHARE: f64 = 0.85;

pub fn run(arguments: &GrowthArguments) -> Result<(), BenchError> {
    let mut peers = arguments.peers.clone();
    peers.extend(1..=fit::FITTED_PEERS);
    peers.sort_unstable();
    peers.dedup();
    let mut settings = plan(&arguments.shapes, &peers, arguments.steps, cores());
    for settings in &mut settings {
        settings.batch = arguments.batch.unwrap_or(settings.batch);
        settings.check()?;
    }
    std::fs::create_dir_all(&arguments.output).map_err(|source| unwritten(&arguments.output, source))?;
    let points = measure(&settings)?;
    let exchange = measure_exchange(&ExchangeSettings {
        workers: 2,
        sizes: vec![1_000, 1_000_000, 10_000_000],
        certificates: None,
    })?;
    let constants = fit::constants(&points, &exchange, cores());
    let page = report::markdown(&points, &constants, &exchange, cores(), &about());
    write(&arguments.output, &points, &constants, &page)?;
    Ok(data::cli::print(&page)?)
}

fn measure(all: &[StepSettings]) -> Result<Vec<Point>, BenchError> {
    let mut points: Vec<Point> = Vec::with_capacity(all.len());
    for settings in all {
        // With one peer a worker, workers of a shape are alike.
        let alike = points.iter().rev().find(|point| point.settings.shape == settings.shape);
        let worker_mb = alike.and_then(|point| point.found.as_ref()).map_or(0.0, |found| found.peak_rss_mb);
        let fits = worker_mb * settings.workers as f64 <= MEMORY_SHARE * available_mb();
        let found = if fits { Some(measure_step(settings)?) } else { None };
        tell(settings, found.as_ref());
        points.push(Point { settings: settings.clone(), found });
    }
    Ok(points)
}

/// On standard error, where programs that read the page do not look.
fn tell(settings: &StepSettings, found: Option<&StepResult>) {
    let what = match found {
        Some(found) => format!("{:.0} ms, {:.0} MB a worker", found.step_ms, found.peak_rss_mb),
        None => "does not fit the memory that is free".into(),
    };
    eprintln!("{}, T={}: {what}", settings.shape.as_str(), settings.peers);
}

fn write(directory: &Path, points: &[Point], constants: &Constants, page: &str) -> Result<(), BenchError> {
    let at = |name: &str| directory.join(name);
    std::fs::write(at("GROWTH.md"), page).map_err(|source| unwritten(&at("GROWTH.md"), source))?;
    plot::svg(points, constants, cores())
        .and_then(|svg| std::fs::write(at("growth.svg"), svg))
        .map_err(|source| unwritten(&at("growth.svg"), source))
}

fn unwritten(path: &Path, source: std::io::Error) -> BenchError {
    BenchError::Write { path: path.to_owned(), source }
}

/// The machine, in a line.
fn about() -> String {
    let processors = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = processors.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let model = model.map_or("an unknown processor", |(_, name)| name.trim());
    format!("Measured on {model}, {} cores; version {}.", cores(), medley_common::VERSION)
}

fn available_mb() -> f64 {
    let information = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = information.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kibibytes = line.and_then(|text| text.trim().trim_end_matches("kB").trim().parse::<f64>().ok());
    kibibytes.map_or(f64::INFINITY, |kibibytes| kibibytes / 1024.0)
}
