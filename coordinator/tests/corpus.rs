//! The corpora of the fuzz targets of the top folder `fuzz/`, replayed without libFuzzer.

#[path = "../../fuzz/src/cluster.rs"]
mod cluster;
#[path = "../../fuzz/src/manifest.rs"]
mod manifest;
#[path = "../../fuzz/src/messages.rs"]
mod messages;
#[path = "../../fuzz/src/one_line.rs"]
mod one_line;
#[path = "../../fuzz/src/replay.rs"]
mod replay;

#[test]
fn messages() {
    replay::replay("messages", messages::check);
}

#[test]
fn jobs() {
    replay::replay("cluster", cluster::check);
}

#[test]
fn manifests() {
    replay::replay("manifest", manifest::check);
}
