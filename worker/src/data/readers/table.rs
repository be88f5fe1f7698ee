//! Files that name their columns: CSV and TSV (quoted fields allowed), and RecBole's atomic `.inter` files, whose
//! tab-separated columns carry a type (`user_id:token`) and no quotes.

use super::lines::read_error;
use super::{number, separator};
use crate::data::error::DataError;
use crate::data::interactions::{Interactions, Record};
use csv::{ByteRecord, Reader, ReaderBuilder};
use medley_common::config::DataConfig;
use std::path::Path;

/// Which table.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Csv,
    Tsv,
    Recbole,
}

pub fn read(config: &DataConfig, kind: Kind, into: &mut Interactions) -> Result<(), DataError> {
    let path = config.path.as_path();
    let bytes = std::fs::read(path).map_err(|source| read_error(path, source))?;
    let mut table = Table::new(config, kind, &bytes)?;
    let Some((_, first)) = table.next(path)? else {
        return Err(DataError::Empty { path: path.into() });
    };
    let width = first.len();
    let columns = Columns::find(&header(first, kind, path)?, config, kind)?;
    while let Some((line, record)) = table.next(path)? {
        if record.len() != width {
            return Err(DataError::Fields {
                path: path.into(),
                line,
                expected: format!("{width} (as in the header)"),
                found: record.len(),
            });
        }
        let field = |column: usize| -> Result<&str, DataError> {
            std::str::from_utf8(&record[column])
                .map(str::trim)
                .map_err(|_| DataError::NotUtf8 { path: path.into(), line })
        };
        let optional = |column: Option<usize>, what| -> Result<Option<f64>, DataError> {
            column.map(|column| number(field(column)?, what, line, path)).transpose()
        };
        into.push(&Record {
            line,
            user: field(columns.user)?,
            item: field(columns.item)?,
            timestamp: optional(columns.timestamp, "timestamp")?,
            rating: optional(columns.rating, "rating")?,
        })?;
    }
    Ok(())
}

/// Records with the lines on which they begin. The file is held in memory, since `csv`'s own line numbers are wrong
/// after CRLF and blank lines.
struct Table<'a> {
    bytes: &'a [u8],
    reader: Reader<&'a [u8]>,
    record: ByteRecord,
    /// Bytes whose line ends are counted in `line`.
    counted: usize,
    line: u64,
}

impl<'a> Table<'a> {
    fn new(config: &DataConfig, kind: Kind, bytes: &'a [u8]) -> Result<Self, DataError> {
        let delimiter = match kind {
            Kind::Csv => separator(config)?.unwrap_or(b','),
            Kind::Tsv => separator(config)?.unwrap_or(b'\t'),
            Kind::Recbole => b'\t',
        };
        let reader = ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .delimiter(delimiter)
            .quoting(kind != Kind::Recbole)
            .from_reader(bytes);
        Ok(Self { bytes, reader, record: ByteRecord::new(), counted: 0, line: 1 })
    }

    fn next(&mut self, path: &Path) -> Result<Option<(u64, &ByteRecord)>, DataError> {
        let begin = self.reader.position().byte() as usize;
        let more = self
            .reader
            .read_byte_record(&mut self.record)
            .map_err(|error| read_error(path, std::io::Error::other(error)))?;
        if !more {
            return Ok(None);
        }
        // What stands between records are the end of the last line and blank lines.
        let blank = self.bytes[begin..].iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        let passed = &self.bytes[self.counted..begin + blank];
        self.line += passed.iter().filter(|&&byte| byte == b'\n').count() as u64;
        self.counted = begin + blank;
        Ok(Some((self.line, &self.record)))
    }
}

fn header(record: &ByteRecord, kind: Kind, path: &Path) -> Result<Vec<String>, DataError> {
    record
        .iter()
        .map(|field| {
            let text = std::str::from_utf8(field).map_err(|_| DataError::NotUtf8 { path: path.into(), line: 1 })?;
            let text = text.trim();
            Ok(match kind {
                Kind::Recbole => untyped(text),
                Kind::Csv | Kind::Tsv => text,
            }
            .to_owned())
        })
        .collect()
}

/// A column's name without RecBole's `:type`.
fn untyped(column: &str) -> &str {
    column.split(':').next().unwrap_or(column)
}

/// Where the fields stand in a record.
struct Columns {
    user: usize,
    item: usize,
    timestamp: Option<usize>,
    rating: Option<usize>,
}

impl Columns {
    fn find(header: &[String], config: &DataConfig, kind: Kind) -> Result<Self, DataError> {
        let position = |column: &str| {
            let wanted = match kind {
                Kind::Recbole => untyped(column),
                Kind::Csv | Kind::Tsv => column,
            };
            header.iter().position(|name| name == wanted)
        };
        let require = |column: &str, key: &'static str| {
            position(column).ok_or_else(|| DataError::MissingColumn {
                path: config.path.clone(),
                column: column.to_owned(),
                key,
                columns: header.to_vec(),
            })
        };
        let id = |column: &str, default: &str, recbole: &str, key: &'static str| {
            let found = position(column)
                .or_else(|| (kind == Kind::Recbole && column == default).then(|| position(recbole)).flatten());
            found.map_or_else(|| require(column, key), Ok)
        };
        let timestamp = match &config.timestamp_column {
            Some(column) => Some(require(column, "data.timestamp_column")?),
            None if kind == Kind::Recbole => position("timestamp"),
            None => None,
        };
        let rating = match (&config.rating_column, config.min_rating) {
            (_, None) => None,
            (Some(column), Some(_)) => Some(require(column, "data.rating_column")?),
            (None, Some(_)) => Some(
                (kind == Kind::Recbole)
                    .then(|| position("rating"))
                    .flatten()
                    .ok_or_else(|| DataError::NoRatingColumn { path: config.path.clone(), columns: header.to_vec() })?,
            ),
        };
        Ok(Self {
            user: id(&config.user_column, "user", "user_id", "data.user_column")?,
            item: id(&config.item_column, "item", "item_id", "data.item_column")?,
            timestamp,
            rating,
        })
    }
}
