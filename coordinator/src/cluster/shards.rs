//! Shards of a checkpoint that workers have written, until all have.

use super::messages::{Commit, Slot};
use medley_common::manifest::ManifestFile;
use std::collections::{BTreeMap, BTreeSet};

/// Checkpoints that some workers have written and some have not.
#[derive(Debug)]
pub struct ShardGatherer {
    workers: usize,
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
    /// Gathers the shards of `workers` workers.
    pub fn new(workers: u32) -> Self {
        Self {
            workers: workers as usize,
            newest: None,
            open: BTreeMap::new(),
        }
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
        if open.reported.len() < self.workers {
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
            generation: 0,
            data_hash: String::new(),
        })
    }

    /// Steps of checkpoints that are not whole.
    pub fn incomplete(&self) -> impl Iterator<Item = u64> {
        self.open.keys().copied()
    }
}
