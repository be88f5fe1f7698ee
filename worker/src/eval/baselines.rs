//! Models that need no training, which trained ones must beat to be worth it.

use super::Split;
use super::candidates::frequencies;
use medley_common::method::MethodName;

/// Scores of a baseline for every user.
pub struct Baseline {
    method: MethodName,
    split: Split,
    /// `[V]` each item's training frequency, scaled into [0, 1).
    popularity: Vec<f32>,
}

impl Baseline {
    /// Popularity counts what precedes the targets of the split: the training part for validation, and the validation
    /// item too for the test.
    ///
    /// # Panics
    /// If the method is a trained one.
    pub fn new(method: MethodName, split: Split, sequences: &[Vec<u32>], items: usize) -> Self {
        assert!(!method.is_trained(), "{method} is no baseline");
        let counts = frequencies(sequences, items, |sequence| split.history(sequence));
        // Places among the distinct counts keep their order exactly, which counts divided by their maximum would not.
        let mut distinct = counts.clone();
        distinct.sort_unstable();
        distinct.dedup();
        let scale = 1.0 / (distinct.len() + 1) as f32;
        let place = |count: &u64| distinct.partition_point(|other| other < count) as f32 * scale;
        Self { method, split, popularity: counts.iter().map(place).collect() }
    }

    /// Scores for a user, `[V]`: popularity; for own-frequency, how often the user's history has an item comes first.
    pub fn scores(&self, sequence: &[u32], scores: &mut Vec<f32>) {
        scores.clear();
        scores.extend_from_slice(&self.popularity);
        if self.method == MethodName::OwnFrequency {
            for item in self.split.history(sequence) {
                scores[*item as usize] += 1.0;
            }
        }
    }
}
