//! Where training stands when a generation has ended, and from where the next one takes its state.

use super::cohort::NewPeer;
use super::messages::{Slot, Suspended};
use medley_common::manifest::TrainingState;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Where a state comes from. Ranks are those of the generation that begins.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// Drawn from the seed.
    Fresh,
    /// A committed checkpoint, relative to the run directory.
    Checkpoint(String),
    /// A worker holds it, as its host or as a copy.
    Rank(u32),
    /// Another peer's state, which a worker holds, with noise.
    CopyOf {
        /// The other peer.
        peer: u32,
        /// Who holds it.
        rank: u32,
        /// As in [`NewPeer::CopyOf`].
        noise: f64,
    },
}

/// How a generation begins.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Start {
    /// Steps committed before it.
    pub step: u64,
    /// The shared parameters.
    pub shared: Origin,
    /// The private state of every peer.
    pub peers: BTreeMap<u32, Origin>,
    /// `TrainingState` at `step` as JSON; empty where a checkpoint or nothing says it.
    pub state: String,
}

/// What the survivors of a generation hold together.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Standing {
    /// The last step that was committed.
    pub step: u64,
    /// Who holds the shared parameters at that step.
    pub shared: Vec<Slot>,
    /// Who holds a peer at that step, its host first.
    pub peers: BTreeMap<u32, Vec<Slot>>,
    /// Who holds a peer as it was when it left: one that took no part, or that was about to come back.
    pub parked: BTreeMap<u32, Vec<Slot>>,
    /// `TrainingState` at that step, as JSON.
    pub state: String,
    /// Whose reports of that step are still to come, as they commit it on entering the next generation.
    pub rolls_forward: Vec<Slot>,
}

impl Standing {
    /// Puts the survivors' reports together; `None` where nobody holds the shared parameters.
    ///
    /// A worker commits a step once all have acknowledged that they hold everything it takes. So if one survivor has
    /// committed a step, all others are prepared for it, and it counts; if one is not prepared, nobody has. A worker
    /// that is neither at that step nor prepared for it, which no order of failures can bring about, counts for
    /// nothing.
    pub fn of(survivors: &BTreeMap<Slot, Suspended>, active: &[u32]) -> Option<Self> {
        let with_state = || survivors.iter().filter(|(_, held)| !held.state.is_empty());
        let step = with_state().map(|(_, held)| held.step).max()?;
        let is_at = |held: &Suspended| held.step == step;
        let follows = |held: &Suspended| held.step.checked_add(1) == Some(step) && held.is_prepared;
        let mut standing = Self { step, ..Self::default() };
        let mut newest = None;
        for (slot, held) in with_state().filter(|(_, held)| is_at(held) || follows(held)) {
            standing.shared.push(*slot);
            if follows(held) {
                standing.rolls_forward.push(*slot);
            } else {
                // Of those at the step, who has validated it knows more than who has not.
                let state: TrainingState = serde_json::from_str(&held.state).unwrap_or_default();
                if newest.is_none_or(|newest| state.validated_step > newest) {
                    newest = Some(state.validated_step);
                    standing.state.clone_from(&held.state);
                }
            }
            for peer in &held.peers {
                standing.peers.entry(*peer).or_default().insert(0, *slot);
            }
            // A copy that is newer than the step is of steps that were undone.
            for (peer, taken) in held.replicas.iter().filter(|(_, taken)| *taken <= held.step) {
                let holders = match active.contains(peer) && *taken == held.step {
                    true => &mut standing.peers,
                    false => &mut standing.parked,
                };
                holders.entry(*peer).or_default().push(*slot);
            }
        }
        Some(standing)
    }
}

/// Where the peers of the next generation come from, when those of the last are held by its members.
pub struct Sources<'a> {
    /// What the survivors hold.
    pub standing: &'a Standing,
    /// The rank of a worker in the next generation.
    pub rank_of: &'a dyn Fn(Slot) -> Option<u32>,
    /// Peers that left, and the checkpoint that holds them.
    pub parked: &'a BTreeMap<u32, String>,
    /// What others start from.
    pub new_peers: NewPeer,
    /// Where the peers came from that have taken no step since: one that nobody has taken over yet, or that was lost with all
    /// who had, can come from there again.
    pub came: Option<&'a BTreeMap<u32, Origin>>,
}

