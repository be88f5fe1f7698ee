//! What can be wrong with data. Each message is one line: where, what, and how to mend it.

use std::io;
use std::path::PathBuf;

/// Data that cannot be read, cannot be used, or cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The file is absent.
    #[error("{}: does not exist; check data.path (relative paths start at the working directory)", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The file is there but reading it failed.
    #[error("{}: cannot be read: {source}; give a readable file as data.path", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A directory, a device, a pipe.
    #[error("{}: is a {kind}, not a file; data is read by every worker and more than once: write it to a file", path.display())]
    NotAFile {
        /// What was named.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// Nothing but white space, or a header alone.
    #[error("{}: holds no interactions; give a file with at least one line of data", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// Bytes that are no UTF-8.
    #[error("{}:{line}: is not UTF-8 text; convert the file, for example with `iconv -f LATIN1 -t UTF-8`", path.display())]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
    },
    /// A line with too many or too few fields.
    #[error("{}:{line}: has {found} field(s) where {expected} are expected; mend the line, or name the file's format in data.format", path.display())]
    Fields {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// What a line of this format is made of.
        expected: String,
        /// How many fields the line has.
        found: usize,
    },
    /// An empty user or item.
    #[error("{}:{line}: the {what} is empty; fill it in or remove the line", path.display())]
    EmptyId {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// `user` or `item`.
        what: &'static str,
    },
    /// A rating or timestamp that is no number.
    #[error("{}:{line}: {what} {value:?} is not a finite number; mend the line{}", path.display(), if *what == "timestamp" { " (times are numbers such as Unix seconds)" } else { "" })]
    Number {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// `rating` or `timestamp`.
        what: &'static str,
        /// The text found in its place.
        value: String,
    },
    /// A numeric id beyond 64 bits.
    #[error("{}:{line}: id overflow: {what} {value} exceeds {}; renumber it, or check data.format", path.display(), u64::MAX)]
    IdOverflow {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// `user` or `item`.
        what: &'static str,
        /// The id.
        value: String,
    },
    /// More distinct users or items than can be numbered.
    #[error("{}:{line}: id overflow: more than {limit} distinct {what}s; split the file or remove rare ones", path.display())]
    TooMany {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// `user` or `item`.
        what: &'static str,
        /// How many there may be.
        limit: u32,
    },
    /// The header lacks a column.
    #[error("{}:1: there is no column {column:?}; set {key} to one of: {}", path.display(), listed(columns))]
    MissingColumn {
        /// The file.
        path: PathBuf,
        /// The column asked for.
        column: String,
        /// The configuration key that asked for it.
        key: &'static str,
        /// The columns that the header has.
        columns: Vec<String>,
    },
    /// A setting that the file's format has no field for.
    #[error("{}: {key} is set, but the file's format has no {what}s; drop the setting, or name a format that has them in data.format", path.display())]
    NoSuchField {
        /// The file.
        path: PathBuf,
        /// The configuration key.
        key: &'static str,
        /// `rating` or `timestamp`.
        what: &'static str,
    },
    /// `min_rating` without a column to read ratings from.
    #[error("{}: data.min_rating needs data.rating_column; set it to one of: {}", path.display(), listed(columns))]
    NoRatingColumn {
        /// The file.
        path: PathBuf,
        /// The columns that the header has.
        columns: Vec<String>,
    },
    /// Detection found no format, or more than one.
    #[error("{}: cannot tell the file's format: {reason}; set data.format to user-item, sequences, movielens, recbole, csv or tsv", path.display())]
    UnknownFormat {
        /// The file.
        path: PathBuf,
        /// What was seen.
        reason: String,
    },
    /// A separator that no single byte can be.
    #[error("{}: data.separator {separator:?} is not one ASCII character; use one, for example \";\"", path.display())]
    Separator {
        /// The file.
        path: PathBuf,
        /// The separator asked for.
        separator: String,
    },
    /// A user too short to be split, where no filter was asked for.
    #[error("{}:{line}: user {user:?} has {}, but training, validation and test need 3; remove the user, or set data.k_core: 1 leaves out users below data.min_length, 3 also items with fewer than 3 interactions", path.display(), if *length == 1 { "one item".to_owned() } else { format!("{length} items") })]
    ShortUser {
        /// The file.
        path: PathBuf,
        /// The line that first names the user, from 1.
        line: u64,
        /// The user.
        user: String,
        /// Interactions of the user.
        length: usize,
    },
    /// The filters removed everybody.
    #[error("{}: no user is left of {users} after data.min_rating, data.k_core = {k_core} and data.min_length = {min_length}; lower them", path.display())]
    NothingLeft {
        /// The file.
        path: PathBuf,
        /// Users before the filters.
        users: usize,
        /// The filter asked for.
        k_core: usize,
        /// The filter asked for.
        min_length: usize,
    },
    /// A catalogue of one.
    #[error("{}: every interaction is with the one item {item:?}, so there is nothing to rank; give data with at least two items", path.display())]
    OneItem {
        /// The file.
        path: PathBuf,
        /// The item.
        item: String,
    },
    /// No user has two training items.
    #[error(
        "no user has two items to train on, so there are no samples; give data with longer sequences, or set data.train_on_validation = true"
    )]
    NoSamples,
    /// The file to write is there already.
    #[error("{}: exists already; give another name, or --force to replace it", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// Writing failed; nothing was left behind.
    #[error("{}: cannot be written: {source}; give a path in a writable directory", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// An option of the generator that makes no data.
    #[error("--{option} {problem}")]
    Option {
        /// The option, without dashes.
        option: &'static str,
        /// What is wrong and what would do.
        problem: String,
    },
    /// Standard output refused the result.
    #[error("cannot write to standard output: {0}")]
    Output(io::Error),
}

/// Most columns that a message names.
const MOST_LISTED: usize = 30;

/// Names of columns, which may hold anything that can be quoted, line ends among it.
fn listed(columns: &[String]) -> String {
    let named = columns.iter().take(MOST_LISTED).map(|column| column.escape_debug().to_string());
    let more = columns.len().saturating_sub(MOST_LISTED);
    named.chain((more > 0).then(|| format!("and {more} more"))).collect::<Vec<_>>().join(", ")
}
