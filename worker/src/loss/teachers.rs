//! Who teaches whom on a row.

use crate::simd::lanes::{LaneSum, Lanes, load, sweep};

/// The minimum groups of PeerRec (eq 6) of one row: for every peer the *other* peer to which the target is least
/// likely, of equal ones the lower index; `None` for a peer that has no other.
///
/// `cross_entropies`: `-log p_*` of each peer on the row.
pub fn minimum_groups(cross_entropies: &[f64]) -> Vec<Option<usize>> {
    let (hardest, second) = two_hardest(cross_entropies);
    let has_others = cross_entropies.len() > 1;
    (0..cross_entropies.len())
        .map(|peer| has_others.then_some(if peer == hardest { second } else { hardest }))
        .collect()
}

/// The peers of the largest and the second largest difficulty, of equal ones the lower index first.
pub(super) fn two_hardest(difficulty: &[f64]) -> (usize, usize) {
    let (mut first, mut second) = (0, usize::from(difficulty.len() > 1));
    for peer in 1..difficulty.len() {
        if difficulty[peer] > difficulty[first] {
            (first, second) = (peer, first);
        } else if peer != second && difficulty[peer] > difficulty[second] {
            second = peer;
        }
    }
    (first, second)
}

/// 1 - p_* of a row of probabilities; where p_* is large it is the sum of the others, which keeps its digits.
#[inline(always)]
pub(super) fn one_minus_target<L: Lanes>(probabilities: &[f32], target: usize) -> f64 {
    let p = probabilities[target];
    if p <= 0.5 {
        return 1.0 - f64::from(p);
    }
    let (before, after) = (&probabilities[..target], &probabilities[target + 1..]);
    sum::<L>(before) + sum::<L>(after)
}

#[inline(always)]
fn sum<L: Lanes>(row: &[f32]) -> f64 {
    let mut sum = LaneSum::<L>::new();
    sweep!(L, row.len(), |at, FULL| {
        sum.add(load::<L, FULL>(row, at, 0.0));
    });
    sum.total()
}

#[cfg(test)]
mod tests {
    use super::minimum_groups;

    #[test]
    fn the_group_is_the_peer_to_which_the_target_is_least_likely() {
        assert_eq!(minimum_groups(&[1.0, 3.0, 2.0]), [Some(1), Some(2), Some(1)]);
        assert_eq!(minimum_groups(&[2.0, 2.0, 2.0]), [Some(1), Some(0), Some(0)]);
        assert_eq!(minimum_groups(&[1.0, 2.0, 2.0, 3.0]), [Some(3), Some(3), Some(3), Some(1)]);
        assert_eq!(minimum_groups(&[3.0, 1.0]), [Some(1), Some(0)]);
        assert_eq!(minimum_groups(&[3.0]), [None]);
    }
}