impl Sources<'_> {
    /// The beginning of the next generation with these peers; `None` where no member holds the shared parameters.
    pub fn start(&self, peers: impl Iterator<Item = u32>) -> Option<Start> {
        let shared = Origin::Rank(self.first(&self.standing.shared)?);
        let peers = peers.map(|peer| (peer, self.of(peer))).collect();
        Some(Start { step: self.standing.step, shared, peers, state: self.standing.state.clone() })
    }

    /// Whether the present state of a peer is to be had.
    pub fn has(&self, peer: u32) -> bool {
        self.held(&self.standing.peers, peer).is_some() || self.again(peer).is_some()
    }

    /// Who must be members for that, where the state of all these peers is to be had.
    pub fn holders(&self, peers: impl Iterator<Item = u32>) -> BTreeSet<Slot> {
        let first = |holders: &Vec<Slot>| holders.first().copied();
        let Standing { peers: present, parked, .. } = self.standing;
        let held = |peer| present.get(&peer).or_else(|| parked.get(&peer)).and_then(first);
        let mut holders: BTreeSet<Slot> = peers.filter_map(held).collect();
        if holders.is_empty() {
            holders.extend(first(&self.standing.shared));
        }
        holders
    }

    /// Where a peer came from, where that is still there.
    fn again(&self, peer: u32) -> Option<Origin> {
        match self.came?.get(&peer)? {
            // As it had left, if that is where it was to come from: who takes part drops such a copy.
            Origin::Rank(_) => {
                let left_in = || self.parked.get(&peer).map(|directory| Origin::Checkpoint(directory.clone()));
                self.held(&self.standing.parked, peer).map(Origin::Rank).or_else(left_in)
            }
            Origin::CopyOf { peer, noise, .. } => {
                let rank = self.held(&self.standing.peers, *peer)?;
                Some(Origin::CopyOf { peer: *peer, rank, noise: *noise })
            }
            origin => Some(origin.clone()),
        }
    }

    fn of(&self, peer: u32) -> Origin {
        let held = self.held(&self.standing.peers, peer).or_else(|| self.held(&self.standing.parked, peer));
        if let Some(rank) = held {
            return Origin::Rank(rank);
        }
        if let Some(origin) = self.again(peer) {
            return origin;
        }
        if let Some(directory) = self.parked.get(&peer) {
            return Origin::Checkpoint(directory.clone());
        }
        match self.new_peers {
            NewPeer::CopyOf { peer, noise } => match self.held(&self.standing.peers, peer) {
                Some(rank) => Origin::CopyOf { peer, rank, noise },
                None => Origin::Fresh,
            },
            NewPeer::Fresh => Origin::Fresh,
        }
    }

    fn held(&self, holders: &BTreeMap<u32, Vec<Slot>>, peer: u32) -> Option<u32> {
        self.first(holders.get(&peer)?)
    }

    fn first(&self, slots: &[Slot]) -> Option<u32> {
        slots.iter().find_map(|slot| (self.rank_of)(*slot))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn held(step: u64, is_prepared: bool, peers: &[u32], replicas: &[(u32, u64)]) -> Suspended {
        let state = serde_json::to_string(&TrainingState { rows: step, ..TrainingState::default() }).unwrap();
        Suspended { step, is_prepared, peers: peers.into(), replicas: replicas.into(), state, ..Suspended::default() }
    }

    #[test]
    fn a_step_that_one_committed_and_all_prepared_counts() {
        let survivors = BTreeMap::from([(0, held(7, true, &[0], &[(2, 7)])), (1, held(8, false, &[1], &[(0, 8)]))]);
        let standing = Standing::of(&survivors, &[0, 1, 2]).unwrap();
        assert_eq!((standing.step, standing.rolls_forward.as_slice()), (8, &[0][..]));
        assert_eq!(standing.peers, BTreeMap::from([(0, vec![0, 1]), (1, vec![1]), (2, vec![0])]));
        assert!(standing.state.contains("\"rows\":8"));
    }

    #[test]
    fn a_step_that_nobody_is_known_to_have_committed_does_not() {
        let survivors = BTreeMap::from([(0, held(7, true, &[0], &[])), (1, held(7, false, &[1], &[]))]);
        let standing = Standing::of(&survivors, &[0, 1]).unwrap();
        assert_eq!((standing.step, standing.rolls_forward.len()), (7, 0));
    }

    #[test]
    fn who_cannot_follow_counts_for_nothing_and_who_holds_nothing_is_no_survivor() {
        let survivors = BTreeMap::from([(0, held(6, true, &[0], &[])), (1, held(8, false, &[1], &[(0, 7)]))]);
        let standing = Standing::of(&survivors, &[0, 1]).unwrap();
        assert_eq!((standing.shared, standing.peers), (vec![1], BTreeMap::from([(1, vec![1])])));
        assert_eq!(standing.parked, BTreeMap::from([(0, vec![1])]), "older than the step");
        let survivors = BTreeMap::from([(0, held(6, false, &[0], &[(1, 7)]))]);
        assert!(Standing::of(&survivors, &[0]).unwrap().parked.is_empty(), "of steps that were undone");
        assert_eq!(Standing::of(&BTreeMap::from([(0, Suspended::default())]), &[0]), None);
    }

    #[test]
    fn a_peer_comes_from_memory_else_from_the_checkpoint_that_it_left_in_else_from_the_configuration() {
        let survivors = BTreeMap::from([(4, held(8, false, &[0], &[(1, 8), (2, 5)]))]);
        let standing = Standing::of(&survivors, &[0, 1]).unwrap();
        let parked = BTreeMap::from([(3, "checkpoints/step-6".to_owned())]);
        let rank_of = |slot| (slot == 4).then_some(1);
        let new_peers = NewPeer::CopyOf { peer: 0, noise: 0.5 };
        let sources = Sources { standing: &standing, rank_of: &rank_of, parked: &parked, new_peers, came: None };
        let start = sources.start(0..5).unwrap();
        let expected = [
            Origin::Rank(1),
            Origin::Rank(1),
            Origin::Rank(1),
            Origin::Checkpoint("checkpoints/step-6".into()),
            Origin::CopyOf { peer: 0, rank: 1, noise: 0.5 },
        ];
        assert_eq!(start.peers.into_values().collect::<Vec<_>>(), expected);
        assert!(sources.has(1) && !sources.has(2));
    }

    #[test]
    fn a_peer_that_nobody_took_over_comes_from_where_it_was_to_come_from() {
        let survivors = BTreeMap::from([(4, held(8, false, &[0], &[]))]);
        let standing = Standing::of(&survivors, &[0, 1, 2, 3]).unwrap();
        let copy = Origin::CopyOf { peer: 0, rank: 9, noise: 0.5 };
        let began = BTreeMap::from([
            (0, Origin::Rank(3)),
            (1, Origin::Checkpoint("checkpoints/step-6".into())),
            (2, copy),
            (3, Origin::Rank(3)),
        ]);
        let (rank_of, parked) = (|slot| (slot == 4).then_some(0), BTreeMap::new());
        let new_peers = NewPeer::Fresh;
        let sources =
            Sources { standing: &standing, rank_of: &rank_of, parked: &parked, new_peers, came: Some(&began) };
        assert_eq!([0, 1, 2, 3].map(|peer| sources.has(peer)), [true, true, true, false]);
        let start = sources.start(0..3).unwrap();
        assert_eq!(start.peers[&1], began[&1]);
        assert_eq!(start.peers[&2], Origin::CopyOf { peer: 0, rank: 0, noise: 0.5 });
    }
}
