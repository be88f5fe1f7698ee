//! Which format a file has. The name decides first, then the first lines; what is not clear is refused rather than
//! guessed, since a wrong guess would train on nonsense.
//!
//! 1. Name: `*.inter` is RecBole, `ratings.dat` MovieLens, `*.csv` CSV, `*.tsv` TSV.
//! 2. Header: a first line of tab-separated `name:type` fields is RecBole; one that has both `data.user_column`
//!    and `data.item_column` among its fields is CSV (fields separated by commas, or by `data.separator`) or TSV (by
//!    tabs).
//! 3. First lines (at most 100 that are not blank):
//!    all of them four fields separated by `::`: MovieLens;
//!    all of them two fields, separated by `data.separator` or else by white space: `user item` lines;
//!    unlike numbers of white-space fields and no two lines that begin alike: sequences;
//!    most of them two fields: `user item` lines, whose reader names the line that is not.
//! 4. Anything else is ambiguous; above all lines that all have the same number of fields, which could be
//!    sequences of one length as well as a table without a header.

use super::lines::Lines;
use super::separator;
use crate::data::error::DataError;
use medley_common::config::{DataConfig, DataFormat};
use std::collections::HashSet;

const LINES: usize = 100;

/// The format of the configured file.
pub fn detect(config: &DataConfig) -> Result<DataFormat, DataError> {
    if let Some(format) = by_name(config) {
        return Ok(format);
    }
    let lines = first_lines(config)?;
    let Some(first) = lines.first() else {
        return Err(DataError::Empty { path: config.path.clone() });
    };
    if let Some(format) = by_header(first, config)? {
        return Ok(format);
    }
    by_lines(&lines, separator(config)?)
        .map_err(|reason| DataError::UnknownFormat { path: config.path.clone(), reason })
}

fn by_name(config: &DataConfig) -> Option<DataFormat> {
    let name = config.path.file_name()?.to_str()?.to_ascii_lowercase();
    if name == "ratings.dat" {
        return Some(DataFormat::Movielens);
    }
    match name.rsplit_once('.')?.1 {
        "inter" => Some(DataFormat::Recbole),
        "csv" => Some(DataFormat::Csv),
        "tsv" => Some(DataFormat::Tsv),
        _ => None,
    }
}

fn first_lines(config: &DataConfig) -> Result<Vec<String>, DataError> {
    let mut lines = Lines::open(&config.path)?;
    let mut first = Vec::new();
    while first.len() < LINES {
        match lines.next()? {
            Some((_, text)) => first.push(text.to_owned()),
            None => break,
        }
    }
    Ok(first)
}

fn by_header(first: &str, config: &DataConfig) -> Result<Option<DataFormat>, DataError> {
    let typed = |field: &str| {
        field.split_once(':').is_some_and(|(name, kind)| {
            !name.is_empty() && ["token", "token_seq", "float", "float_seq"].contains(&kind.trim())
        })
    };
    if first.split('\t').all(typed) {
        return Ok(Some(DataFormat::Recbole));
    }
    let names_columns = |separator: char| {
        let has = |column: &str| first.split(separator).any(|field| field.trim().trim_matches('"') == column);
        has(&config.user_column) && has(&config.item_column)
    };
    let comma = separator(config)?.map_or(',', char::from);
    Ok(if names_columns(comma) {
        Some(DataFormat::Csv)
    } else if names_columns('\t') {
        Some(DataFormat::Tsv)
    } else {
        None
    })
}

fn by_lines(lines: &[String], separator: Option<u8>) -> Result<DataFormat, String> {
    if lines.iter().all(|line| line.split("::").count() == 4) {
        return Ok(DataFormat::Movielens);
    }
    let count = |line: &String| match separator {
        Some(separator) => line.split(char::from(separator)).count(),
        None => line.split_whitespace().count(),
    };
    let counts: Vec<usize> = lines.iter().map(count).collect();
    let fewest = counts.iter().copied().min().unwrap_or(0);
    let most = counts.iter().copied().max().unwrap_or(0);
    if (fewest, most) == (2, 2) {
        return Ok(DataFormat::UserItem);
    }
    if fewest == most {
        return Err(format!("its first lines have {most} field(s) each"));
    }
    let mut users = HashSet::new();
    let distinct = lines.iter().all(|line| users.insert(line.split_whitespace().next()));
    let pairs = counts.iter().filter(|&&count| count == 2).count();
    if distinct && separator.is_none() {
        Ok(DataFormat::Sequences)
    } else if 2 * pairs > counts.len() {
        Ok(DataFormat::UserItem)
    } else {
        Err(format!("its first lines have {fewest} to {most} fields"))
    }
}
