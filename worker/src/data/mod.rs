//! From an interaction file to batches. No tensors here: everything is plain vectors, so that it can be tested
//! and reused without libtorch.
//!
//! Read in this order:
//! 1. [`dataset`]: users' sequences, the leave-one-out split, and [`Dataset::load`].
//! 2. `readers`: one small file per file format, and how a format is detected.
//! 3. `filters`: k-core and minimum length.
//! 4. [`windows`]: how long sequences are sliced.
//! 5. [`samples`]: windows with masks or next-item targets, and their order in an epoch.
//! 6. [`batches`]: samples grouped by length so that little is padded.
//! 7. [`prefetch`]: a thread that makes the next batch while the last one is computed on.
//! 8. [`history`]: the inputs of an evaluation.
//! 9. [`statistics`] and [`generate`]: what `medley data` prints and writes; [`cli`]: its commands.
//! 10. [`random`](crate::random): the streams of random numbers behind masks, epochs and synthetic users.
//! 11. [`error`]: everything that can be wrong with data, each in one line.
//!
//! Invariants: items are numbered 0..V in the order in which the file first names them; every user of a
//! [`Dataset`] has at least three interactions; a batch is a function of (data, configuration, seed, epoch, step)
//! alone, so every worker can build any batch.
//!
//! Tokens of a network's input: [`PADDING`] = 0, item i is i + 1, and V + 1 is the mask ([`mask_token`]).
//! Targets are item indices, 0..V.

pub mod batches;
pub mod cli;
pub mod dataset;
pub mod error;
mod filters;
pub mod generate;
pub mod history;
mod interactions;
pub mod prefetch;
mod readers;
pub mod samples;
pub mod statistics;
pub mod windows;

pub use batches::{Batch, Bucket};
pub use dataset::{Dataset, LoadReport, Split};
pub use error::DataError;
pub use history::{EvaluationBatch, evaluation_batch, input_tokens};
pub use prefetch::{Prefetch, PrefetchError};
pub use samples::SampleSet;
pub use statistics::DatasetStatistics;

/// The token that fills a sequence up to its bucket's length.
pub const PADDING: i64 = 0;

/// The token of an item.
pub fn item_token(item: u32) -> i64 {
    i64::from(item) + 1
}

/// The token that hides an item, in a catalogue of `items`.
pub fn mask_token(items: usize) -> i64 {
    items as i64 + 1
}

/// How many tokens there are: padding, the items, the mask.
pub fn vocabulary(items: usize) -> usize {
    items + 2
}

#[cfg(test)]
mod published_tests;
