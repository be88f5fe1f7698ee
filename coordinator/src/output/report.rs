//! Runs beside each other: one table for each data set, split, protocol and set of candidates, since metrics of
//! different ones say nothing about each other.

use super::peer_of;
use super::read::{ReadError, Run};
use super::summary::summarize;
use super::table::{self, COLUMNS, Style};
use medley_common::method::{METRICS, Protocol};
use medley_common::summary::{Estimate, Evaluation, Summary};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What a report shows.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// A row for every peer, beside the best one and the mean.
    pub peers: bool,
    /// `valid` or `test`; both where absent.
    pub split: Option<String>,
}

/// Runs beside each other.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// One for each comparable set of results.
    pub tables: Vec<ReportTable>,
    /// Why results stand in different tables, and what is missing.
    pub notes: Vec<String>,
}

/// Results that can be compared.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ReportTable {
    /// Hash of the interaction data.
    pub data_hash: String,
    /// The data's file, as the first run names it.
    pub data: PathBuf,
    /// `valid` or `test`.
    pub split: String,
    /// Among which items the target was ranked.
    pub protocol: String,
    /// Hash of the candidate lists.
    pub candidates_hash: Option<String>,
    /// Users evaluated.
    pub users: u64,
    /// Models.
    pub rows: Vec<Row>,
}

/// A model's results.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// The run's name; empty for a baseline, which belongs to no run.
    pub run: String,
    /// The run's directory.
    pub directory: PathBuf,
    /// Method.
    pub method: String,
    /// Peers of the cohort.
    pub peers: u32,
    /// Steps trained.
    pub step: u64,
    /// `best peer (peer-1)`, `mean of peers`, `peer-0`, or the baseline's name.
    pub model: String,
    /// By name. The half width is absent for means over peers, which share their users.
    pub metrics: BTreeMap<String, Cell>,
}

/// A metric.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Cell {
    /// Mean over users.
    pub mean: f64,
    /// Half of the 95 % interval.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub half_width: Option<f64>,
}

/// What must be equal for results to be comparable. The order is that of the tables.
type Key = (String, usize, String, String, Option<String>);

/// Reads runs and compares them. A directory that is no run stands for the runs in it.
///
/// # Errors
/// Where a directory is no run and holds none, or is damaged.
pub fn compare(directories: &[PathBuf], options: &Options) -> Result<Report, ReadError> {
    let mut runs = Vec::new();
    let mut notes = Vec::new();
    for directory in directories {
        for directory in runs_of(directory) {
            let run = Run::read(&directory)?;
            let summary = match &run.summary {
                Some(summary) => summary.clone(),
                None => {
                    notes.push(format!("{}: came to no end yet; its last evaluations are shown", directory.display()));
                    summarize(&run.history(), &run.config, None)
                }
            };
            runs.push((run, summary));
        }
    }
    Ok(report(&runs, options, notes))
}

/// Whether a path is a run directory or one with run directories in it.
pub fn holds_runs(path: &Path) -> bool {
    runs_of(path).iter().any(|run| is_run(run))
}

fn is_run(path: &Path) -> bool {
    path.join(medley_common::run_directory::CONFIG).is_file()
}

/// A run directory itself, or the run directories in it.
fn runs_of(directory: &Path) -> Vec<PathBuf> {
    let mut inside: Vec<PathBuf> = std::fs::read_dir(directory)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| is_run(path))
        .collect();
    if is_run(directory) || inside.is_empty() {
        return vec![directory.to_owned()];
    }
    inside.sort();
    inside
}

fn report(runs: &[(Run, Summary)], options: &Options, mut notes: Vec<String>) -> Report {
    let mut tables: BTreeMap<Key, ReportTable> = BTreeMap::new();
    for (run, summary) in runs {
        let evaluations = summary.peers_evaluated.iter().chain(&summary.baselines);
        let shown = |evaluation: &&Evaluation| options.split.as_ref().is_none_or(|split| *split == evaluation.split);
        let mut by_key: BTreeMap<Key, Vec<&Evaluation>> = BTreeMap::new();
        for evaluation in evaluations.filter(shown) {
            by_key.entry(key(summary, evaluation)).or_default().push(evaluation);
        }
        if by_key.is_empty() {
            notes.push(format!("{}: has no evaluations to show", run.directory.display()));
        }
        for (key, evaluations) in by_key {
            let table = tables.entry(key).or_insert_with(|| ReportTable {
                data_hash: summary.data_hash.clone(),
                data: run.config.data.path.clone(),
                split: evaluations[0].split.clone(),
                protocol: evaluations[0].protocol.clone(),
                candidates_hash: evaluations[0].candidates_hash.clone(),
                users: evaluations[0].users,
                rows: Vec::new(),
            });
            add_rows(table, run, summary, &evaluations, options);
        }
    }
    let mut tables: Vec<ReportTable> = tables.into_values().collect();
    for table in &mut tables {
        // Baselines first, as the papers have it; the order of the runs stays.
        table.rows.sort_by_key(|row| !row.run.is_empty());
    }
    notes.extend(reasons(&tables));
    Report { tables, notes }
}

fn key(summary: &Summary, evaluation: &Evaluation) -> Key {
    let protocol = Protocol::ALL.into_iter().position(|protocol| protocol.as_str() == evaluation.protocol);
    (
        summary.data_hash.clone(),
        protocol.unwrap_or(usize::MAX),
        evaluation.protocol.clone(),
        evaluation.split.clone(),
        evaluation.candidates_hash.clone(),
    )
}

