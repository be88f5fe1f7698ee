//! Hostile bytes for everything that Medley reads: one module, one `fuzz_targets/` file and one `corpus/` folder a
//! target. `make fuzz` runs all of them.
//!
//! 1. [`config`]: a configuration file and overrides.
//! 2. [`dataset`]: interaction files in every format.
//! 3. [`messages`]: gRPC messages, both ways.
//! 4. [`cluster`]: what workers say, through the coordinator's conversion into the state machine of a running job.
//! 5. [`frames`]: the data plane: hellos, verdicts, frames.
//! 6. [`manifest`]: checkpoint manifests, and what the coordinator verifies and commits by them.
//! 7. [`checkpoint`]: safetensors files, as the worker reads them.
//! 8. [`budget`]: how much memory an input may take; [`replay`]: a corpus without libFuzzer.
//!
//! A `check` panics where an invariant is broken, and says whether the input was accepted. It needs nothing but its
//! module and [`one_line`], so that the tests of the crates (`tests/corpus.rs`) include these files and replay the corpora
//! without libFuzzer. `examples/seeds.rs` writes the corpora's first inputs.

pub mod budget;
pub mod checkpoint;
pub mod cluster;
pub mod config;
pub mod dataset;
pub mod frames;
pub mod manifest;
pub mod messages;
pub mod one_line;
pub mod replay;

/// The entry point of a target: a check within the memory budget.
#[macro_export]
macro_rules! target {
    ($check:path) => {
        ::libfuzzer_sys::fuzz_target!(|input: &[u8]| -> ::libfuzzer_sys::Corpus {
            $crate::budget::within(|| $check(input));
            ::libfuzzer_sys::Corpus::Keep
        });
    };
}
