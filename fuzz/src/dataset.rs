//! An interaction file behind two bytes that choose its format and the settings of its reader.

use crate::one_line::assert_one_line;
use medley_common::config::{DataConfig, DataFormat};
use medley_worker::data::{Dataset, Split};
use rustix::fs::{MemfdFlags, memfd_create};
use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;

const FORMATS: [DataFormat; 7] = [
    DataFormat::Auto,
    DataFormat::UserItem,
    DataFormat::Sequences,
    DataFormat::Movielens,
    DataFormat::Recbole,
    DataFormat::Csv,
    DataFormat::Tsv,
];

/// Loads the input; what is accepted can be split, and loads the same a second time.
pub fn check(input: &[u8]) -> bool {
    let [format, settings, content @ ..] = input else { return false };
    // In memory: what is fuzzed is the readers, not the disk.
    let mut file = File::from(memfd_create("interactions", MemfdFlags::CLOEXEC).expect("a file in memory"));
    file.write_all(content).expect("memory for a small file");
    let config = settings_of(*format, *settings, format!("/proc/self/fd/{}", file.as_raw_fd()));
    let dataset = match Dataset::load(&config) {
        Ok(dataset) => dataset,
        Err(error) => {
            assert_one_line(&error);
            return false;
        }
    };
    assert!(dataset.items >= 2 && dataset.items == dataset.item_names.len());
    assert_eq!(dataset.users(), dataset.user_names.len());
    assert!(dataset.interactions() <= dataset.report.interactions_read);
    for user in 0..dataset.users() {
        assert!(dataset.sequences[user].iter().all(|item| (*item as usize) < dataset.items));
        assert!(!dataset.training(user, false).is_empty());
        let targets = [Split::Valid, Split::Test].map(|split| {
            assert!(!dataset.history(user, split).is_empty());
            dataset.target(user, split)
        });
        assert!(dataset.sequences[user].ends_with(&targets));
    }
    assert_eq!(Dataset::load(&config).ok().as_ref(), Some(&dataset), "loads differently a second time");
    true
}

fn settings_of(format: u8, settings: u8, path: String) -> DataConfig {
    let has = |bit: u32| settings & (1 << bit) != 0;
    DataConfig {
        path: path.into(),
        format: FORMATS[usize::from(format) % FORMATS.len()],
        separator: match settings & 3 {
            1 => Some(";".into()),
            2 => Some(",".into()),
            3 => Some("\"".into()),
            _ => None,
        },
        timestamp_column: has(2).then(|| "time".into()),
        rating_column: has(3).then(|| "stars".into()),
        min_rating: has(4).then_some(3.0),
        k_core: if has(5) { 2 } else { 0 },
        min_length: if has(6) { 4 } else { 3 },
        ..DataConfig::default()
    }
}
