//! Which peers live on which rank, and which rows each rank answers for.

use crate::collective::shard;
use std::ops::Range;

/// The peers of each rank, which rank is this worker's, and who keeps copies of whose peers.
///
/// Peers have ids, which need not be `0..T`: a cohort may go on without one. Ids in ascending order have positions
/// `0..T`, and the exchange works with those; what belongs to a peer for good (its draw from the seed, its files, its
/// losses in reports) goes by id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    ranks: Vec<Vec<u32>>,
    /// By rank: the positions of its peers.
    positions: Vec<Vec<usize>>,
    ids: Vec<u32>,
    buddies: Vec<usize>,
    rank: usize,
}

impl Placement {
    /// A placement in which the next rank keeps the copies of each one's peers.
    ///
    /// # Errors
    /// As [`Placement::with_buddies`].
    pub fn new(ranks: Vec<Vec<u32>>, rank: usize) -> Result<Self, String> {
        let workers = ranks.len().max(1);
        let buddies = (0..ranks.len()).map(|rank| (rank + 1) % workers).collect();
        Self::with_buddies(ranks, buddies, rank)
    }

    /// A placement; `buddies[r]` is the rank that keeps copies of rank r's peers, r itself where there are none.
    ///
    /// # Errors
    /// One line when a peer is placed twice, a rank hosts none, or a rank does not exist.
    pub fn with_buddies(ranks: Vec<Vec<u32>>, buddies: Vec<usize>, rank: usize) -> Result<Self, String> {
        let mut ids: Vec<u32> = ranks.iter().flatten().copied().collect();
        ids.sort_unstable();
        if ids.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(format!("the placement {ranks:?} puts a peer on two ranks"));
        }
        if ranks.iter().any(Vec::is_empty) {
            return Err(format!("the placement {ranks:?} leaves a rank without a peer"));
        }
        if rank >= ranks.len() {
            return Err(format!("the placement {ranks:?} has no rank {rank}"));
        }
        if buddies.len() != ranks.len() || buddies.iter().any(|buddy| *buddy >= ranks.len()) {
            return Err(format!("the buddies {buddies:?} are not one existing rank for each of {} ranks", ranks.len()));
        }
        let position = |id: &u32| ids.binary_search(id).expect("every placed peer is among the ids");
        let positions = ranks.iter().map(|peers| peers.iter().map(position).collect()).collect();
        Ok(Self { ranks, positions, ids, buddies, rank })
    }

    /// T.
    pub fn peers(&self) -> usize {
        self.ids.len()
    }

    /// The ids of all peers, ascending: by position.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Where a peer stands among all; nothing for one that takes no part.
    pub fn position(&self, peer: u32) -> Option<usize> {
        self.ids.binary_search(&peer).ok()
    }

    /// The positions of the peers hosted here.
    pub fn own_positions(&self) -> &[usize] {
        &self.positions[self.rank]
    }

    /// The positions of a rank's peers.
    pub fn positions_of(&self, rank: usize) -> &[usize] {
        &self.positions[rank]
    }

    /// The rank that hosts a peer.
    pub fn host(&self, peer: u32) -> Option<usize> {
        self.ranks.iter().position(|peers| peers.contains(&peer))
    }

    /// The rank that keeps copies of a rank's peers, if any does.
    pub fn buddy(&self, rank: usize) -> Option<usize> {
        Some(self.buddies[rank]).filter(|buddy| *buddy != rank)
    }

    /// The ranks whose peers a rank keeps copies of, ascending.
    pub fn wards(&self, rank: usize) -> impl Iterator<Item = usize> + '_ {
        (0..self.ranks.len()).filter(move |ward| self.buddy(*ward) == Some(rank))
    }

    /// Workers.
    pub fn world_size(&self) -> usize {
        self.ranks.len()
    }

    /// This worker's rank.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// The peers hosted here.
    pub fn own(&self) -> &[u32] {
        &self.ranks[self.rank]
    }

    /// The peers of a rank.
    pub fn peers_of(&self, rank: usize) -> &[u32] {
        &self.ranks[rank]
    }

    /// The peers whose losses a rank reports: those that it hosts, and those of its wards, whose own reports may be lost
    /// with them.
    pub fn reported(&self, rank: usize) -> Vec<u32> {
        let of_wards = self.wards(rank).flat_map(|ward| self.peers_of(ward));
        self.peers_of(rank).iter().chain(of_wards).copied().collect()
    }

    /// How many peers each rank hosts, in the order of ranks.
    pub fn hosted(&self) -> impl Iterator<Item = usize> + '_ {
        self.ranks.iter().map(Vec::len)
    }

    /// The rows of a batch for which a rank answers.
    pub fn shard(&self, rows: usize, rank: usize) -> Range<usize> {
        shard(rows, self.ranks.len(), rank)
    }

    /// A receive buffer for each rank: `per_peer(rank)` floats for every peer it hosts.
    pub fn buffers(&self, per_peer: impl Fn(usize) -> usize) -> Vec<Vec<f32>> {
        self.ranks.iter().enumerate().map(|(rank, peers)| vec![0.0; peers.len() * per_peer(rank)]).collect()
    }

    /// Puts what each rank sent for its peers, `per_peer` floats a peer, into the order of positions: `[T * per_peer]`.
    pub fn by_peer(&self, received: &[Vec<f32>], per_peer: usize) -> Vec<f32> {
        let mut result = vec![0.0; self.peers() * per_peer];
        for (positions, values) in self.positions.iter().zip(received) {
            for (place, position) in positions.iter().enumerate() {
                let target = position * per_peer;
                result[target..target + per_peer].copy_from_slice(&values[place * per_peer..(place + 1) * per_peer]);
            }
        }
        result
    }

    /// The opposite of [`Placement::by_peer`]: what goes back to each rank.
    pub fn by_rank(&self, values: &[f32], per_peer: usize) -> Vec<Vec<f32>> {
        self.positions
            .iter()
            .map(|positions| {
                let part = |position: &usize| &values[position * per_peer..(position + 1) * per_peer];
                positions.iter().flat_map(part).copied().collect()
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn peers_come_home_in_any_placement() {
        let placement = Placement::new(vec![vec![2, 0], vec![3, 1, 4]], 0).unwrap();
        let values: Vec<f32> = (0..10).map(|v| v as f32).collect();
        let by_rank = placement.by_rank(&values, 2);
        assert_eq!(by_rank[0], [4.0, 5.0, 0.0, 1.0]);
        assert_eq!(placement.by_peer(&by_rank, 2), values);
    }

    #[test]
    fn ids_with_gaps_have_positions_without() {
        let placement = Placement::new(vec![vec![5], vec![2, 0]], 1).unwrap();
        assert_eq!((placement.ids(), placement.peers()), (&[0, 2, 5][..], 3));
        assert_eq!((placement.own(), placement.own_positions()), (&[2, 0][..], &[1, 0][..]));
        assert_eq!((placement.position(5), placement.position(1), placement.host(5)), (Some(2), None, Some(0)));
        let values = [0.0, 0.5, 2.0, 2.5, 5.0, 5.5];
        let by_rank = placement.by_rank(&values, 2);
        assert_eq!(by_rank, [vec![5.0, 5.5], vec![2.0, 2.5, 0.0, 0.5]]);
        assert_eq!(placement.by_peer(&by_rank, 2), values);
    }

    #[test]
    fn buddies_are_the_next_rank_unless_said_otherwise() {
        let ranks = || vec![vec![0], vec![1], vec![2]];
        let ring = Placement::new(ranks(), 0).unwrap();
        assert_eq!((0..3).map(|rank| ring.buddy(rank)).collect::<Vec<_>>(), [Some(1), Some(2), Some(0)]);
        let star = Placement::with_buddies(ranks(), vec![1, 1, 1], 1).unwrap();
        assert_eq!((star.buddy(1), star.wards(1).collect::<Vec<_>>()), (None, vec![0, 2]));
        assert_eq!(Placement::new(vec![vec![0, 1]], 0).unwrap().buddy(0), None);
    }

    #[test]
    fn what_is_no_placement_is_refused() {
        for ranks in [vec![vec![0], vec![0]], vec![vec![3, 1, 3]], vec![vec![0], vec![]]] {
            assert!(Placement::new(ranks, 0).is_err());
        }
        assert!(Placement::new(vec![vec![0]], 1).is_err());
        assert!(Placement::new(Vec::new(), 0).is_err());
        for buddies in [vec![0], vec![0, 2]] {
            assert!(Placement::with_buddies(vec![vec![0], vec![1]], buddies, 0).is_err());
        }
    }
}
