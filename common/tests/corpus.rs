//! The corpora of the fuzz targets of the top folder `fuzz/`, replayed without libFuzzer.

#[path = "../../fuzz/src/config.rs"]
mod config;
#[path = "../../fuzz/src/one_line.rs"]
mod one_line;
#[path = "../../fuzz/src/replay.rs"]
mod replay;

#[test]
fn configurations() {
    replay::replay("config", config::check);
}
