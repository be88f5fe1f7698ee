//! What a network sees when it is asked for a user's next item.

use super::batches::{self, Batch, Bucketing, Sample};
use super::{Dataset, Split, item_token, mask_token};
use medley_common::config::NetworkKind;
use std::ops::Range;

/// A batch with one row a sequence, and whose row it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EvaluationBatch {
    /// The inputs; each row's target is the held-out item.
    pub batch: Batch,
    /// `[rows]` the user of each row.
    pub users: Vec<usize>,
}

/// The input tokens that ask for the item after a history: its last `max_length` items (causal), or its last
/// `max_length` − 1 and the mask (bidirectional). The answer is read at the last position.
pub fn input_tokens(history: &[u32], items: usize, kind: NetworkKind, max_length: usize) -> Vec<i64> {
    let (room, end) = match kind {
        NetworkKind::Bidirectional => (max_length.saturating_sub(1), Some(mask_token(items))),
        NetworkKind::Causal => (max_length, None),
    };
    let recent = &history[history.len().saturating_sub(room)..];
    recent.iter().copied().map(item_token).chain(end).collect()
}

/// The inputs and targets of some users.
///
/// # Panics
/// If the range goes beyond the dataset's users.
pub fn evaluation_batch(
    dataset: &Dataset,
    users: Range<usize>,
    split: Split,
    kind: NetworkKind,
    max_length: usize,
) -> EvaluationBatch {
    let first = users.start;
    let samples: Vec<Sample> = users
        .map(|user| {
            let history = dataset.history(user, split);
            let tokens = input_tokens(history, dataset.items, kind, max_length);
            let target = i64::from(dataset.target(user, split));
            Sample { rows: vec![(tokens.len() - 1, target)], tokens }
        })
        .collect();
    let (batch, order) = batches::assemble(&samples, Bucketing::ByLength);
    EvaluationBatch { batch, users: order.into_iter().map(|place| first + place).collect() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use medley_common::config::DataConfig;

    fn dataset() -> Dataset {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("data.txt");
        std::fs::write(&path, "a 0 1 2 3 4\nb 4 2 0\nc 1 0 1 2\n").unwrap();
        Dataset::load(&DataConfig { path, ..DataConfig::default() }).unwrap()
    }

    #[test]
    fn inputs_are_the_latest_items_and_the_mask() {
        let history = [0, 1, 2, 3];
        let mask = 6;
        let input = |kind, max_length| input_tokens(&history, 5, kind, max_length);
        assert_eq!(input(NetworkKind::Bidirectional, 3), [3, 4, mask]);
        assert_eq!(input(NetworkKind::Bidirectional, 9), [1, 2, 3, 4, mask]);
        assert_eq!(input(NetworkKind::Causal, 3), [2, 3, 4]);
        assert_eq!(input(NetworkKind::Causal, 9), [1, 2, 3, 4]);
    }

    #[test]
    fn every_row_is_its_users_held_out_item() {
        let dataset = dataset();
        for (split, held_out) in [(Split::Valid, 2), (Split::Test, 1)] {
            for kind in [NetworkKind::Bidirectional, NetworkKind::Causal] {
                let evaluation = evaluation_batch(&dataset, 1..3, split, kind, 8);
                let mut users = evaluation.users.clone();
                users.sort_unstable();
                assert_eq!(users, [1, 2]);
                assert_eq!(evaluation.batch.rows, 2);
                for (&user, target) in evaluation.users.iter().zip(evaluation.batch.targets()) {
                    let sequence = &dataset.sequences[user];
                    assert_eq!(target, i64::from(sequence[sequence.len() - held_out]));
                    assert_eq!(dataset.history(user, split).len(), sequence.len() - held_out);
                }
                for bucket in &evaluation.batch.buckets {
                    for (place, &length) in bucket.lengths.iter().enumerate() {
                        assert_eq!(bucket.row_positions[place] as usize, place * bucket.length + length - 1);
                    }
                }
            }
        }
        assert_eq!(dataset.training(0, false), [0, 1, 2]);
        assert_eq!(dataset.training(0, true), [0, 1, 2, 3]);
        assert_eq!(dataset.target(0, Split::Valid), 3);
        assert_eq!(dataset.target(0, Split::Test), 4);
    }
}
