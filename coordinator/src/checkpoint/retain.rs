//! Which checkpoints are deleted, and when.

use super::CheckpointError;
use medley_common::manifest::TrainingState;
use medley_common::storage::Storage;
use std::collections::{BTreeMap, BTreeSet};

/// Keeps the `keep` newest checkpoints (0: all), the one with the best validation metric, and those of the steps that were the
/// best for a kept one, which a training with patience goes back to, and the `spared` ones, from which peers that left come
/// back; removes the others. Returns the steps that were removed.
///
/// # Errors
/// Where something cannot be read or removed.
pub fn retain(storage: &Storage, keep: usize, spared: &BTreeSet<u64>) -> Result<Vec<u64>, CheckpointError> {
    if keep == 0 {
        return Ok(Vec::new());
    }
    let steps = storage.steps()?;
    let (old, newest) = steps.split_at(steps.len().saturating_sub(keep));
    if old.is_empty() {
        return Ok(Vec::new());
    }
    // One whose manifest cannot be read is of no use to anybody.
    let state = |step: &u64| Some((*step, storage.open(*step).ok()?.manifest.state));
    let states: BTreeMap<u64, TrainingState> = steps.iter().filter_map(state).collect();
    let best = best(&states);
    let gone_back_to =
        |step: &u64| newest.iter().filter_map(|kept| states.get(kept)).any(|state| state.best_step == *step);
    let is_needed = |step: &u64| best == Some(*step) || gone_back_to(step) || spared.contains(step);
    let removed: Vec<u64> = old.iter().copied().filter(|step| !is_needed(step)).collect();
    for step in &removed {
        storage.remove(*step)?;
    }
    Ok(removed)
}

/// The step whose own validation was the best; the first of several.
fn best(states: &BTreeMap<u64, TrainingState>) -> Option<u64> {
    let measured = states.iter().filter(|(step, state)| state.metric_step == **step);
    let metrics = measured.filter_map(|(step, state)| Some((*step, state.metric?)));
    metrics.reduce(|best, next| if next.1 > best.1 { next } else { best }).map(|(step, _)| step)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use medley_common::hash;
    use medley_common::manifest::{self, Manifest, ManifestFile};
    use medley_common::storage::Attempt;

    /// Checkpoints of some steps, each with the step that was the best by then and the metric of its own validation.
    fn run_with(steps: &[(u64, u64, Option<f64>)]) -> (tempfile::TempDir, Storage) {
        let run = tempfile::tempdir().unwrap();
        let storage = Storage::of_run(run.path(), "").unwrap();
        for (step, best_step, metric) in steps {
            let state = TrainingState {
                best_step: *best_step,
                metric: *metric,
                metric_step: *step,
                ..TrainingState::default()
            };
            let manifest = Manifest {
                format: manifest::FORMAT,
                version: String::new(),
                job: String::new(),
                generation: 1,
                step: *step,
                peers: 2,
                config_hash: String::new(),
                data_hash: String::new(),
                state,
                files: vec![ManifestFile { name: "shared.safetensors".into(), bytes: 0, sha256: hash::sha256(b"") }],
            };
            let attempt = Attempt { step: *step, generation: 1 };
            storage.put(attempt, "shared.safetensors", b"").unwrap();
            storage.commit(attempt, &manifest).unwrap();
        }
        (run, storage)
    }

    #[test]
    fn the_newest_and_what_they_would_go_back_to_stay() {
        let steps = [(5, 5), (10, 5), (20, 20), (30, 20), (40, 20), (100, 100)].map(|(step, best)| (step, best, None));
        let (_run, storage) = run_with(&steps);
        assert_eq!(retain(&storage, 0, &BTreeSet::new()).unwrap(), [0_u64; 0]);
        assert_eq!(retain(&storage, 2, &BTreeSet::new()).unwrap(), [5, 10, 30], "20 is what 40 would go back to");
        assert_eq!(retain(&storage, 2, &BTreeSet::new()).unwrap(), [0_u64; 0]);
        assert_eq!(retain(&storage, 1, &BTreeSet::new()).unwrap(), [20, 40]);
        assert_eq!(storage.steps().unwrap(), [100]);
        assert_eq!(retain(&storage, 9, &BTreeSet::new()).unwrap(), [0_u64; 0]);
    }

    #[test]
    fn the_best_by_its_own_validation_stays() {
        // No checkpoint was written at the best step of all, 15.
        let metrics = [(10, 0.2), (20, 0.5), (30, 0.5), (40, 0.1), (50, 0.3)];
        let (_run, storage) = run_with(&metrics.map(|(step, metric)| (step, 15, Some(metric))));
        assert_eq!(retain(&storage, 1, &BTreeSet::new()).unwrap(), [10, 30, 40]);
        assert_eq!(storage.steps().unwrap(), [20, 50]);
    }

    #[test]
    fn what_peers_that_left_come_back_from_stays() {
        let (_run, storage) = run_with(&[(10, 0, None), (20, 0, None), (30, 0, None)]);
        assert_eq!(retain(&storage, 1, &BTreeSet::from([10])).unwrap(), [20]);
        assert_eq!(storage.steps().unwrap(), [10, 30]);
    }
}
