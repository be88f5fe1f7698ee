//! Whether two runs ended the same.

use super::{PlayError, io};
use medley_common::manifest::{self, Manifest};
use medley_common::run_directory;
use medley_common::summary::{Evaluation, Summary};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// How the ends of two runs compare.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compared {
    /// Whether the last checkpoints hold the same parameters, by their hashes.
    pub parameters_equal: bool,
    /// Whether they hold the same moments too.
    pub moments_equal: bool,
    /// Whether all metrics are the same.
    pub metrics_equal: bool,
    /// In what they differ.
    pub differences: Vec<String>,
}

/// Compares the last checkpoints and the metrics of two runs.
pub fn compare(undisturbed: &Path, disturbed: &Path) -> Result<Compared, PlayError> {
    let (one, other) = (last(undisturbed)?, last(disturbed)?);
    let mut differences = Vec::new();
    if one.as_ref().map(|manifest| manifest.step) != other.as_ref().map(|manifest| manifest.step) {
        differences.push("the steps of the last checkpoints".to_owned());
    }
    let (one, other) = (hashes(one.as_ref()), hashes(other.as_ref()));
    let names = one.keys().chain(other.keys()).collect::<std::collections::BTreeSet<_>>();
    differences.extend(names.into_iter().filter(|name| one.get(*name) != other.get(*name)).cloned());
    let is_moments = |name: &String| name.contains(".optimizer.");
    let parameters_equal = !one.is_empty() && differences.iter().all(is_moments);
    let moments_equal = !one.is_empty() && differences.is_empty();
    let metrics_equal = metrics(undisturbed)? == metrics(disturbed)?;
    if !metrics_equal {
        differences.push("the metrics".into());
    }
    Ok(Compared { parameters_equal, moments_equal, metrics_equal, differences })
}

fn last(run: &Path) -> Result<Option<Manifest>, PlayError> {
    let Some((_, directory)) = run_directory::latest_checkpoint(run) else { return Ok(None) };
    let path = directory.join(manifest::FILE);
    let what = || format!("read {}", path.display());
    let text = std::fs::read(&path).map_err(io(what()))?;
    serde_json::from_slice(&text).map(Some).map_err(std::io::Error::from).map_err(io(what()))
}

fn hashes(manifest: Option<&Manifest>) -> BTreeMap<String, String> {
    let files = manifest.into_iter().flat_map(|manifest| &manifest.files);
    files.map(|file| (file.name.clone(), file.sha256.clone())).collect()
}

/// None of a run that left no summary.
fn metrics(run: &Path) -> Result<Option<Vec<Evaluation>>, PlayError> {
    let path = run.join(run_directory::SUMMARY);
    let Ok(text) = std::fs::read(&path) else { return Ok(None) };
    let summary: Summary =
        serde_json::from_slice(&text).map_err(std::io::Error::from).map_err(io(format!("read {}", path.display())))?;
    let mut evaluated = summary.peers_evaluated;
    evaluated.sort_by(|one, other| (&one.subject, &one.protocol).cmp(&(&other.subject, &other.protocol)));
    Ok(Some(evaluated))
}
