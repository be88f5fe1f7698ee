//! Which rows are taken for noise: those among the largest cross-entropies of *every* peer (HAIL eq 8, PeerRec eq 7).

/// How a share β of the rows becomes a set of rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Truncation {
    /// The share β; 0 truncates nothing.
    pub beta: f64,
    /// How ranks are counted.
    pub rule: RankRule,
}

/// How a peer's rows are ranked. Of equal cross-entropies the lower row index counts as the larger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RankRule {
    /// The row qualifies when its rank, descending, is below β n, a product of doubles.
    Descending {
        /// The rank of the largest: 0 (ceil(β n) rows qualify) or 1 (one less).
        base: RankBase,
        /// What n counts.
        over: RankOver,
    },
    /// HAIL's released program: the row qualifies when its 0-based ascending position among all slots exceeds
    /// `int(float32(slots) * float32(1 - β))`, slots of padding having loss 0. But for the rounding to single
    /// precision it is `Descending` with base 1 over slots.
    Released,
}

/// The rank of the largest cross-entropy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RankBase {
    /// Ranks count from 0.
    Zero,
    /// Ranks count from 1.
    One,
}

/// What β is a share of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RankOver {
    /// The real rows.
    Rows,
    /// All slots of the batch, padding included.
    Slots,
}

impl Truncation {
    /// How many of a peer's largest rows qualify, at most all of them.
    ///
    /// `rows` real rows; `slots` rows with the padding, of which there is at least one for every row.
    pub fn qualifying_rows(&self, rows: usize, slots: usize) -> usize {
        if self.beta <= 0.0 {
            return 0;
        }
        let qualifying = match self.rule {
            RankRule::Descending { base, over } => {
                let n = match over {
                    RankOver::Rows => rows,
                    RankOver::Slots => slots,
                };
                // The number of ranks r = base, base + 1, ... with r < threshold. A float-to-integer cast saturates.
                let threshold = self.beta * n as f64;
                let below = threshold.ceil() as usize;
                match base {
                    RankBase::Zero => below,
                    RankBase::One => below.saturating_sub(1),
                }
            }
            RankRule::Released => {
                let kept = (slots as f32 * (1.0 - self.beta) as f32) as usize;
                slots.saturating_sub(kept + 1)
            }
        };
        qualifying.min(rows)
    }
}

/// Marks the rows that are truncated: those that qualify for every peer.
///
/// `cross_entropies`: one slice a peer, each `[rows]`, `-log p_*` in any order of rows that all peers share.
/// `weights`: `[rows]`, 0 for padding, or `None` when all are real; padding never qualifies.
/// `slots`: the size of the batch with padding, for [`RankOver::Slots`] and [`RankRule::Released`]. It is a number of its
/// own because a caller that computes real rows only still knows how many slots they came from.
///
/// A single peer has no noise to agree on with others: nothing is truncated then, as its loss is plain cross-entropy.
/// O(T R): a selection a peer, not a sort. NaN counts as the largest loss. Panics when slices differ in length.
pub fn truncated_rows(
    cross_entropies: &[&[f64]],
    weights: Option<&[f32]>,
    slots: usize,
    truncation: &Truncation,
) -> Vec<bool> {
    let peers = cross_entropies.len();
    if peers < 2 {
        return vec![false; cross_entropies.first().map_or(0, |peer| peer.len())];
    }
    let counts = count_hardest(cross_entropies, weights, slots, truncation);
    counts.into_iter().map(|count| count as usize == peers).collect()
}

/// For how many of some peers of a cohort each row qualifies. Counts of a cohort's peers, which may be taken in different
/// places, add up: a row is truncated where the sum is T. Arguments, order and cost are those of [`truncated_rows`].
pub fn count_hardest(
    cross_entropies: &[&[f64]],
    weights: Option<&[f32]>,
    slots: usize,
    truncation: &Truncation,
) -> Vec<u32> {
    let rows = cross_entropies.first().map_or(0, |peer| peer.len());
    if let Some(weights) = weights {
        assert_eq!(weights.len(), rows, "one weight a row");
    }
    let mut real: Vec<usize> = (0..rows).filter(|&row| weights.is_none_or(|weights| weights[row] != 0.0)).collect();
    let qualifying = truncation.qualifying_rows(real.len(), slots.max(rows));
    let mut counts = vec![0; rows];
    if qualifying > 0 {
        for peer in cross_entropies {
            assert_eq!(peer.len(), rows, "one cross-entropy a row and peer");
            let descending = |a: &usize, b: &usize| compare_losses(peer[*b], peer[*a]).then(a.cmp(b));
            if qualifying < real.len() {
                real.select_nth_unstable_by(qualifying, descending);
            }
            for &row in &real[..qualifying] {
                counts[row] += 1;
            }
        }
    }
    counts
}

