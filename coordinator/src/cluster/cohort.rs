//! T over the course of a training.

use medley_common::config::{CohortChange, CohortConfig, NewPeers};
use serde::{Deserialize, Serialize};

/// T at the beginning, and how it changes.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct CohortPlan {
    /// T before the first change.
    pub peers: u32,
    /// In the order of their steps: the schedule, and what was asked for meanwhile.
    pub changes: Vec<CohortChange>,
    /// What peers that were never there before start from.
    pub new_peers: NewPeer,
}

/// What a peer that was never there before starts from.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NewPeer {
    /// Its own draw from the seed.
    #[default]
    Fresh,
    /// Another peer's parameters, with noise.
    CopyOf {
        /// The other peer.
        peer: u32,
        /// Standard deviation of the noise on a parameter, as a share of the root mean square of its tensor.
        noise: f64,
    },
}

impl CohortPlan {
    /// The plan of a configuration.
    pub fn new(config: &CohortConfig) -> Self {
        let new_peers = match config.new_peers {
            NewPeers::Fresh => NewPeer::Fresh,
            NewPeers::Copy => NewPeer::CopyOf { peer: config.copy_of, noise: config.copy_noise },
        };
        let peers = u32::try_from(config.peers).unwrap_or(u32::MAX);
        Self { peers, changes: config.schedule.clone(), new_peers }
    }

    /// T of the steps after `step`.
    pub fn peers_after(&self, step: u64) -> u32 {
        let last = self.changes.iter().take_while(|change| change.step <= step).last();
        last.map_or(self.peers, |change| u32::try_from(change.peers).unwrap_or(u32::MAX))
    }

    /// From `step` on there are to be `peers`; what is scheduled for later stays.
    pub fn change(&mut self, step: u64, peers: u32) {
        let at = self.changes.partition_point(|change| change.step <= step);
        self.changes.insert(at, CohortChange { step, peers: peers as usize });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_that_is_asked_for_holds_until_the_next_scheduled_one() {
        let schedule = vec![CohortChange { step: 10, peers: 3 }, CohortChange { step: 30, peers: 2 }];
        let mut plan = CohortPlan { peers: 4, changes: schedule, new_peers: NewPeer::Fresh };
        assert_eq!([0, 9, 10, 29, 30, 99].map(|step| plan.peers_after(step)), [4, 4, 3, 3, 2, 2]);
        plan.change(20, 6);
        plan.change(20, 5);
        assert_eq!([19, 20, 29, 30].map(|step| plan.peers_after(step)), [3, 5, 5, 2]);
    }
}
