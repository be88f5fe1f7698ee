//! Step reports of all workers, merged: a step is committed when every worker has reported it.

use medley_common::events::{Losses, StepEvent};
use medley_common::proto::StepRecord;
use std::collections::{BTreeMap, BTreeSet};

/// Workers train in lockstep and report in order, so a step that stays incomplete while this many later ones are
/// reported is a worker that leaves steps out.
const MOST_OPEN: usize = 65_536;

/// Steps that some workers have reported and some have not.
#[derive(Debug)]
pub struct StepMerger {
    /// Who reports every step.
    members: BTreeSet<u32>,
    /// Steps committed when the generation began.
    begun: u64,
    /// Who reports the last of those after the generation has begun.
    late: BTreeSet<u32>,
    committed: u64,
    /// Up to this one, steps are taken again.
    again_until: u64,
    open: BTreeMap<u64, Open>,
}

#[derive(Debug)]
struct Open {
    reported: BTreeSet<u32>,
    merged: StepEvent,
}

/// The workers' reports cannot be merged.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("step {0} was never reported by all workers, though {MOST_OPEN} later ones were by some")]
pub struct Gap(u64);

impl StepMerger {
    /// Merges reports for the steps after `committed`.
    pub fn new(committed: u64) -> Self {
        let (members, late) = (BTreeSet::new(), BTreeSet::new());
        Self { members, begun: committed, late, committed, again_until: 0, open: BTreeMap::new() }
    }

    /// A generation begins after `step` committed steps. Of its `members`, the `late` ones commit and report the last of
    /// these only now; who else had to report it has, or is lost. Returns the steps that are complete by this.
    ///
    /// Steps that are taken again, since a generation began at an older step than one that counts already, change
    /// nothing.
    pub fn begin(&mut self, members: BTreeSet<u32>, late: BTreeSet<u32>, step: u64) -> Vec<StepEvent> {
        (self.members, self.late, self.begun) = (members, late, step);
        self.again_until = if step < self.committed { self.committed } else { 0 };
        let later = self.open.split_off(&(step + 1));
        drop(later);
        let waits = !self.late.is_empty();
        let complete: Vec<u64> = self.open.keys().copied().filter(|open| *open < step || !waits).collect();
        let merged: Vec<StepEvent> =
            complete.iter().filter_map(|step| self.open.remove(step)).map(|open| open.merged).collect();
        let known = if waits { step.saturating_sub(1) } else { step };
        self.committed = self.committed.max(known);
        merged
    }

    /// The last step that every worker reported.
    pub fn committed(&self) -> u64 {
        self.committed
    }

    /// Whether the generation began at an older step than one that counts already, and has not come further yet.
    pub fn are_taken_again(&self) -> bool {
        self.committed <= self.again_until && self.again_until > 0
    }

    /// A step is known to be committed, though not from all workers' reports to this coordinator.
    pub fn reach(&mut self, step: u64) {
        self.committed = self.committed.max(step);
        self.open = self.open.split_off(&(self.committed + 1));
    }

    /// Takes in a worker's report of a step; the merged step when it was the last one missing. A step that was
    /// reported before by the same worker, or is committed already, changes nothing. Steps before it that some have not
    /// reported, which then another coordinator has heard of, are complete with it.
    ///
    /// # Errors
    /// [`Gap`] where a worker leaves steps out.
    pub fn add(&mut self, slot: u32, record: &StepRecord) -> Result<Vec<StepEvent>, Gap> {
        let step = record.step;
        if step <= self.committed {
            return Ok(Vec::new());
        }
        let open = self.open.entry(step).or_insert_with(|| Open { reported: BTreeSet::new(), merged: empty(record) });
        if open.reported.insert(slot) {
            merge(&mut open.merged, record);
        }
        let required = if step <= self.begun { &self.late } else { &self.members };
        // Counting comes first: among a thousand workers, all reports but one would walk both sets.
        if open.reported.len() < required.len() || !required.is_subset(&open.reported) {
            return match self.open.first_key_value() {
                Some((first, _)) if self.open.len() > MOST_OPEN => Err(Gap(*first)),
                _ => Ok(Vec::new()),
            };
        }
        let later = self.open.split_off(&(step + 1));
        self.committed = step;
        Ok(std::mem::replace(&mut self.open, later).into_values().map(|open| open.merged).collect())
    }
}

fn empty(record: &StepRecord) -> StepEvent {
    StepEvent {
        step: record.step,
        stage: record.stage.clone(),
        learning_rate: record.learning_rate,
        gradient_norm: record.gradient_norm,
        rows: record.rows,
        truncated_rows: record.truncated_rows,
        seconds: 0.0,
        bytes_sent: 0,
        losses: BTreeMap::new(),
    }
}

