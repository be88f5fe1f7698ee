//! Shards of a checkpoint that workers have written, until all have.

use super::messages::{Commit, Slot};
use medley_common::manifest::ManifestFile;
use std::collections::{BTreeMap, BTreeSet};

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
    staging: String,
    files: Vec<ManifestFile>,
    state: String,
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

    /// Takes in a worker's shards; the whole checkpoint when they were the last ones missing. Shards that were
    /// reported before by the same worker, or that are not newer than a complete checkpoint, change nothing.
    pub fn add(
        &mut self,
        slot: Slot,
        step: u64,
        staging: String,
        files: Vec<ManifestFile>,
        state: String,
    ) -> Option<Commit> {
        if self.newest.is_some_and(|newest| step <= newest) {
            return None;
        }
        let open = self.open.entry(step).or_default();
        if !open.reported.insert(slot) {
            return None;
        }
        open.staging = staging;
        open.files.extend(files);
        if !state.is_empty() {
            open.state = state;
        }
        if open.reported.len() < self.members.len() || !self.members.is_subset(&open.reported) {
            return None;
        }
        let complete = self.open.remove(&step)?;
        self.newest = Some(step);
        self.open.retain(|other, _| *other > step);
        Some(Commit {
            step,
            staging: complete.staging,
            files: complete.files,
            state: complete.state,
            peers: self.peers,
            generation: 0,
            data_hash: String::new(),
        })
    }

    /// Steps of checkpoints that are not whole.
    pub fn incomplete(&self) -> impl Iterator<Item = u64> {
        self.open.keys().copied()
    }
}