/// Total order in which 0 equals -0, as the tie rule wants, and NaN is largest.
fn compare_losses(a: f64, b: f64) -> std::cmp::Ordering {
    a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descending(beta: f64, base: RankBase, over: RankOver) -> Truncation {
        Truncation { beta, rule: RankRule::Descending { base, over } }
    }

    #[test]
    fn the_count_follows_the_rank_base_and_what_it_is_a_share_of() {
        use RankBase::{One, Zero};
        use RankOver::{Rows, Slots};
        assert_eq!(descending(0.25, Zero, Rows).qualifying_rows(5, 10), 2);
        assert_eq!(descending(0.25, One, Rows).qualifying_rows(5, 10), 1);
        assert_eq!(descending(0.25, Zero, Slots).qualifying_rows(5, 10), 3);
        assert_eq!(descending(0.25, One, Slots).qualifying_rows(5, 8), 1);
        assert_eq!(descending(1.0, Zero, Rows).qualifying_rows(5, 5), 5);
        assert_eq!(descending(1.0, One, Rows).qualifying_rows(5, 5), 4);
        assert_eq!(descending(0.02, One, Rows).qualifying_rows(1, 1), 0);
        assert_eq!(descending(0.0, Zero, Slots).qualifying_rows(5, 5), 0);
    }

    #[test]
    fn the_released_rule_rounds_in_single_precision() {
        let released = |beta| Truncation { beta, rule: RankRule::Released };
        // 256 rows of 40 slots at β = 0.02: int(10240 * 0.98) = 10035.
        assert_eq!(released(0.02).qualifying_rows(400, 10_240), 204);
        let one = descending(0.02, RankBase::One, RankOver::Slots);
        assert_eq!(one.qualifying_rows(400, 10_240), 204);
        // float32(0.9) is below 0.9, yet the product with 10 rounds to 9; the double product 0.1 * 10 is 1.
        assert_eq!(released(0.1).qualifying_rows(10, 10), 0);
        // 0.3 * 10 is 3 in double and 2 rows have ranks 1, 2; float32(0.7) * 10 rounds to 7: positions 8, 9.
        assert_eq!(released(0.3).qualifying_rows(10, 10), 2);
        // A share that differs: 0.07 * 100 is 7.000000000000001 in double.
        assert_eq!(descending(0.07, RankBase::One, RankOver::Slots).qualifying_rows(100, 100), 7);
        assert_eq!(released(0.07).qualifying_rows(100, 100), 6);
        assert_eq!(released(0.0).qualifying_rows(100, 100), 0);
    }

    #[test]
    fn a_row_goes_only_when_every_peer_finds_it_hard() {
        let (a, b) = ([5.0, 4.0, 3.0, 0.1], [5.0, 0.1, 4.0, 3.0]);
        let two = descending(0.5, RankBase::Zero, RankOver::Rows);
        assert_eq!(truncated_rows(&[&a, &b], None, 4, &two), [true, false, false, false]);
        assert_eq!(truncated_rows(&[&a, &a], None, 4, &two), [true, true, false, false]);
        assert_eq!(truncated_rows(&[&a], None, 4, &two), [false; 4]);
    }

    #[test]
    fn of_equal_rows_the_first_is_the_larger_and_padding_never_counts() {
        let losses = [1.0, 2.0, 2.0, 2.0, 9.0];
        let weights = [1.0, 1.0, 1.0, 1.0, 0.0];
        let half = descending(0.5, RankBase::Zero, RankOver::Rows);
        assert_eq!(truncated_rows(&[&losses, &losses], Some(&weights), 5, &half), [false, true, true, false, false]);
        let all = descending(1.0, RankBase::Zero, RankOver::Slots);
        assert_eq!(truncated_rows(&[&losses, &losses], Some(&weights), 40, &all), [true, true, true, true, false]);
        assert!(truncated_rows(&[&[], &[]], None, 0, &all).is_empty());
    }
}
