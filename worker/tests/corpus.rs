//! The corpora of the fuzz targets of the top folder `fuzz/`, replayed without libFuzzer.

#[path = "../../fuzz/src/checkpoint.rs"]
mod checkpoint;
#[path = "../../fuzz/src/dataset.rs"]
mod dataset;
#[path = "../../fuzz/src/frames.rs"]
mod frames;
#[path = "../../fuzz/src/one_line.rs"]
mod one_line;
#[path = "../../fuzz/src/replay.rs"]
mod replay;

#[test]
fn interaction_files() {
    replay::replay("dataset", dataset::check);
}

#[test]
fn frames_and_hellos() {
    replay::replay("frames", frames::check);
}

#[test]
fn checkpoints() {
    replay::replay("checkpoint", checkpoint::check);
}
