//! Data and the samples made of it.

use super::NetworkKind;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Interaction data and how it is split. Within a user, order is the file's unless there are timestamps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct DataConfig {
    /// The file; a relative path is relative to the working directory.
    pub path: PathBuf,
    /// Its format; `auto` looks at the name and the first lines.
    pub format: DataFormat,
    /// Field separator of `csv`, `tsv` and `user-item` files; by default the format's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub separator: Option<String>,
    /// Column of users, in files with named columns.
    pub user_column: String,
    /// Column of items.
    pub item_column: String,
    /// Column of times, if there is one to sort by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timestamp_column: Option<String>,
    /// Column of ratings, needed with `min_rating`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rating_column: Option<String>,
    /// Interactions rated lower are left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_rating: Option<f64>,
    /// Users and items with fewer interactions are removed, until none is left (0: no such filter).
    pub k_core: usize,
    /// Users with fewer interactions than this are left out; at least 3, since the last two are held out.
    pub min_length: usize,
    /// Train on the validation item too, as HAIL's released code does; there is then no model selection.
    pub train_on_validation: bool,
}

impl Default for DataConfig {
    fn default() -> Self {
        Self {
            path: PathBuf::new(),
            format: DataFormat::Auto,
            separator: None,
            user_column: "user".into(),
            item_column: "item".into(),
            timestamp_column: None,
            rating_column: None,
            min_rating: None,
            k_core: 0,
            min_length: 3,
            train_on_validation: false,
        }
    }
}

/// Format of an interaction file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DataFormat {
    /// Told from the name and the first lines.
    #[default]
    Auto,
    /// `user item` lines in time order.
    UserItem,
    /// `user item item ...`, one line a user.
    Sequences,
    /// MovieLens `ratings.dat`: `user::item::rating::timestamp`.
    Movielens,
    /// RecBole atomic file `.inter`: tab-separated with typed column names.
    Recbole,
    /// Comma-separated with a header.
    Csv,
    /// Tab-separated with a header.
    Tsv,
}

/// How users' sequences become training samples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct SamplesConfig {
    /// Longest window of a sequence, in items; longer sequences are sliced from the right.
    pub max_length: usize,
    /// Share of a window that the next one repeats, in [0, 1). HAIL's released code: 0.5.
    pub window_overlap: f64,
    /// Share of a window's items that are masked (bidirectional networks).
    pub mask_share: f64,
    /// Most items masked in a window.
    pub max_masks: usize,
    /// Samples with random masks made of each window in an epoch.
    pub copies: usize,
    /// One more sample of each window in which only the last item is masked.
    pub last_item_copy: bool,
    /// Draw new masks in every epoch, in the place of fixed copies.
    pub redraw: bool,
}

impl SamplesConfig {
    /// Places of a sequence that may carry a target.
    pub fn slots(&self, kind: NetworkKind) -> usize {
        match kind {
            NetworkKind::Bidirectional => self.max_masks,
            NetworkKind::Causal => self.max_length,
        }
    }
}

impl Default for SamplesConfig {
    fn default() -> Self {
        Self {
            max_length: 200,
            window_overlap: 0.5,
            mask_share: 0.2,
            max_masks: 40,
            copies: 10,
            last_item_copy: true,
            redraw: false,
        }
    }
}
