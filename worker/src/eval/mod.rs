//! Evaluation: where the held-out item ranks among candidates, under named protocols.
//!
//! Read in this order: [`candidates`] (drawn once, stored with a hash, shared by all models), [`rank`] (mid-ranks),
//! [`metrics()`] (from ranks to figures with intervals), [`baselines`] (models that need no training), [`evaluator`]
//! (all of it for a dataset).
//!
//! A user's sequence of n items is split as: training `s[..n-2]`, validation target `s[n-2]`, test target `s[n-1]`.
//! Sampled protocols are known to disagree with the full ranking, even in expectation (Krichene and Rendle, KDD'20):
//! read them beside `full`.

mod baselines;
mod candidates;
mod evaluator;
mod metrics;
mod rank;

pub use candidates::Candidates;
pub use evaluator::{Evaluator, Tally};
pub use metrics::{metrics, value};
pub use rank::{rank_full, rank_full_unseen, rank_sampled};

use medley_common::method::Protocol;
use std::path::PathBuf;

/// Which held-out item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Split {
    /// The second last.
    Valid,
    /// The last.
    Test,
}

impl Split {
    /// As results spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::Test => "test",
        }
    }

    /// The items before the target.
    pub fn history(self, sequence: &[u32]) -> &[u32] {
        match self {
            Self::Valid => &sequence[..sequence.len() - 2],
            Self::Test => &sequence[..sequence.len() - 1],
        }
    }

    /// The target.
    pub fn target(self, sequence: &[u32]) -> u32 {
        match self {
            Self::Valid => sequence[sequence.len() - 2],
            Self::Test => sequence[sequence.len() - 1],
        }
    }
}

/// What can go wrong in an evaluation.
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    /// Nothing to draw from.
    #[error(
        "user number {user} has had every item that {protocol} could draw: no negatives; leave such users out or evaluate under \"full\""
    )]
    NoNegatives {
        /// The user's place in the data, from 0.
        user: usize,
        /// The protocol.
        protocol: Protocol,
    },
    /// A model's scores are no numbers.
    #[error("a score for user number {user} is not a number: the model has diverged; lower optimizer.learning_rate")]
    NotFinite {
        /// The user's place in the data, from 0.
        user: usize,
    },
    /// A file of candidates cannot be written or read.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file of candidates is not what it should be.
    #[error("{path}: not a whole file of candidates ({what}); delete it")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
}
