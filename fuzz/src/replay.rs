//! A corpus, replayed by an ordinary test: what broke once stays mended where libFuzzer cannot be had.

use std::path::{Path, PathBuf};

/// Checks every input of a target's corpus. Some must be accepted and some refused: a corpus of which nothing gets past the
/// first byte any more tests nothing.
///
/// # Panics
/// Where a check does, after saying by which input.
pub fn replay(target: &str, check: impl Fn(&[u8]) -> bool) {
    let directory = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus")).join(target);
    let mut inputs: Vec<PathBuf> = std::fs::read_dir(&directory)
        .expect("the corpus")
        .map(|entry| entry.expect("a corpus that can be listed").path())
        .collect();
    inputs.sort();
    let mut accepted = 0;
    for path in &inputs {
        let input = std::fs::read(path).expect("an input that can be read");
        let _named = Named(path);
        accepted += usize::from(check(&input));
    }
    assert!(accepted > 0, "{}: nothing is accepted any more; write the seeds anew", directory.display());
    assert!(accepted < inputs.len(), "{}: nothing is refused", directory.display());
}

/// Names the input that a check panics on.
struct Named<'a>(&'a Path);

impl Drop for Named<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("with the input {}", self.0.display());
        }
    }
}
