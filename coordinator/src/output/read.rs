//! A run directory, read back.

use super::history::History;
use medley_common::config::{self, ConfigError, RunConfig};
use medley_common::events::EventLine;
use medley_common::run_directory;
use medley_common::summary::Summary;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// A run directory that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Something else.
    #[error("{0}: not a run directory (it has no run.toml)")]
    NotARun(PathBuf),
    /// A file of it.
    #[error("{path}: cannot read it: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A line of the events.
    #[error("{path}:{line}: not an event of this version of Medley: {source}")]
    Event {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// Why.
        source: serde_json::Error,
    },
    /// The summary.
    #[error("{path}: not a summary of this version of Medley: {source}")]
    Summary {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
}

/// What a run directory holds.
#[derive(Debug, Clone)]
pub struct Run {
    /// The directory.
    pub directory: PathBuf,
    /// The resolved configuration.
    pub config: RunConfig,
    /// What happened, with the steps and evaluations that were made again: they took their time.
    pub events: Vec<EventLine>,
    /// The result, where the run came to one.
    pub summary: Option<Summary>,
}

impl Run {
    /// Reads a run directory.
    ///
    /// # Errors
    /// Where a file is missing that every run has, or one is damaged. A last line of the events that was never
    /// finished is left out.
    pub fn read(directory: &Path) -> Result<Self, ReadError> {
        let config_file = directory.join(run_directory::CONFIG);
        if !config_file.is_file() {
            return Err(ReadError::NotARun(directory.to_owned()));
        }
        Ok(Self {
            directory: directory.to_owned(),
            config: config::load(&config_file, &[])?,
            events: events(&directory.join(run_directory::EVENTS))?,
            summary: summary(&directory.join(run_directory::SUMMARY))?,
        })
    }

    /// The events, folded.
    pub fn history(&self) -> History {
        let mut history = History::default();
        for line in &self.events {
            history.event(line.time, &line.event);
        }
        history
    }
}

/// The events of a log; none where there is no log.
///
/// # Errors
/// Where the file cannot be read or holds a whole line that is no event.
pub fn events(path: &Path) -> Result<Vec<EventLine>, ReadError> {
    let Some(text) = text_of(path)? else {
        return Ok(Vec::new());
    };
    let mut lines: Vec<EventLine> = Vec::new();
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let event = match serde_json::from_str::<EventLine>(line) {
            Ok(event) => event,
            // The process died while it wrote this.
            Err(_) if !line.ends_with('\n') => break,
            Err(source) => {
                return Err(ReadError::Event { path: path.to_owned(), line: number + 1, source });
            }
        };
        lines.push(event);
    }
    Ok(lines)
}

fn summary(path: &Path) -> Result<Option<Summary>, ReadError> {
    let Some(text) = text_of(path)? else {
        return Ok(None);
    };
    serde_json::from_str(&text).map(Some).map_err(|source| ReadError::Summary { path: path.to_owned(), source })
}

fn text_of(path: &Path) -> Result<Option<String>, ReadError> {
    match std::fs::read(path) {
        // A line that was cut inside a character is no reason to give up the whole ones before it.
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(ReadError::Unreadable { path: path.to_owned(), source }),
    }
}
