//! Writes the corpora's first inputs: `cargo run --example seeds`, in `fuzz/`. The same every time, so that a change of a format
//! is a change of this program and not of files that nobody can read. Inputs with other names, which a fuzzer found, are left
//! alone. The words of configurations go into a dictionary, since a fuzzer does not guess them.

mod binary;
mod text;

use std::fs;
use std::path::Path;

/// Inputs of a target, by name.
type Inputs = Vec<(String, Vec<u8>)>;

fn main() {
    let corpora: [(&str, Inputs); 7] = [
        ("config", text::configurations()),
        ("dataset", text::datasets()),
        ("messages", binary::messages()),
        ("cluster", binary::jobs()),
        ("frames", binary::frames()),
        ("manifest", text::manifests()),
        ("checkpoint", binary::checkpoints()),
    ];
    for (target, inputs) in corpora {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
        fs::create_dir_all(&directory).expect("a writable checkout");
        for (name, bytes) in &inputs {
            fs::write(directory.join(name), bytes).expect("a writable checkout");
        }
        println!("{target}: {} inputs", inputs.len());
    }
    let dictionaries = Path::new(env!("CARGO_MANIFEST_DIR")).join("dictionaries");
    fs::create_dir_all(&dictionaries).expect("a writable checkout");
    fs::write(dictionaries.join("config"), text::words_of_configurations()).expect("a writable checkout");
}

fn named(name: impl Into<String>, bytes: impl Into<Vec<u8>>) -> (String, Vec<u8>) {
    (name.into(), bytes.into())
}
