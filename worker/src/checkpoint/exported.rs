//! One peer of a checkpoint, for use elsewhere: a directory with the shared parameters, one encoder, and what they are.
//!
//! `model.safetensors` has the shared parameters under `shared.` and the encoder's under `encoder.`; `model.json` is an
//! [`ExportedModel`].

use super::read::{restore, vectors};
use super::{CheckpointError, Staged};
use crate::model::Network;
use medley_common::config::RunConfig;
use medley_common::manifest::ManifestFile;
use medley_common::{hash, summary::Estimate};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// What the parameters are.
pub const DESCRIPTION: &str = "model.json";

const TENSORS: &str = "model.safetensors";
const SHARED: &str = "shared.";
const ENCODER: &str = "encoder.";

/// The version of the layout described here.
const FORMAT: u32 = 1;

/// Contents of `model.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExportedModel {
    /// The version of this layout.
    pub format: u32,
    /// Version of Medley that exported it.
    pub version: String,
    /// `peer-J`, or `average`.
    pub subject: String,
    /// The peers whose encoders it is made of: one, or all that were averaged.
    pub peers: Vec<u32>,
    /// Items of the catalogue.
    pub items: u64,
    /// Hash of the interaction data that it was trained on.
    pub data_hash: String,
    /// What chose it, where something was measured.
    pub chosen_by: Option<ChosenBy>,
    /// The job that trained it.
    pub job: String,
    /// Steps trained.
    pub step: u64,
    /// The checkpoint that it comes from.
    pub checkpoint: String,
    /// The configuration of the run.
    pub config: RunConfig,
    /// The file of its parameters.
    pub file: ManifestFile,
}

/// A validation that chose a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChosenBy {
    /// For example `NDCG@10`.
    pub metric: String,
    /// Among which items the target was ranked.
    pub protocol: String,
    /// `valid`.
    pub split: String,
    /// Users.
    pub users: u64,
    /// Its value.
    pub value: Estimate,
}

/// A directory with an exported model.
#[derive(Debug)]
pub struct Exported {
    directory: PathBuf,
    /// What it is.
    pub model: ExportedModel,
}

impl Exported {
    /// Whether a directory claims to be one.
    pub fn is_at(directory: &Path) -> bool {
        directory.join(DESCRIPTION).is_file()
    }

    /// Reads what an exported model is.
    ///
    /// # Errors
    /// When it is damaged or of another layout.
    pub fn open(directory: &Path) -> Result<Self, CheckpointError> {
        let path = directory.join(DESCRIPTION);
        let damaged = |what: String| CheckpointError::Damaged { place: path.display().to_string(), what };
        let text = fs::read(&path).map_err(|error| damaged(error.to_string()))?;
        let model: ExportedModel = serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
        if model.format != FORMAT {
            return Err(damaged(format!("its layout is version {}, this program reads {FORMAT}", model.format)));
        }
        if model.peers.is_empty() {
            return Err(damaged("it names no peer".into()));
        }
        Ok(Self { directory: directory.to_owned(), model })
    }

    /// Puts the parameters into a network that hosts one peer.
    ///
    /// # Errors
    /// When the file is not the one that was exported, or of another shape; the network is then unusable.
    pub fn restore_network(&self, network: &Network) -> Result<(), CheckpointError> {
        let path = self.directory.join(TENSORS);
        let place = path.display().to_string();
        let damaged = |what: String| CheckpointError::Damaged { place: place.clone(), what };
        let bytes = fs::read(&path).map_err(|error| damaged(error.to_string()))?;
        if hash::sha256(&bytes) != self.model.file.sha256 {
            return Err(damaged(format!("its hash is not the one in {DESCRIPTION}")));
        }
        for (prefix, parameters) in [(SHARED, &network.shared.parameters), (ENCODER, &network.encoders[0].parameters)] {
            let [values] = vectors(&bytes, &place, parameters, [prefix])?;
            restore(parameters.values(), &values);
        }
        Ok(())
    }

    /// Writes the encoder at `place` of a network, with the shared parameters, to a new directory. It appears whole or not
    /// at all.
    ///
    /// # Errors
    /// Those of the file system, also where the directory exists.
    pub fn write(directory: &Path, network: &Network, place: usize, mut model: ExportedModel) -> io::Result<Self> {
        let mut staged = Staged::default();
        staged.add_parameters(TENSORS, SHARED, &network.shared.parameters);
        staged.append_parameters(ENCODER, &network.encoders[place].parameters);
        let name = directory.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy();
        let parent = directory.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::create_dir_all(parent)?;
        let temporary = parent.join(format!(".{name}.new-{}", std::process::id()));
        let mut make = || {
            fs::create_dir(&temporary)?;
            let files = staged.each(|name, bytes| write_synced(&temporary.join(name), bytes))?;
            model.format = FORMAT;
            model.file = files.into_iter().next().ok_or(io::ErrorKind::InvalidData)?;
            let text = serde_json::to_vec_pretty(&model).map_err(io::Error::other)?;
            write_synced(&temporary.join(DESCRIPTION), &text)?;
            File::open(&temporary)?.sync_all()?;
            // Over an empty directory this works, over anything else it does not.
            fs::rename(&temporary, directory)?;
            File::open(parent)?.sync_all()
        };
        if let Err(error) = make() {
            // The first error is the one to report.
            let _ = fs::remove_dir_all(&temporary);
            return Err(error);
        }
        Ok(Self { directory: directory.to_owned(), model })
    }
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}
