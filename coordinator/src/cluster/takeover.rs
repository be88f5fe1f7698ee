//! A job goes from one coordinator to another: what the one keeps, and what the other makes of it.

use super::cohort::CohortPlan;
use super::machine::{Cluster, Membership, Role, State, Worker};
use super::messages::{Member, Settings, Slot};
use super::origins::{Origin, Start};
use super::seats::Seat;
use medley_common::proto;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// What a coordinator that takes a job over must know of it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Kept {
    /// The generation that was formed last.
    pub generation: u64,
    /// Its workers.
    pub members: Vec<Member>,
    /// Steps that are committed, as far as that was known when this was kept.
    pub step: u64,
    /// Where the generation began, for members that its coordinator did not live to tell.
    pub start: Option<Start>,
    /// The step of the last checkpoint that was committed then; 0 for none.
    pub checkpoint_step: u64,
    /// Where those of its peers came from that have taken no step since.
    pub came: BTreeMap<u32, Origin>,
    /// T, and how it changes.
    pub cohort: CohortPlan,
    /// Workers that are to host peers.
    pub workers: u32,
    /// Peers that left, and the checkpoint that holds them.
    pub parked: BTreeMap<u32, String>,
    /// What the workers agreed on when they met; absent until they have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<KeptReady>,
}

/// What is kept of [`proto::Ready`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct KeptReady {
    /// Hash of the interaction data.
    pub data_hash: String,
    /// Steps to train.
    pub total_steps: u64,
    /// Rows that every batch has at least.
    pub fewest_rows: u64,
}

impl KeptReady {
    /// What is kept of a report.
    pub fn of(ready: &proto::Ready) -> Self {
        let proto::Ready { data_hash, total_steps, fewest_rows, .. } = ready;
        Self { data_hash: data_hash.clone(), total_steps: *total_steps, fewest_rows: *fewest_rows }
    }

    /// As much of the report as was kept.
    pub fn ready(&self) -> proto::Ready {
        let Self { data_hash, total_steps, fewest_rows } = self.clone();
        proto::Ready { data_hash, total_steps, fewest_rows, ..proto::Ready::default() }
    }
}

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
