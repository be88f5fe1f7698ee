//! Numbered lines of a text file.

use crate::data::error::DataError;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Reads lines into one reused buffer. Blank lines are skipped but counted.
pub struct Lines {
    path: PathBuf,
    reader: BufReader<File>,
    buffer: Vec<u8>,
    line: u64,
}

impl Lines {
    pub fn open(path: &Path) -> Result<Self, DataError> {
        let file = File::open(path).map_err(|source| read_error(path, source))?;
        Ok(Self { path: path.to_owned(), reader: BufReader::with_capacity(1 << 18, file), buffer: Vec::new(), line: 0 })
    }

    /// The next line that is not blank, without its end, and its number from 1.
    pub fn next(&mut self) -> Result<Option<(u64, &str)>, DataError> {
        loop {
            self.buffer.clear();
            let read =
                self.reader.read_until(b'\n', &mut self.buffer).map_err(|source| read_error(&self.path, source))?;
            if read == 0 {
                return Ok(None);
            }
            self.line += 1;
            if self.line == 1 && self.buffer.starts_with(BYTE_ORDER_MARK) {
                self.buffer.drain(..BYTE_ORDER_MARK.len());
            }
            if !self.buffer.iter().all(u8::is_ascii_whitespace) {
                break;
            }
        }
        let line = self.line;
        match std::str::from_utf8(&self.buffer) {
            Ok(text) => Ok(Some((line, text.trim_end_matches(['\n', '\r'])))),
            Err(_) => Err(DataError::NotUtf8 { path: self.path.clone(), line }),
        }
    }
}

/// Tells an absent file from an unreadable one.
pub fn read_error(path: &Path, source: io::Error) -> DataError {
    let path = path.to_owned();
    if source.kind() == io::ErrorKind::NotFound {
        DataError::Missing { path }
    } else {
        DataError::Read { path, source }
    }
}