fn merge(merged: &mut StepEvent, record: &StepRecord) {
    merged.seconds = merged.seconds.max(record.seconds);
    merged.bytes_sent = merged.bytes_sent.max(record.bytes_sent);
    for loss in &record.losses {
        let losses = Losses {
            total: loss.total,
            cross_entropy: loss.cross_entropy,
            positive: loss.positive,
            negative: loss.negative,
            divergence: loss.divergence,
        };
        merged.losses.insert(loss.peer, losses);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use medley_common::proto::PeerLoss;

    fn record(step: u64, peer: u32, seconds: f64, bytes_sent: u64) -> StepRecord {
        StepRecord {
            step,
            rows: 10,
            seconds,
            bytes_sent,
            losses: vec![PeerLoss { peer, total: f64::from(peer) + 0.5, ..PeerLoss::default() }],
            ..StepRecord::default()
        }
    }

    fn of_two(committed: u64) -> StepMerger {
        let mut merger = StepMerger::new(committed);
        merger.begin([0, 1].into(), [].into(), committed);
        merger
    }

    #[test]
    fn a_step_is_committed_when_all_reported_it_with_the_slowest_workers_figures() {
        let mut merger = of_two(0);
        assert_eq!(merger.add(0, &record(1, 0, 0.25, 900)), Ok(vec![]));
        assert_eq!(merger.add(0, &record(2, 0, 0.25, 900)), Ok(vec![]));
        assert_eq!(merger.committed(), 0);
        let first = merger.add(1, &record(1, 1, 0.5, 700)).unwrap().remove(0);
        assert_eq!((first.step, first.seconds, first.bytes_sent, first.rows), (1, 0.5, 900, 10));
        assert_eq!(first.losses[&0].total, 0.5);
        assert_eq!(first.losses[&1].total, 1.5);
        assert_eq!(merger.committed(), 1);
        assert_eq!(merger.add(1, &record(2, 1, 0.5, 700)).unwrap().remove(0).step, 2);
    }

    #[test]
    fn a_report_that_comes_twice_or_late_changes_nothing() {
        let mut merger = of_two(5);
        assert_eq!(merger.add(0, &record(5, 0, 0.1, 0)), Ok(vec![]));
        assert_eq!(merger.add(0, &record(6, 0, 0.1, 0)), Ok(vec![]));
        assert_eq!(merger.add(0, &record(6, 0, 9.0, 0)), Ok(vec![]));
        assert_eq!(merger.add(1, &record(6, 1, 0.2, 0)).unwrap().remove(0).seconds, 0.2);
        assert_eq!(merger.add(1, &record(6, 1, 0.2, 0)), Ok(vec![]));
        assert_eq!(merger.committed(), 6);
    }

    #[test]
    fn a_worker_that_never_reports_does_not_fill_the_memory() {
        let mut merger = of_two(0);
        let fault = (1..).find_map(|step| merger.add(0, &record(step, 0, 0.1, 0)).err());
        assert_eq!(fault, Some(Gap(1)));
    }

    #[test]
    fn a_step_that_a_lost_worker_did_not_report_counts_when_the_next_generation_begins_after_it() {
        let mut merger = of_two(0);
        assert_eq!(merger.add(0, &record(1, 0, 0.1, 0)), Ok(vec![]));
        assert_eq!(merger.add(0, &record(2, 0, 0.1, 0)), Ok(vec![]));
        let complete = merger.begin([0, 2].into(), [].into(), 1);
        assert_eq!(complete.iter().map(|step| step.step).collect::<Vec<_>>(), [1]);
        assert_eq!(merger.committed(), 1);
        assert_eq!(merger.add(0, &record(2, 0, 0.3, 0)), Ok(vec![]));
        assert_eq!(merger.add(2, &record(2, 1, 0.2, 0)).unwrap().remove(0).seconds, 0.3);
    }

    #[test]
    fn a_step_that_is_rolled_forward_waits_for_those_who_do_and_no_step_counts_twice() {
        let mut merger = of_two(4);
        assert_eq!(merger.add(1, &record(5, 1, 0.1, 0)), Ok(vec![]));
        assert!(merger.begin([0, 1].into(), [0].into(), 5).is_empty());
        assert_eq!(merger.committed(), 4);
        assert_eq!(merger.add(0, &record(5, 0, 0.1, 0)).unwrap().remove(0).losses.len(), 2);
        assert!(!merger.are_taken_again());
        assert!(merger.begin([0, 1].into(), [].into(), 2).is_empty());
        assert!(merger.are_taken_again());
        assert_eq!(merger.committed(), 5);
        assert_eq!(merger.add(0, &record(3, 0, 0.1, 0)), Ok(vec![]));
        assert_eq!(merger.add(1, &record(3, 1, 0.1, 0)), Ok(vec![]));
        assert_eq!(merger.committed(), 5);
    }
}
