//! Which peers live on which rank, and which rows each rank answers for.

use crate::collective::shard;
use std::ops::Range;

/// The peers of each rank, and which rank is this worker's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    ranks: Vec<Vec<u32>>,
    rank: usize,
    peers: usize,
}

impl Placement {
    /// A placement in which every peer of `0..T` lives on exactly one rank.
    ///
    /// # Errors
    /// One line when a peer is missing or placed twice.
    pub fn new(ranks: Vec<Vec<u32>>, rank: usize) -> Result<Self, String> {
        let mut all: Vec<u32> = ranks.iter().flatten().copied().collect();
        all.sort_unstable();
        let peers = all.len();
        if rank >= ranks.len() || all.iter().enumerate().any(|(place, peer)| *peer as usize != place) {
            return Err(format!("the placement {ranks:?} does not put every peer on exactly one rank"));
        }
        Ok(Self { ranks, rank, peers })
    }

    /// T.
    pub fn peers(&self) -> usize {
        self.peers
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

    /// Puts what each rank sent for its peers, `per_peer` floats a peer, into the order of peers: `[T * per_peer]`.
    pub fn by_peer(&self, received: &[Vec<f32>], per_peer: usize) -> Vec<f32> {
        let mut result = vec![0.0; self.peers * per_peer];
        for (peers, values) in self.ranks.iter().zip(received) {
            for (place, peer) in peers.iter().enumerate() {
                let target = *peer as usize * per_peer;
                result[target..target + per_peer].copy_from_slice(&values[place * per_peer..(place + 1) * per_peer]);
            }
        }
        result
    }

    /// The opposite of [`Placement::by_peer`]: what goes back to each rank.
    pub fn by_rank(&self, values: &[f32], per_peer: usize) -> Vec<Vec<f32>> {
        self.ranks
            .iter()
            .map(|peers| {
                let part = |peer: &u32| &values[*peer as usize * per_peer..(*peer as usize + 1) * per_peer];
                peers.iter().flat_map(part).copied().collect()
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
    fn a_lost_or_doubled_peer_is_refused() {
        assert!(Placement::new(vec![vec![0], vec![2]], 0).is_err());
        assert!(Placement::new(vec![vec![0], vec![0]], 0).is_err());
        assert!(Placement::new(vec![vec![0]], 1).is_err());
    }
}
