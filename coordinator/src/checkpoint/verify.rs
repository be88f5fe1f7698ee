//! Whether a committed checkpoint is whole, and whether it fits.

use super::CheckpointError;
use crate::cluster::CohortPlan;
use medley_common::config::RunConfig;
use medley_common::manifest::Manifest;
use medley_common::storage::{Storage, StorageError, Stored};

/// Reads a checkpoint's manifest and every file it names. Blocks.
///
/// # Errors
/// [`CheckpointError::Damaged`] where a file is missing, truncated or changed, or the manifest cannot be read.
pub fn verify(storage: &Storage, step: u64) -> Result<Manifest, CheckpointError> {
    let opened = storage.open(step).map(|stored| (damages(&stored).into_iter().next(), stored.manifest));
    let (damage, manifest) = match opened {
        Ok((damage, manifest)) => (damage, Some(manifest)),
        Err(error) => (Some(error), None),
    };
    match (damage, manifest) {
        (None, Some(manifest)) => Ok(manifest),
        (Some(source @ (StorageError::Damaged { .. } | StorageError::Absent { .. })), _) => {
            let place = format!("{}/step-{step}", storage.place());
            Err(CheckpointError::Damaged { source, place })
        }
        (Some(source), _) => Err(source.into()),
        (None, None) => Err(CheckpointError::Refused(format!("step {step} has no checkpoint"))),
    }
}

/// All that is wrong with the files of a checkpoint. Blocks: reads each.
pub fn damages(stored: &Stored) -> Vec<StorageError> {
    stored.manifest.files.iter().filter_map(|file| stored.check(&file.name).err()).collect()
}

