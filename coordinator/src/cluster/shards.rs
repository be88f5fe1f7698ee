//! Shards of a checkpoint that workers have written, until all have; and checkpoints that come to nothing.

use super::machine::{Cluster, State};
use super::messages::{Action, Commit, Slot};
use medley_common::events::Event as JobEvent;
use medley_common::manifest::ManifestFile;
use medley_common::run_directory;
use std::collections::{BTreeMap, BTreeSet};

/// Workers write one checkpoint after the other: of so many unfinished ones the oldest are given up.
const MOST_OPEN: usize = 1_024;

/// Checkpoints that some workers have written and some have not.
#[derive(Debug)]
pub struct ShardGatherer {
    members: BTreeSet<Slot>,
    peers: u32,
    newest: Option<u64>,
    open: BTreeMap<u64, Open>,
}

#[derive(Debug, Default)]
struct Open {
    reported: BTreeSet<Slot>,
    /// Some worker could not write its part.
    is_lost: bool,
    staging: String,
    files: Vec<ManifestFile>,
    state: String,
}

/// Where a checkpoint stands after a worker's report.
#[derive(Debug, PartialEq)]
pub enum Gathered {
    /// Some workers have not reported, or nothing changed.
    Waiting,
    /// All have written their part.
    Whole(Commit),
    /// All have reported, and not all have written their part; the step.
    Lost(u64),
}

impl ShardGatherer {
    /// Gathers shards of checkpoints after `newest`.
    pub fn new(newest: Option<u64>) -> Self {
        Self { members: BTreeSet::new(), peers: 0, newest, open: BTreeMap::new() }
    }

    /// A generation of these members begins: what was written in the one before and is not complete counts for nothing.
    /// Returns the steps of which that is so.
    pub fn begin(&mut self, members: BTreeSet<Slot>, peers: u32) -> Vec<u64> {
        (self.members, self.peers) = (members, peers);
        std::mem::take(&mut self.open).into_keys().collect()
    }

    /// Takes in a worker's shards. Shards that were reported before by the same worker, or that are not newer than a complete
    /// checkpoint, change nothing.
    pub fn add(&mut self, slot: Slot, step: u64, staging: String, files: Vec<ManifestFile>, state: String) -> Gathered {
        let Some(open) = self.report(slot, step) else {
            return Gathered::Waiting;
        };
        open.staging = staging;
        open.files.extend(files);
        if !state.is_empty() {
            open.state = state;
        }
        self.close(step)
    }

    /// Takes in that a worker could not write its part; whether it is the first to say so of this step.
    pub fn lose(&mut self, slot: Slot, step: u64) -> (bool, Gathered) {
        let Some(open) = self.report(slot, step) else {
            return (false, Gathered::Waiting);
        };
        let is_first = !std::mem::replace(&mut open.is_lost, true);
        (is_first, self.close(step))
    }

    /// Notes a worker's first report of a step, where that is not past.
    fn report(&mut self, slot: Slot, step: u64) -> Option<&mut Open> {
        if self.newest.is_some_and(|newest| step <= newest) {
            return None;
        }
        if self.open.len() >= MOST_OPEN && !self.open.contains_key(&step) {
            self.open.pop_first();
        }
        let open = self.open.entry(step).or_default();
        open.reported.insert(slot).then_some(open)
    }

    /// Ends the gathering of a step that all workers have reported.
    fn close(&mut self, step: u64) -> Gathered {
        if self.open.get(&step).is_none_or(|open| !self.have_all(open)) {
            return Gathered::Waiting;
        }
        let Some(complete) = self.open.remove(&step) else {
            return Gathered::Waiting;
        };
        self.newest = Some(step);
        self.open.retain(|other, _| *other > step);
        if complete.is_lost {
            return Gathered::Lost(step);
        }
        Gathered::Whole(Commit {
            step,
            staging: complete.staging,
            files: complete.files,
            state: complete.state,
            peers: self.peers,
            spared: BTreeSet::new(),
            generation: 0,
            data_hash: String::new(),
        })
    }

    fn have_all(&self, open: &Open) -> bool {
        open.reported.len() >= self.members.len() && self.members.is_subset(&open.reported)
    }

    /// Steps of checkpoints that are not whole.
    pub fn incomplete(&self) -> impl Iterator<Item = u64> {
        let open = self.open.iter().filter(|(_, open)| !open.is_lost);
        open.map(|(step, _)| *step)
    }
}

impl Cluster {
    pub(super) fn gathered(&mut self, gathered: Gathered, generation: u64, actions: &mut Vec<Action>) {
        match gathered {
            Gathered::Waiting => {}
            Gathered::Whole(mut commit) => {
                commit.generation = generation;
                commit.spared =
                    self.parked.values().filter_map(|place| run_directory::checkpoint_step_of(place)).collect();
                commit.data_hash = self.ready.as_ref().map(|ready| ready.data_hash.clone()).unwrap_or_default();
                self.committing.insert(commit.step, self.active().into_iter().collect());
                actions.push(Action::CommitCheckpoint(commit));
            }
            // Only now does nobody write there any more.
            Gathered::Lost(step) => actions.push(Action::DiscardCheckpoint { step, generation }),
        }
    }

    pub(super) fn shards_failed(
        &mut self,
        slot: Slot,
        step: u64,
        message: &str,
        generation: u64,
        actions: &mut Vec<Action>,
    ) {
        let (is_first, gathered) = self.shards.lose(slot, step);
        if is_first {
            self.checkpoint_lost(step, format!("was not written by worker {slot}: {message}"), actions);
        }
        self.gathered(gathered, generation, actions);
    }

    /// Says that a checkpoint came to nothing. The job goes on: what is lost is a point to go back to.
    pub(super) fn checkpoint_lost(&mut self, step: u64, cause: String, actions: &mut Vec<Action>) {
        let before = match &self.checkpoint {
            Some(good) => format!("the last good one is of step {}", good.step),
            None => "there is none before it".into(),
        };
        let outlook = match self.state {
            State::Settling { .. } => format!("{before}; make room or mend access there"),
            _ => format!("training goes on, and {before}; make room or mend access there before the run ends"),
        };
        let message = format!("the checkpoint of step {step} {cause}; {outlook}");
        actions.push(Action::Record(JobEvent::Warning { message }));
        self.lost_checkpoint = Some((step, cause));
    }
}
