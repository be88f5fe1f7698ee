//! Checkpoints of whole jobs: written beside training, lost without harm, kept in a bucket, listed, verified and exported.

mod background;
mod best;
mod bucket;
mod commands;
mod disk_full;
mod server;

use medley_common::events::Event;
use medley_common::storage::Storage;
use medley_integration_tests::events;
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeMap;
use std::path::Path;

/// Hash of every file of a checkpoint, by name: of the parameters and all that training needs to go on.
fn hashes(storage: &Storage, step: u64) -> BTreeMap<String, String> {
    let stored = storage.open(step).expect("the step has a checkpoint");
    let files = stored.manifest.files.iter();
    files.map(|file| (file.name.clone(), file.sha256.clone())).collect()
}

/// The checkpoints in a run directory.
fn local(run: &Path) -> Storage {
    Storage::of_run(run, "").expect("a directory is a storage")
}

/// The steps whose checkpoints a run says that it committed.
fn committed(run: &Path) -> Vec<u64> {
    let step = |event| match event {
        Event::Checkpoint { step, .. } => Some(step),
        _ => None,
    };
    events(run).into_iter().filter_map(step).collect()
}

fn warnings(run: &Path) -> Vec<String> {
    let message = |event| match event {
        Event::Warning { message } => Some(message),
        _ => None,
    };
    events(run).into_iter().filter_map(message).collect()
}

fn terminate(id: u32) {
    let pid = Pid::from_raw(id as i32).expect("a process id is not 0");
    kill_process(pid, Signal::TERM).expect("the process is there");
}