/// Whether a checkpoint can be resumed by a configuration. `trained` is the configuration that the run directory
/// keeps; of the new one the network's shape must be the same, and T as its plan has it at the checkpoint's step.
///
/// # Errors
/// [`CheckpointError::Unfit`] names the key that differs.
pub fn check_fit(
    place: &str,
    manifest: &Manifest,
    cohort: &CohortPlan,
    trained: &RunConfig,
    config: &RunConfig,
) -> Result<(), CheckpointError> {
    let (was, is) = (&trained.network, &config.network);
    // The step at which T changes has its checkpoint from those who were there before.
    let before = cohort.peers_after(manifest.step.saturating_sub(1));
    let planned = if manifest.peers == before { before } else { cohort.peers_after(manifest.step) };
    let shape = [
        ("cohort.peers", manifest.peers.to_string(), planned.to_string()),
        ("network.kind", format!("{:?}", was.kind), format!("{:?}", is.kind)),
        ("network.dimension", was.dimension.to_string(), is.dimension.to_string()),
        ("network.layers", was.layers.to_string(), is.layers.to_string()),
        ("network.heads", was.heads.to_string(), is.heads.to_string()),
        ("network.feed_forward", was.feed_forward.to_string(), is.feed_forward.to_string()),
        ("network.norm", format!("{:?}", was.norm), format!("{:?}", is.norm)),
        ("samples.max_length", trained.samples.max_length.to_string(), config.samples.max_length.to_string()),
    ];
    match shape.into_iter().find(|(_, was, is)| was != is) {
        None => Ok(()),
        Some((key, was, is)) => Err(CheckpointError::Unfit {
            place: place.to_owned(),
            message: format!(
                "was trained with {key} = {was}, but {key} is {is}; set {key} back to resume, or start a new run"
            ),
        }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use medley_common::hash;
    use medley_common::manifest::{self, ManifestFile, TrainingState};
    use medley_common::storage::Attempt;
    use std::fs;

    const SHARD: &str = "shared.safetensors";

    fn checkpoint() -> (tempfile::TempDir, Storage, Manifest) {
        let run = tempfile::tempdir().unwrap();
        let storage = Storage::of_run(run.path(), "").unwrap();
        let attempt = Attempt { step: 4, generation: 1 };
        storage.put(attempt, SHARD, b"tensors").unwrap();
        let manifest = Manifest {
            format: manifest::FORMAT,
            version: "0.1.0".into(),
            job: "job".into(),
            generation: 1,
            step: 4,
            peers: 2,
            config_hash: String::new(),
            data_hash: String::new(),
            state: TrainingState::default(),
            files: vec![ManifestFile { name: SHARD.into(), bytes: 7, sha256: hash::sha256(b"tensors") }],
        };
        storage.commit(attempt, &manifest).unwrap();
        (run, storage, manifest)
    }

    #[test]
    fn a_truncated_changed_or_missing_file_is_named_with_the_remedy() {
        let faults: [(&str, Option<&str>, &str); 5] = [
            (SHARD, Some("tens"), "has 4 bytes, its manifest says 7"),
            (SHARD, Some("tensorz"), "its hash is not the one"),
            (SHARD, None, "not found"),
            (manifest::FILE, Some("{\"format\":"), "is no manifest"),
            (manifest::FILE, None, "not found"),
        ];
        for (name, contents, expected) in faults {
            let (run, storage, manifest) = checkpoint();
            assert_eq!(verify(&storage, 4).unwrap(), manifest);
            let path = run.path().join("checkpoints/step-4").join(name);
            match contents {
                Some(contents) => fs::write(&path, contents).unwrap(),
                None => fs::remove_file(&path).unwrap(),
            }
            let message = verify(&storage, 4).unwrap_err().to_string();
            assert!(message.contains(expected) && message.contains(name), "{message}");
            assert!(message.contains("; remove ") && !message.contains('\n'), "{message}");
        }
    }

    #[test]
    fn a_manifest_vouches_for_nothing_outside_of_its_directory() {
        let (root, storage, manifest) = checkpoint();
        let directory = root.path().join("checkpoints/step-4");
        let outside = root.path().join("checkpoints/outside");
        fs::write(&outside, "tensors").unwrap();
        let absolute = outside.display().to_string();
        for name in ["../outside", absolute.as_str(), "a\nb", "", ".", ".hidden", manifest::FILE] {
            let files = vec![ManifestFile { name: name.into(), ..manifest.files[0].clone() }];
            let text = serde_json::to_vec(&Manifest { files, ..manifest.clone() }).unwrap();
            fs::write(directory.join(manifest::FILE), text).unwrap();
            let message = verify(&storage, 4).expect_err(name).to_string();
            assert!(message.contains("it names a file named") && !message.contains('\n'), "{message}");
        }
        for files in [Vec::new(), vec![manifest.files[0].clone(); 2]] {
            let text = serde_json::to_vec(&Manifest { files, ..manifest.clone() }).unwrap();
            fs::write(directory.join(manifest::FILE), text).unwrap();
            assert!(verify(&storage, 4).is_err());
        }
    }

    #[test]
    fn another_shape_names_its_key() {
        let (_run, _, manifest) = checkpoint();
        let trained = RunConfig::default();
        let fit =
            |config: &RunConfig| check_fit("step-4", &manifest, &CohortPlan::new(&config.cohort), &trained, config);
        fit(&trained).unwrap();
        let mut other = trained.clone();
        other.network.layers += 1;
        assert!(fit(&other).unwrap_err().to_string().contains("network.layers = 2"));
        other = trained.clone();
        other.cohort.peers = 3;
        assert!(fit(&other).unwrap_err().to_string().contains("cohort.peers = 2"));
        other = trained.clone();
        other.train.steps = 99;
        fit(&other).unwrap();
        // T is what the plan has at that step, and right at a change what it was before.
        let mut plan = CohortPlan { peers: 3, ..CohortPlan::default() };
        let of_plan = |plan: &CohortPlan| check_fit("step-4", &manifest, plan, &trained, &trained);
        of_plan(&plan).unwrap_err();
        plan.change(3, 2);
        of_plan(&plan).unwrap();
        plan.change(4, 5);
        of_plan(&plan).unwrap();
        plan.change(3, 4);
        of_plan(&plan).unwrap_err();
    }
}
