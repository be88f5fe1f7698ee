//! The simulated state of networks: a number that depends on every update ever applied, and on what it was computed from.
//!
//! Two states are equal exactly if the same updates were applied to the same beginning in the same order, each computed
//! from the same states of all peers. So a step that is applied twice, left out, taken from an outdated copy or with
//! another cohort shows in every peer from then on.

use crate::cluster::{CohortPlan, NewPeer};
use std::collections::BTreeMap;
use std::rc::Rc;

/// The state of a peer, or of the shared parameters.
pub type Lineage = u64;

/// Stafford's thirteenth finaliser: a bijection in which every input bit changes half of the output bits.
fn mix(mut value: u64) -> u64 {
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

fn combine(one: u64, other: u64) -> u64 {
    mix(one.rotate_left(23) ^ mix(other.wrapping_add(0x9e37_79b9_7f4a_7c15)))
}

/// A state after one more update, which was computed from all states that `digest` is of.
pub fn update(state: Lineage, digest: u64) -> Lineage {
    combine(state, digest)
}

/// The shared parameters as they are drawn from the seed.
pub const FRESH_SHARED: Lineage = 0x5a5a_0001;

/// A peer as it is drawn from the seed.
pub fn fresh(peer: u32) -> Lineage {
    combine(0xf4e5, u64::from(peer))
}

/// A peer that starts as another one was at `step`, with noise.
pub fn copied(source: Lineage, peer: u32, step: u64) -> Lineage {
    combine(combine(source, u64::from(peer)), step)
}

/// All states after a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The step.
    pub step: u64,
    /// The shared parameters.
    pub shared: Lineage,
    /// Every peer that takes part.
    pub peers: BTreeMap<u32, Lineage>,
}

impl Snapshot {
    /// The beginning of a training of peers `0..peers`.
    pub fn beginning(peers: u32) -> Self {
        Self { step: 0, shared: FRESH_SHARED, peers: (0..peers).map(|peer| (peer, fresh(peer))).collect() }
    }

    /// What the next update is computed from.
    pub fn digest(&self) -> u64 {
        let begun = combine(self.step, self.shared);
        self.peers.iter().fold(begun, |digest, (peer, state)| combine(digest, combine(u64::from(*peer), *state)))
    }

    /// All states one step later.
    pub fn next(&self) -> Self {
        let digest = self.digest();
        let peers = self.peers.iter().map(|(peer, state)| (*peer, update(*state, digest))).collect();
        Self { step: self.step + 1, shared: update(self.shared, digest), peers }
    }
}

/// The training that nothing disturbs, of a cohort that changes as the configuration has it.
#[derive(Debug)]
pub struct Undisturbed {
    plan: CohortPlan,
    /// By step: as it was committed, and as the next step finds it.
    steps: Vec<(Rc<Snapshot>, Rc<Snapshot>)>,
    left: BTreeMap<u32, Lineage>,
}

impl Undisturbed {
    /// Of this plan.
    pub fn new(plan: CohortPlan) -> Self {
        let beginning = Rc::new(Snapshot::beginning(plan.peers_after(0)));
        Self { plan, steps: vec![(Rc::clone(&beginning), beginning)], left: BTreeMap::new() }
    }

    /// All states as `step` committed them.
    pub fn committed(&mut self, step: u64) -> Rc<Snapshot> {
        Rc::clone(&self.at(step).0)
    }

    /// All states as the step after `step` finds them: with the peers that the plan has from then on.
    pub fn entered(&mut self, step: u64) -> Rc<Snapshot> {
        Rc::clone(&self.at(step).1)
    }

    fn at(&mut self, step: u64) -> &(Rc<Snapshot>, Rc<Snapshot>) {
        while self.steps.len() as u64 <= step {
            let last = self.steps.last().expect("the beginning is always there");
            let committed = last.1.next();
            let entered = self.with_plan(&committed);
            self.steps.push((Rc::new(committed), Rc::new(entered)));
        }
        &self.steps[step as usize]
    }

    fn with_plan(&mut self, committed: &Snapshot) -> Snapshot {
        let wanted = self.plan.peers_after(committed.step);
        let leaving = committed.peers.iter().filter(|(peer, _)| **peer >= wanted);
        self.left.extend(leaving.map(|(peer, state)| (*peer, *state)));
        let state = |peer: u32| {
            let present = committed.peers.get(&peer).or_else(|| self.left.get(&peer)).copied();
            present.unwrap_or_else(|| begin(self.plan.new_peers, peer, committed))
        };
        let peers = (0..wanted).map(|peer| (peer, state(peer))).collect();
        Snapshot { step: committed.step, shared: committed.shared, peers }
    }
}

/// A peer that was never there before.
fn begin(new_peers: NewPeer, peer: u32, committed: &Snapshot) -> Lineage {
    match new_peers {
        NewPeer::CopyOf { peer: source, .. } => match committed.peers.get(&source) {
            Some(state) => copied(*state, peer, committed.step),
            None => fresh(peer),
        },
        NewPeer::Fresh => fresh(peer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use medley_common::config::CohortChange;

    #[test]
    fn another_history_is_another_state() {
        let snapshot = Snapshot::beginning(3);
        let (one, two) = (snapshot.next(), snapshot.next().next());
        assert_eq!(one, snapshot.next());
        assert_ne!(one.shared, two.shared);
        let smaller = Snapshot { peers: snapshot.peers.iter().take(2).map(|(p, s)| (*p, *s)).collect(), ..snapshot };
        assert_ne!(smaller.next().peers[&0], one.peers[&0], "a peer learns from all others");
    }

    #[test]
    fn a_peer_that_leaves_comes_back_as_it_left() {
        let changes = vec![CohortChange { step: 2, peers: 2 }, CohortChange { step: 4, peers: 4 }];
        let plan = CohortPlan { peers: 3, changes, new_peers: NewPeer::CopyOf { peer: 1, noise: 0.1 } };
        let mut training = Undisturbed::new(plan);
        let (two, four) = (training.committed(2), training.entered(4));
        assert_eq!(four.peers[&2], two.peers[&2]);
        assert_eq!(four.peers[&3], copied(training.committed(4).peers[&1], 3, 4));
    }
}
