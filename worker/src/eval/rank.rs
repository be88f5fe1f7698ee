//! Ranks of a target among candidates, from 0; ties by mid-rank.
//!
//! A target that ties with n others stands in the middle of them: half of them count as better. So the order in which
//! candidates are listed cannot matter, and a model that scores everything alike gains nothing. A score that is not a
//! number counts as lower than any other, the target's too.

/// The rank among the target and negatives; a negative drawn twice counts twice. `scores` is `[V]`.
pub fn rank_sampled(scores: &[f32], target: u32, negatives: &[u32]) -> f64 {
    let own = scores[target as usize];
    if own.is_nan() {
        return negatives.len() as f64;
    }
    let (mut better, mut equal) = (0u32, 0u32);
    for negative in negatives {
        let score = scores[*negative as usize];
        better += u32::from(score > own);
        equal += u32::from(score == own);
    }
    f64::from(better) + 0.5 * f64::from(equal)
}

/// The rank among all items. `scores` is `[V]`.
pub fn rank_full(scores: &[f32], target: u32) -> f64 {
    let own = scores[target as usize];
    if own.is_nan() {
        return scores.len() as f64 - 1.0;
    }
    let (better, equal) = count(scores, own);
    f64::from(better) + 0.5 * f64::from(equal - 1)
}

/// The rank among all items but those of the history; the target stays even where it is one of them. `scores` is
/// `[V]`.
pub fn rank_full_unseen(scores: &[f32], target: u32, history: &[u32]) -> f64 {
    let own = scores[target as usize];
    let mut seen: Vec<u32> = history.iter().copied().filter(|item| *item != target).collect();
    seen.sort_unstable();
    seen.dedup();
    if own.is_nan() {
        return (scores.len() - seen.len()) as f64 - 1.0;
    }
    let (better, equal) = count(scores, own);
    let better_seen = seen.iter().filter(|item| scores[**item as usize] > own).count();
    let equal_seen = seen.iter().filter(|item| scores[**item as usize] == own).count();
    f64::from(better) - better_seen as f64 + 0.5 * (f64::from(equal - 1) - equal_seen as f64)
}

/// How many scores are higher than a value, and how many equal.
fn count(scores: &[f32], value: f32) -> (u32, u32) {
    let mut counts = (0, 0);
    for score in scores {
        counts.0 += u32::from(*score > value);
        counts.1 += u32::from(*score == value);
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn by_hand() {
        let scores = [0.5, 0.9, 0.5, 0.1, 0.5];
        assert_eq!(rank_full(&scores, 1), 0.0);
        assert_eq!(rank_full(&scores, 3), 4.0);
        // One better, two equal: the middle of places 1, 2 and 3.
        assert_eq!(rank_full(&scores, 0), 2.0);
        assert_eq!(rank_sampled(&scores, 0, &[1, 1, 2, 3]), 2.5);
        assert_eq!(rank_full_unseen(&scores, 0, &[1, 2, 2, 0]), 0.5);
        assert_eq!(rank_full(&[1.0; 5], 2), 2.0);
        assert_eq!(rank_full(&[f32::NAN, 0.0, 0.0], 0), 2.0);
    }

    proptest! {
        #[test]
        fn order_does_not_matter_and_a_better_score_never_hurts(
            scores in proptest::collection::vec((-3i8..4).prop_map(f32::from), 8),
            negatives in proptest::collection::vec(1u32..8, 1..20),
            raise in 0.0f32..3.0,
        ) {
            let rank = rank_sampled(&scores, 0, &negatives);
            let mut reversed = negatives.clone();
            reversed.reverse();
            prop_assert_eq!(rank, rank_sampled(&scores, 0, &reversed));
            prop_assert!(rank >= 0.0 && rank <= negatives.len() as f64);
            let mut raised = scores.clone();
            raised[0] += raise;
            prop_assert!(rank_sampled(&raised, 0, &negatives) <= rank);
            prop_assert_eq!(rank_full(&scores, 0), rank_sampled(&scores, 0, &[1, 2, 3, 4, 5, 6, 7]));
            prop_assert_eq!(rank_full_unseen(&scores, 0, &[0, 2, 5]), rank_sampled(&scores, 0, &[1, 3, 4, 6, 7]));
        }
    }
}
