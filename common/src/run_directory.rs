//! Names inside a run directory. Everything that writes to one or reads from one takes them from here.

use std::path::{Path, PathBuf};

/// The resolved configuration.
pub const CONFIG: &str = "run.toml";
/// One JSON object a line: everything that happened.
pub const EVENTS: &str = "events.jsonl";
/// The result.
pub const SUMMARY: &str = "summary.json";
/// Checkpoints.
pub const CHECKPOINTS: &str = "checkpoints";
/// Logs of coordinator and workers.
pub const LOGS: &str = "logs";
/// TensorBoard event files.
pub const TENSORBOARD: &str = "tensorboard";
/// Plots.
pub const PLOTS: &str = "plots";
/// Candidate lists of the sampled protocols.
pub const CANDIDATES: &str = "candidates";
/// The coordinator's store.
pub const STORE: &str = "coordinator.redb";

/// Where the coordinator of a running job listens, and the token that it wants to see; readable by its owner alone.
pub const COORDINATOR: &str = "coordinator.json";

/// `checkpoints/step-N`.
pub fn checkpoint(run: &Path, step: u64) -> PathBuf {
    run.join(CHECKPOINTS).join(format!("step-{step}"))
}

/// A place that a run names, such as that of a checkpoint: a path, relative to the run directory or whole, or
/// `s3://BUCKET/...`.
pub fn place(run: &Path, name: &str) -> PathBuf {
    if name.starts_with("s3://") { PathBuf::from(name) } else { run.join(name) }
}

/// The step of a committed checkpoint's directory name; `None` for anything else, such as a staging directory.
pub fn checkpoint_step(name: &str) -> Option<u64> {
    name.strip_prefix("step-")?.parse().ok()
}

/// The step of a checkpoint's place, a path or URL that ends with its directory's name.
pub fn checkpoint_step_of(place: &str) -> Option<u64> {
    checkpoint_step(place.rsplit('/').next().unwrap_or(place))
}

/// The committed checkpoint of the highest step.
pub fn latest_checkpoint(run: &Path) -> Option<(u64, PathBuf)> {
    let entries = std::fs::read_dir(run.join(CHECKPOINTS)).ok()?;
    entries
        .filter_map(Result::ok)
        .filter_map(|entry| Some((checkpoint_step(entry.file_name().to_str()?)?, entry.path())))
        .filter(|(_, path)| path.join(crate::manifest::FILE).is_file())
        .max_by_key(|(step, _)| *step)
}
