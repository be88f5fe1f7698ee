//! Users' sequences, and which of their items train, validate and test.

use super::error::DataError;
use super::filters;
use super::interactions::Grouped;
use super::readers;
use medley_common::config::{DataConfig, DataFormat};
use medley_common::hash::sha256;
use std::path::Path;

/// Interactions after all filters.
#[derive(Debug, Clone, PartialEq)]
pub struct Dataset {
    /// Item indices (0..`items`) of each user, in time order; at least three a user.
    pub sequences: Vec<Vec<u32>>,
    /// Size of the catalogue, at least 2.
    pub items: usize,
    /// The file's name of each item; the order is that of first appearance in the file.
    pub item_names: Vec<String>,
    /// The file's name of each user, in the order of `sequences`.
    pub user_names: Vec<String>,
    /// SHA-256 of names and sequences: it changes if and only if what can be trained on does.
    pub hash: String,
    /// What was read and what was left out.
    pub report: LoadReport,
}

/// What loading did, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct LoadReport {
    /// The format, detected or named.
    pub format: DataFormat,
    /// Interactions in the file.
    pub interactions_read: usize,
    /// Interactions left out for a rating below `min_rating`.
    pub interactions_rated_lower: usize,
    /// Users left out by `k_core`.
    pub users_below_k_core: usize,
    /// Users left out by `min_length`.
    pub users_below_min_length: usize,
    /// Items left out, by `k_core` or with their users.
    pub items_removed: usize,
}

/// Which of the two held-out items is predicted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Split {
    /// The second-last item, from all before it.
    Valid,
    /// The last item, from all before it (the validation item included).
    Test,
}

impl Dataset {
    /// Reads, filters and numbers the interactions of a file.
    ///
    /// Filters, in order: `min_rating`, `k_core` to a fixed point, `min_length`. A repeated (user, item) pair is an
    /// interaction like any other. Where no filter is asked for (`min_rating` absent, `k_core` 0, `min_length` 3) the
    /// file is taken at its word, and a user with fewer than three interactions is an error in it; where one is,
    /// users who end up too short are left out and counted in [`LoadReport`].
    ///
    /// # Errors
    /// A file that cannot be read or understood, users too short to be split, nobody left after the filters, or a
    /// catalogue of one item.
    pub fn load(config: &DataConfig) -> Result<Self, DataError> {
        let (format, interactions) = readers::read(config)?;
        let path = config.path.as_path();
        let interactions_read = interactions.seen();
        if interactions_read == 0 {
            return Err(DataError::Empty { path: path.into() });
        }
        let mut data = interactions.group();
        if !has_filter(config) {
            refuse_short_users(&data, path)?;
        }
        let users = data.sequences.len();
        let min_length = config.min_length.max(MIN_LENGTH);
        let removed = filters::apply(&mut data, config.k_core, min_length);
        if data.sequences.is_empty() {
            return Err(DataError::NothingLeft { path: path.into(), users, k_core: config.k_core, min_length });
        }
        if let [item] = data.item_names.as_slice() {
            return Err(DataError::OneItem { path: path.into(), item: item.clone() });
        }
        let report = LoadReport {
            format,
            interactions_read,
            interactions_rated_lower: data.rated_lower,
            users_below_k_core: removed.users_by_k_core,
            users_below_min_length: removed.users_by_length,
            items_removed: removed.items,
        };
        Ok(Self {
            hash: content_hash(&data.user_names, &data.item_names, &data.sequences),
            items: data.item_names.len(),
            sequences: data.sequences,
            item_names: data.item_names,
            user_names: data.user_names,
            report,
        })
    }

    /// How many users there are.
    pub fn users(&self) -> usize {
        self.sequences.len()
    }

    /// How many interactions there are, held-out ones included.
    pub fn interactions(&self) -> usize {
        self.sequences.iter().map(Vec::len).sum()
    }

    /// The items of a user that train: all but the last two, or all but the last with `train_on_validation`.
    pub fn training(&self, user: usize, train_on_validation: bool) -> &[u32] {
        let sequence = &self.sequences[user];
        &sequence[..sequence.len() - if train_on_validation { 1 } else { 2 }]
    }

    /// The item to predict.
    pub fn target(&self, user: usize, split: Split) -> u32 {
        self.sequences[user][self.target_position(user, split)]
    }

    /// All items before the one to predict, never empty.
    pub fn history(&self, user: usize, split: Split) -> &[u32] {
        &self.sequences[user][..self.target_position(user, split)]
    }

    fn target_position(&self, user: usize, split: Split) -> usize {
        let length = self.sequences[user].len();
        match split {
            Split::Valid => length - 2,
            Split::Test => length - 1,
        }
    }
}

/// Training, validation and test need an item each.
const MIN_LENGTH: usize = 3;

fn has_filter(config: &DataConfig) -> bool {
    config.min_rating.is_some() || config.k_core > 0 || config.min_length > MIN_LENGTH
}

fn refuse_short_users(data: &Grouped, path: &Path) -> Result<(), DataError> {
    match data.sequences.iter().position(|s| s.len() < MIN_LENGTH) {
        None => Ok(()),
        Some(user) => Err(DataError::ShortUser {
            path: path.into(),
            line: data.first_lines[user],
            user: data.user_names[user].clone(),
            length: data.sequences[user].len(),
        }),
    }
}

/// Every string is preceded by its length, so that no two datasets give the same bytes.
fn content_hash(users: &[String], items: &[String], sequences: &[Vec<u32>]) -> String {
    let interactions: usize = sequences.iter().map(Vec::len).sum();
    let mut bytes = Vec::with_capacity(4 * interactions + 32 * (users.len() + items.len()));
    let string = |bytes: &mut Vec<u8>, text: &str| {
        bytes.extend((text.len() as u64).to_le_bytes());
        bytes.extend(text.as_bytes());
    };
    bytes.extend((items.len() as u64).to_le_bytes());
    for item in items {
        string(&mut bytes, item);
    }
    for (user, sequence) in users.iter().zip(sequences) {
        string(&mut bytes, user);
        bytes.extend((sequence.len() as u64).to_le_bytes());
        bytes.extend(sequence.iter().flat_map(|item| item.to_le_bytes()));
    }
    sha256(&bytes)
}
