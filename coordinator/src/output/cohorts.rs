//! Which peers took part in which steps.

use medley_common::summary::Participation;
use std::collections::BTreeSet;

/// The peers of the generations, each from a step on.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Cohorts(Vec<(u64, BTreeSet<u32>)>);

impl Cohorts {
    /// A generation with these peers begins after `step` committed steps; what began after that is taken back.
    pub fn begin(&mut self, step: u64, peers: impl Iterator<Item = u32>) {
        self.0.retain(|(earlier, _)| *earlier < step);
        self.0.push((step, peers.collect()));
    }

    /// Every stretch of steps, up to `last`, in which a peer took part, by peer and step.
    pub fn participation(&self, last: u64) -> Vec<Participation> {
        let ends = self.0.iter().skip(1).map(|(step, _)| *step).chain([last]);
        let mut all: Vec<Participation> = Vec::new();
        for ((after, peers), end) in self.0.iter().zip(ends).filter(|((after, _), end)| after < end) {
            for peer in peers {
                let earlier = all.iter_mut().find(|one| one.peer == *peer && one.last_step == *after);
                match earlier {
                    Some(earlier) => earlier.last_step = end,
                    None => all.push(Participation { peer: *peer, first_step: after + 1, last_step: end }),
                }
            }
        }
        all.sort_unstable_by_key(|one| (one.peer, one.first_step));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_join_over_generations_and_end_where_a_peer_leaves() {
        let mut cohorts = Cohorts::default();
        cohorts.begin(0, 0..2);
        cohorts.begin(10, 0..3);
        cohorts.begin(20, 0..3);
        cohorts.begin(30, 1..2);
        cohorts.begin(40, 0..2);
        cohorts.begin(25, 0..2);
        cohorts.begin(40, 0..1);
        let found = cohorts.participation(50).into_iter().map(|one| (one.peer, one.first_step, one.last_step));
        assert_eq!(found.collect::<Vec<_>>(), [(0, 1, 50), (1, 1, 40), (2, 11, 25)]);
    }
}
