//! Filters on users and items, applied in this order: k-core until nothing changes, then minimum length.

use super::interactions::Grouped;

/// What the filters took out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Removed {
    /// Users removed by the k-core filter.
    pub users_by_k_core: usize,
    /// Users removed because they are shorter than the minimum.
    pub users_by_length: usize,
    /// Items without an interaction afterwards.
    pub items: usize,
}

/// Removes users and items with fewer than `k_core` interactions until none is left, then users with fewer than
/// `min_length`. Users and items that stay keep their order. An item that `min_length` leaves with fewer than
/// `k_core` interactions stays.
pub fn apply(data: &mut Grouped, k_core: usize, min_length: usize) -> Removed {
    let users = data.sequences.len();
    let items = data.item_names.len();
    keep_k_core(data, k_core);
    let after_k_core = data.sequences.len();
    keep_users(data, min_length.max(1));
    let after_length = data.sequences.len();
    renumber_items(data);
    Removed {
        users_by_k_core: users - after_k_core,
        users_by_length: after_k_core - after_length,
        items: items - data.item_names.len(),
    }
}

fn keep_k_core(data: &mut Grouped, k: usize) {
    if k == 0 {
        return;
    }
    loop {
        let counts = item_counts(data);
        let before: usize = data.sequences.iter().map(Vec::len).sum();
        for sequence in &mut data.sequences {
            sequence.retain(|&item| counts[item as usize] >= k);
        }
        keep_users(data, k);
        let after: usize = data.sequences.iter().map(Vec::len).sum();
        if after == before {
            return;
        }
    }
}

fn keep_users(data: &mut Grouped, least: usize) {
    let keep: Vec<bool> = data.sequences.iter().map(|s| s.len() >= least).collect();
    retain(&mut data.sequences, &keep);
    retain(&mut data.user_names, &keep);
    retain(&mut data.first_lines, &keep);
}

fn renumber_items(data: &mut Grouped) {
    let keep: Vec<bool> = item_counts(data).into_iter().map(|n| n > 0).collect();
    let mut next = 0;
    let numbers: Vec<u32> = keep
        .iter()
        .map(|&kept| {
            let number = next;
            next += u32::from(kept);
            number
        })
        .collect();
    retain(&mut data.item_names, &keep);
    for item in data.sequences.iter_mut().flatten() {
        *item = numbers[*item as usize];
    }
}

fn item_counts(data: &Grouped) -> Vec<usize> {
    let mut counts = vec![0; data.item_names.len()];
    for &item in data.sequences.iter().flatten() {
        counts[item as usize] += 1;
    }
    counts
}

fn retain<T>(values: &mut Vec<T>, keep: &[bool]) {
    let mut kept = keep.iter();
    values.retain(|_| kept.next().copied().unwrap_or(false));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grouped(sequences: &[&[u32]], items: u32) -> Grouped {
        Grouped {
            user_names: (0..sequences.len()).map(|u| format!("u{u}")).collect(),
            item_names: (0..items).map(|i| format!("i{i}")).collect(),
            sequences: sequences.iter().map(|s| s.to_vec()).collect(),
            first_lines: (1..=sequences.len() as u64).collect(),
            rated_lower: 0,
        }
    }

    #[test]
    fn k_core_is_iterated_to_a_fixed_point() {
        // Item 4 is rare; without it user 3 is short; without user 3 item 3 is rare; without it user 2 is short.
        let mut data = grouped(&[&[0, 1], &[1, 0, 2], &[2, 3], &[3, 4]], 5);
        let removed = apply(&mut data, 2, 1);
        assert_eq!(data.sequences, [vec![0, 1], vec![1, 0]]);
        assert_eq!(data.item_names, ["i0", "i1"]);
        assert_eq!(data.user_names, ["u0", "u1"]);
        assert_eq!(removed.users_by_k_core, 2);
        assert_eq!(removed.items, 3);
    }

    #[test]
    fn short_users_leave_after_the_core_and_their_items_with_them() {
        let mut data = grouped(&[&[1, 0, 1], &[2, 3], &[1, 3, 1]], 4);
        let removed = apply(&mut data, 0, 3);
        assert_eq!(data.item_names, ["i0", "i1", "i3"]);
        assert_eq!(data.sequences, [vec![1, 0, 1], vec![1, 2, 1]]);
        assert_eq!(removed, Removed { users_by_k_core: 0, users_by_length: 1, items: 1 });
    }

    #[test]
    fn without_filters_nothing_changes() {
        let mut data = grouped(&[&[1, 0, 1], &[2]], 3);
        assert_eq!(apply(&mut data, 0, 1), Removed::default());
        assert_eq!(data.sequences, [vec![1, 0, 1], vec![2]]);
    }
}
