//! A job goes from one coordinator to another: what the one keeps, and what the other makes of it.

use super::machine::{Cluster, Membership, Role, State, Worker};
use super::messages::{Kept, KeptReady, Settings, Slot};
use super::seats::Seat;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

impl Cluster {
    /// What a coordinator that takes the job over must know.
    pub fn kept(&self) -> Kept {
        Kept {
            generation: self.generation,
            members: self.members.to_vec(),
            step: self.steps.committed(),
            start: self.began.as_deref().cloned(),
            checkpoint_step: self.began_checkpoint,
            came: self.came.clone(),
            cohort: self.cohort.clone(),
            workers: self.wanted_workers,
            parked: self.parked.clone(),
            ready: self.ready.as_ref().map(KeptReady::of),
        }
    }

    /// A job that another coordinator led until now. Its workers train on and are expected to return within `grace`; who
    /// does not counts as lost. Times are since this moment.
    pub fn adopt(settings: Settings, kept: &Kept, grace: Duration) -> Self {
        let mut cluster = Self::new(settings);
        cluster.generation = kept.generation;
        cluster.cohort = kept.cohort.clone();
        cluster.wanted_workers = kept.workers;
        cluster.parked = kept.parked.clone();
        cluster.ready = kept.ready.as_ref().map(KeptReady::ready);
        cluster.members = kept.members.clone().into();
        cluster.came = kept.came.clone();
        (cluster.began, cluster.began_checkpoint) = (kept.start.clone().map(Arc::new), kept.checkpoint_step);
        cluster.seats =
            kept.members.iter().map(|member| Seat { slot: member.slot, peers: member.peers.clone() }).collect();
        let slots: BTreeSet<Slot> = cluster.seats.iter().map(|seat| seat.slot).collect();
        let began = kept.start.as_ref().map_or(kept.step, |start| start.step);
        cluster.steps.reach(kept.step);
        cluster.steps.begin(slots.clone(), BTreeSet::new(), began);
        cluster.shards.begin(slots, cluster.active().len() as u32);
        for member in &kept.members {
            let worker = Worker {
                session: 0,
                process_id: 0,
                incarnation: member.incarnation.clone(),
                address: member.address.clone(),
                host: String::new(),
                has_session: false,
                last_heard: grace,
                role: Role::Member(Membership { rank: member.rank, ready: None, completed: None }),
            };
            cluster.workers.insert(member.slot, worker);
        }
        if !cluster.seats.is_empty() {
            let meet_until = Some(cluster.settings.join + grace).filter(|_| cluster.ready.is_none());
            cluster.state = State::Running { meet_until, pausing: false };
        }
        cluster
    }

    /// Whether all that a worker reported has led to what it was to lead to: nothing of it would be missed by a
    /// coordinator that takes over now.
    pub fn has_settled_reports(&self, slot: Slot) -> bool {
        let is_at_work =
            self.workers.get(&slot).is_some_and(|worker| worker.member().is_some() && !worker.has_completed());
        let has_met = matches!(self.state, State::Running { meet_until: None, .. });
        is_at_work && has_met && self.committing.is_empty() && self.shards.incomplete().next().is_none()
    }
}
