//! Readers of interaction files, one small file per format.
//!
//! 1. `detect`: which format a file has, where `data.format` is `auto`.
//! 2. `lines`: text lines with their numbers; a byte-order mark, CRLF and blank lines are accepted everywhere.
//! 3. `user_item`, `sequences`, `movielens`: formats without column names.
//! 4. `table`: CSV, TSV and RecBole's `.inter`, which name their columns.
//!
//! Names and (user, item) numbers are all that is kept of a file.

mod detect;
mod lines;
mod movielens;
mod sequences;
mod table;
mod user_item;

use super::error::DataError;
use super::interactions::Interactions;
use medley_common::config::{DataConfig, DataFormat};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

/// The interactions of the configured file, and its format.
pub fn read(config: &DataConfig) -> Result<(DataFormat, Interactions), DataError> {
    check_file(&config.path)?;
    let format = match config.format {
        DataFormat::Auto => detect::detect(config)?,
        named => named,
    };
    let mut interactions = Interactions::new(&config.path, config.min_rating);
    match format {
        DataFormat::Auto | DataFormat::UserItem => user_item::read(config, &mut interactions),
        DataFormat::Sequences => sequences::read(config, &mut interactions),
        DataFormat::Movielens => movielens::read(config, &mut interactions),
        DataFormat::Recbole => table::read(config, table::Kind::Recbole, &mut interactions),
        DataFormat::Csv => table::read(config, table::Kind::Csv, &mut interactions),
        DataFormat::Tsv => table::read(config, table::Kind::Tsv, &mut interactions),
    }?;
    Ok((format, interactions))
}

/// Refuses what only looks like a file: a device may never end, and a pipe can be read once.
fn check_file(path: &Path) -> Result<(), DataError> {
    let kind = match std::fs::metadata(path).map(|found| found.file_type()) {
        Ok(kind) if kind.is_dir() => "directory",
        Ok(kind) if kind.is_file() => return Ok(()),
        Ok(kind) if kind.is_fifo() => "pipe",
        Ok(_) => "device",
        // Whoever opens it says why it cannot be.
        Err(_) => return Ok(()),
    };
    Err(DataError::NotAFile { path: path.to_owned(), kind })
}

/// The separator asked for, if any.
fn separator(config: &DataConfig) -> Result<Option<u8>, DataError> {
    match config.separator.as_deref().map(str::as_bytes) {
        None => Ok(None),
        Some([byte]) if byte.is_ascii() => Ok(Some(*byte)),
        Some(_) => Err(DataError::Separator {
            path: config.path.clone(),
            separator: config.separator.clone().unwrap_or_default(),
        }),
    }
}

/// Formats of bare ids have no field for ratings or times.
fn refuse_rating_and_timestamp(config: &DataConfig) -> Result<(), DataError> {
    let (key, what) = if config.min_rating.is_some() {
        ("data.min_rating", "rating")
    } else if config.timestamp_column.is_some() {
        ("data.timestamp_column", "timestamp")
    } else {
        return Ok(());
    };
    Err(DataError::NoSuchField { path: config.path.clone(), key, what })
}

/// Refuses a numeric id that 64 bits cannot hold: such a number is a damaged line rather than a name.
fn check_id(id: &str, what: &'static str, line: u64, path: &Path) -> Result<(), DataError> {
    let digits_of_u64 = 20;
    if id.len() >= digits_of_u64 && id.bytes().all(|byte| byte.is_ascii_digit()) && id.parse::<u64>().is_err() {
        return Err(DataError::IdOverflow { path: path.to_owned(), line, what, value: id.to_owned() });
    }
    Ok(())
}

/// A finite number, or the error that names the field.
fn number(text: &str, what: &'static str, line: u64, path: &Path) -> Result<f64, DataError> {
    text.trim().parse().ok().filter(|value: &f64| value.is_finite()).ok_or_else(|| DataError::Number {
        path: path.to_owned(),
        line,
        what,
        value: text.to_owned(),
    })
}

#[cfg(test)]
mod tests;
