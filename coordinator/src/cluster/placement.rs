//! Which peers a worker hosts.

/// Peers `0..peers` over `workers` ranks in contiguous blocks, as even as possible: the first `peers mod workers`
/// ranks host one peer more than the others. Every rank hosts at least one peer where `workers <= peers`.
pub fn placement(peers: u32, workers: u32) -> Vec<Vec<u32>> {
    let workers_or_one = workers.max(1);
    let (share, more) = (peers / workers_or_one, peers % workers_or_one);
    let mut next = 0;
    (0..workers)
        .map(|rank| {
            let first = next;
            next += share + u32::from(rank < more);
            (first..next).collect()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use proptest::prelude::*;

    #[test]
    fn blocks_are_contiguous_and_even() {
        assert_eq!(placement(4, 4), [vec![0], vec![1], vec![2], vec![3]]);
        assert_eq!(placement(5, 2), [vec![0, 1, 2], vec![3, 4]]);
        assert_eq!(placement(7, 3), [vec![0, 1, 2], vec![3, 4], vec![5, 6]]);
        assert_eq!(placement(3, 1), [vec![0, 1, 2]]);
    }

    proptest! {
        #[test]
        fn every_peer_has_one_place(peers in 1u32..200, workers in 1u32..50) {
            let workers = workers.min(peers);
            let placed = placement(peers, workers);
            prop_assert_eq!(placed.len(), workers as usize);
            prop_assert_eq!(placed.concat(), (0..peers).collect::<Vec<_>>());
            let sizes = placed.iter().map(Vec::len);
            prop_assert!(sizes.clone().max().unwrap() - sizes.min().unwrap() <= 1);
        }
    }
}