fn add_rows(table: &mut ReportTable, run: &Run, summary: &Summary, evaluations: &[&Evaluation], options: &Options) {
    let row = |model: String, step: u64, metrics: BTreeMap<String, Cell>| Row {
        run: summary.name.clone(),
        directory: run.directory.clone(),
        method: summary.method.clone(),
        peers: summary.peers,
        step,
        model,
        metrics,
    };
    let (peers, baselines): (Vec<&Evaluation>, Vec<&Evaluation>) =
        evaluations.iter().partition(|evaluation| peer_of(&evaluation.subject).is_some());
    for baseline in baselines {
        if table.rows.iter().all(|row| !row.run.is_empty() || row.model != baseline.subject) {
            table.rows.push(Row {
                run: String::new(),
                directory: PathBuf::new(),
                method: baseline.subject.clone(),
                peers: 0,
                step: 0,
                model: baseline.subject.clone(),
                metrics: cells(baseline),
            });
        }
    }
    let Some(first) = peers.first() else {
        return;
    };
    if peers.len() == 1 {
        table.rows.push(row(first.subject.clone(), first.step, cells(first)));
        return;
    }
    let is_best =
        |evaluation: &&&Evaluation| summary.best_peer.is_some() && peer_of(&evaluation.subject) == summary.best_peer;
    if let Some(best) = peers.iter().find(is_best) {
        let model = format!("best peer ({})", best.subject);
        table.rows.push(row(model, best.step, cells(best)));
    }
    table.rows.push(row("mean of peers".into(), first.step, means(&peers)));
    if options.peers {
        for peer in peers {
            table.rows.push(row(peer.subject.clone(), peer.step, cells(peer)));
        }
    }
}

fn cells(evaluation: &Evaluation) -> BTreeMap<String, Cell> {
    let cell = |estimate: &Estimate| Cell { mean: estimate.mean, half_width: Some(estimate.half_width) };
    let metrics = evaluation.metrics.iter();
    metrics.map(|(name, estimate)| (name.clone(), cell(estimate))).collect()
}

fn means(peers: &[&Evaluation]) -> BTreeMap<String, Cell> {
    let mean = |name: &str| {
        let values: Option<Vec<f64>> =
            peers.iter().map(|peer| peer.metrics.get(name).map(|estimate| estimate.mean)).collect();
        let values = values?;
        Some(Cell { mean: values.iter().sum::<f64>() / values.len() as f64, half_width: None })
    };
    METRICS.into_iter().filter_map(|name| Some((name.to_owned(), mean(name)?))).collect()
}

/// Why results under the same protocol on the same split stand apart.
fn reasons(tables: &[ReportTable]) -> Vec<String> {
    let mut reasons = Vec::new();
    for (at, table) in tables.iter().enumerate() {
        let earlier =
            tables[..at].iter().find(|earlier| earlier.protocol == table.protocol && earlier.split == table.split);
        let Some(earlier) = earlier else { continue };
        let runs = |table: &ReportTable| {
            let mut names: Vec<&str> = table.rows.iter().map(|row| row.run.as_str()).collect();
            names.retain(|name| !name.is_empty());
            names.dedup();
            names.join(", ")
        };
        let same_data = tables[..at].iter().find(|earlier| {
            (&earlier.protocol, &earlier.split, &earlier.data_hash) == (&table.protocol, &table.split, &table.data_hash)
        });
        let (other, what) = match same_data {
            Some(other) => (other, "ranked other candidates"),
            None => (earlier, "has other data"),
        };
        let (these, those) = (runs(table), runs(other));
        reasons.push(format!(
            "{} ({}): {these} {what} than {those}, so they stand in different tables",
            table.protocol, table.split
        ));
    }
    reasons
}

impl Report {
    /// The tables as text.
    pub fn text(&self, style: Style) -> String {
        let mut text = String::new();
        for table in &self.tables {
            let title = format!(
                "{} metrics of {} users of {}, {}",
                capitalised(&table.split),
                table.users,
                table.data.display(),
                table::protocol_title(&table.protocol)
            );
            text += &match style {
                Style::Plain => format!("{title}\n"),
                Style::Markdown => format!("### {title}\n\n"),
            };
            let short = |hash: &str| hash.chars().take(12).collect::<String>();
            text += &format!("data {}", short(&table.data_hash));
            if let Some(hash) = &table.candidates_hash {
                text += &format!(", candidates {}", short(hash));
            }
            text += if style == Style::Markdown { "\n\n" } else { "\n" };
            let header: Vec<&str> = ["run", "method", "T", "model", "steps"].into_iter().chain(COLUMNS).collect();
            let rows: Vec<Vec<String>> = table.rows.iter().map(Row::texts).collect();
            text += &table::draw(&header, &rows, 4, style);
            text += "\n\n";
        }
        for note in &self.notes {
            text += &match style {
                Style::Plain => format!("note: {note}\n"),
                Style::Markdown => format!("- {note}\n"),
            };
        }
        text
    }
}

impl Row {
    fn texts(&self) -> Vec<String> {
        let is_baseline = self.run.is_empty();
        let unless_baseline = |text: String| if is_baseline { "-".into() } else { text };
        let mut texts = vec![
            unless_baseline(self.run.clone()),
            self.method.clone(),
            unless_baseline(self.peers.to_string()),
            self.model.clone(),
            unless_baseline(self.step.to_string()),
        ];
        texts.extend(COLUMNS.map(|metric| {
            let cell = self
                .metrics
                .get(metric)
                .map(|cell| Estimate { mean: cell.mean, half_width: cell.half_width.unwrap_or(f64::NAN) });
            table::estimate(cell.as_ref())
        }));
        texts
    }
}

fn capitalised(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}
