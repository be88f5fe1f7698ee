//! Whether a committed checkpoint is whole, and whether it fits.

use super::commit::{fault_of_names, measure};
use super::{CheckpointError, io};
use medley_common::config::RunConfig;
use medley_common::manifest::{self, Manifest};
use std::path::Path;

/// Reads a checkpoint's manifest and every file it names. Blocks.
///
/// # Errors
/// [`CheckpointError::Damaged`] where a file is missing, truncated or changed, or the manifest cannot be read.
pub fn verify(directory: &Path) -> Result<Manifest, CheckpointError> {
    let path = directory.join(manifest::FILE);
    let damaged = |path: &Path, message: String| CheckpointError::Damaged {
        path: path.to_owned(),
        message,
        directory: directory.to_owned(),
    };
    let text = std::fs::read(&path).map_err(io(&path, "read the manifest"))?;
    let manifest: Manifest =
        serde_json::from_slice(&text).map_err(|error| damaged(&path, format!("is no manifest: {error}")))?;
    if manifest.format != manifest::FORMAT {
        let message = format!(
            "has format {}, this version of Medley ({}) reads {}; resume it with version {}",
            manifest.format,
            medley_common::VERSION,
            manifest::FORMAT,
            manifest.version.escape_debug()
        );
        return Err(CheckpointError::Unfit { path, message });
    }
    if let Some(fault) = fault_of_names(&manifest.files) {
        return Err(damaged(&path, format!("names {fault}")));
    }
    for file in &manifest.files {
        let path = directory.join(&file.name);
        if !path.is_file() {
            return Err(damaged(&path, "is missing from the checkpoint".into()));
        }
        let (bytes, sha256) = measure(&path)?;
        if bytes != file.bytes {
            let message = format!("has {bytes} bytes, its manifest says {}", file.bytes);
            return Err(damaged(&path, message));
        }
        if sha256 != file.sha256 {
            return Err(damaged(&path, "is not what its manifest says: the hash differs".into()));
        }
    }
    Ok(manifest)
}

/// Whether a checkpoint can be resumed by a configuration. `trained` is the configuration that the run directory
/// keeps; of the new one the number of peers and the network's shape must be the same.
///
/// # Errors
/// [`CheckpointError::Unfit`] names the key that differs.
pub fn check_fit(
    directory: &Path,
    manifest: &Manifest,
    trained: &RunConfig,
    config: &RunConfig,
) -> Result<(), CheckpointError> {
    let (was, is) = (&trained.network, &config.network);
    let shape = [
        ("cohort.peers", manifest.peers.to_string(), config.cohort.peers.to_string()),
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
            path: directory.to_owned(),
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
    use medley_common::manifest::{ManifestFile, TrainingState};
    use std::fs;

    fn checkpoint(directory: &Path) -> Manifest {
        fs::write(directory.join("shared.safetensors"), "tensors").unwrap();
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
            files: vec![ManifestFile { name: "shared.safetensors".into(), bytes: 7, sha256: hash::sha256(b"tensors") }],
        };
        let text = serde_json::to_vec(&manifest).unwrap();
        fs::write(directory.join(manifest::FILE), text).unwrap();
        manifest
    }

    #[test]
    fn a_truncated_changed_or_missing_file_is_named_with_the_remedy() {
        let faults: [(&str, Option<&str>, &str); 5] = [
            ("shared.safetensors", Some("tens"), "has 4 bytes, its manifest says 7"),
            ("shared.safetensors", Some("tensorz"), "the hash differs"),
            ("shared.safetensors", None, "is missing"),
            (manifest::FILE, Some("{\"format\":"), "is no manifest"),
            (manifest::FILE, None, "cannot read the manifest"),
        ];
        for (name, contents, expected) in faults {
            let directory = tempfile::tempdir().unwrap();
            checkpoint(directory.path());
            assert!(verify(directory.path()).is_ok());
            let path = directory.path().join(name);
            match contents {
                Some(contents) => fs::write(&path, contents).unwrap(),
                None => fs::remove_file(&path).unwrap(),
            }
            let message = verify(directory.path()).unwrap_err().to_string();
            assert!(message.contains(expected) && message.contains(name), "{message}");
            assert!(!message.contains('\n'), "{message}");
        }
    }

    #[test]
    fn a_manifest_vouches_for_nothing_outside_of_its_directory() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("step-4");
        fs::create_dir(&directory).unwrap();
        let manifest = checkpoint(&directory);
        fs::write(root.path().join("outside"), "tensors").unwrap();
        let absolute = root.path().join("outside").display().to_string();
        for name in ["../outside", absolute.as_str(), "a\nb", "", ".", ".hidden", manifest::FILE] {
            let files = vec![ManifestFile { name: name.into(), ..manifest.files[0].clone() }];
            let text = serde_json::to_vec(&Manifest { files, ..manifest.clone() }).unwrap();
            fs::write(directory.join(manifest::FILE), text).unwrap();
            let message = verify(&directory).expect_err(name).to_string();
            assert!(message.contains("names a file named") && !message.contains('\n'), "{message}");
        }
        for files in [Vec::new(), vec![manifest.files[0].clone(); 2]] {
            let text = serde_json::to_vec(&Manifest { files, ..manifest.clone() }).unwrap();
            fs::write(directory.join(manifest::FILE), text).unwrap();
            assert!(verify(&directory).is_err());
        }
    }

    #[test]
    fn another_shape_names_its_key() {
        let directory = tempfile::tempdir().unwrap();
        let manifest = checkpoint(directory.path());
        let trained = RunConfig::default();
        let fit = |config: &RunConfig| check_fit(directory.path(), &manifest, &trained, config);
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
    }
}
