//! Which rows count as noise: those that every peer finds among its hardest (HAIL eq 8, PeerRec eq 7).

/// The rule by which rows are taken for noise.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Truncation {
    /// Share of the rows, in [0, 1].
    pub beta: f64,
    /// What rank the largest cross-entropy has.
    pub rank_base: RankBase,
    /// What `beta` is a share of.
    pub rank_over: RankOver,
}

/// What rank the largest cross-entropy has; a row qualifies where its rank is below `beta · n`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RankBase {
    /// 0: `ceil(beta n)` rows of a peer qualify.
    Zero,
    /// 1, as in HAIL's released code: `ceil(beta n) - 1` do.
    One,
}

/// What `beta` is a share of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RankOver {
    /// The rows.
    Rows,
    /// So many slots of the batch, padding included. Padding has no loss and so is never among the hardest.
    Slots(usize),
}

/// The rows that every peer finds among its hardest, `[R]`, from the cross-entropies of all peers, `[T, R]`. Of equal
/// values the lower row counts as the larger. A value that is not a number counts as the largest.
pub fn truncated_rows(cross_entropies: &[f32], rows: usize, truncation: &Truncation) -> Vec<bool> {
    let count = qualifying(rows, truncation);
    if rows == 0 || count == 0 {
        return vec![false; rows];
    }
    let mut truncated = vec![true; rows];
    let mut order: Vec<usize> = Vec::with_capacity(rows);
    for peer in cross_entropies.chunks_exact(rows) {
        order.clear();
        order.extend(0..rows);
        order.sort_by(|a, b| peer[*b].total_cmp(&peer[*a]).then(a.cmp(b)));
        for row in &order[count..] {
            truncated[*row] = false;
        }
    }
    truncated
}

/// How many rows of one peer qualify.
fn qualifying(rows: usize, truncation: &Truncation) -> usize {
    let base = match truncation.rank_over {
        RankOver::Rows => rows,
        RankOver::Slots(slots) => slots,
    };
    let threshold = truncation.beta * base as f64;
    let ranks_below = threshold.ceil().max(0.0) as usize;
    let first = match truncation.rank_base {
        RankBase::Zero => 0,
        RankBase::One => 1,
    };
    ranks_below.saturating_sub(first).min(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(beta: f64, rank_base: RankBase) -> Truncation {
        Truncation { beta, rank_base, rank_over: RankOver::Rows }
    }

    #[test]
    fn only_what_all_peers_find_hardest_is_noise() {
        // Peer 0 finds rows 0 and 1 hardest, peer 1 rows 1 and 2.
        let entropies = [9.0, 8.0, 1.0, 0.0, 1.0, 8.0, 9.0, 0.0];
        let truncated = truncated_rows(&entropies, 4, &rule(0.5, RankBase::Zero));
        assert_eq!(truncated, [false, true, false, false]);
    }

    #[test]
    fn the_rank_base_is_worth_one_row() {
        let entropies = [3.0, 2.0, 1.0, 0.0];
        assert_eq!(truncated_rows(&entropies, 4, &rule(0.5, RankBase::Zero)), [true, true, false, false]);
        assert_eq!(truncated_rows(&entropies, 4, &rule(0.5, RankBase::One)), [true, false, false, false]);
        assert_eq!(truncated_rows(&[3.0], 1, &rule(0.9, RankBase::One)), [false]);
    }

    #[test]
    fn ties_go_to_the_lower_row_and_slots_count_padding() {
        assert_eq!(truncated_rows(&[1.0; 4], 4, &rule(0.3, RankBase::Zero)), [true, true, false, false]);
        let over_slots = Truncation { beta: 0.1, rank_base: RankBase::Zero, rank_over: RankOver::Slots(30) };
        assert_eq!(truncated_rows(&[1.0, 2.0, 3.0, 4.0], 4, &over_slots), [false, true, true, true]);
    }
}
