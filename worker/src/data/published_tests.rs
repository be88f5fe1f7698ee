//! The papers' datasets, where they are present: Table 1 and the window counts of HAIL's released generator.

#![allow(clippy::unwrap_used)]

use super::{Dataset, DatasetStatistics, SampleSet};
use medley_common::config::{DataConfig, NetworkKind, SamplesConfig};
use std::path::PathBuf;
use std::time::{Duration, Instant};

fn shared() -> Option<PathBuf> {
    let directory = std::env::var_os("MEDLEY_SHARED")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared")), PathBuf::from);
    if directory.join("data").is_dir() {
        return Some(directory);
    }
    println!("skipped: no published datasets in {}", directory.display());
    None
}

fn config(file: &str) -> Option<DataConfig> {
    Some(DataConfig { path: shared()?.join("data").join(file), train_on_validation: true, ..DataConfig::default() })
}

/// Name in the table of printed values, file, and windows of at most 200 items with half of them overlapping.
const DATASETS: [(&str, &str, usize); 5] = [
    ("ML-1m", "ml-1m.txt", 10_272),
    ("Toys", "toys.txt", 19_416),
    ("CHI-18", "chi-18.txt", 4_062),
    ("NYC-16", "nyc-16.txt", 6_404),
    ("LastFM", "lastfm.seq.txt", 1_185),
];

#[test]
fn statistics_equal_the_printed_ones() {
    let Some(shared) = shared() else { return };
    let table = std::fs::read_to_string(shared.join("paper/datasets.csv")).unwrap();
    let mut compared = 0;
    for (name, file) in DATASETS.map(|(name, file, _)| (name, file)).into_iter().chain([("Beauty", "beauty.seq.txt")]) {
        let dataset = Dataset::load(&config(file).unwrap()).unwrap();
        let is = DatasetStatistics::of(&dataset).rounded();
        for line in table.lines().skip(1) {
            let [of, _, metric, printed] = line.split(',').collect::<Vec<_>>()[..] else {
                panic!("{line}");
            };
            if of != name {
                continue;
            }
            let measured = match metric {
                "users" => is.users as f64,
                "items" => is.items as f64,
                "interactions" => is.interactions as f64,
                "len_max" => is.len_max as f64,
                "len_min" => is.len_min as f64,
                "len_avg" => is.len_avg,
                "len_std" | "len_std_labelled_variance" => is.len_std,
                "density_percent" => (is.density_percent * 100.0).round() / 100.0,
                other => panic!("{other}"),
            };
            // The file gives 8.51 where both papers print 8.50.
            let printed = match (name, metric) {
                ("Toys", "len_std" | "len_std_labelled_variance") => 8.51,
                _ => printed.parse().unwrap(),
            };
            assert_eq!(measured, printed, "{name} {metric}");
            compared += 1;
        }
    }
    assert_eq!(compared, 4 * 6 + 3 * 6 + 4);
}

#[test]
fn windows_are_as_many_as_the_released_generator_makes() {
    for (name, file, expected) in DATASETS {
        let Some(data) = config(file) else { return };
        let dataset = Dataset::load(&data).unwrap();
        let samples = SamplesConfig::default();
        let set = SampleSet::new(&dataset, &data, &samples, NetworkKind::Bidirectional, 1).unwrap();
        assert_eq!(set.windows(), expected, "{name}");
        assert_eq!(set.samples_per_epoch(), 11 * expected, "{name}");
    }
}

/// 1 million lines take a few tenths of a second; the bound is loose, for machines that are busy with other tests.
#[test]
fn a_million_lines_load_in_seconds() {
    let Some(data) = config("ml-1m.txt") else {
        return;
    };
    let begin = Instant::now();
    let dataset = Dataset::load(&data).unwrap();
    let took = begin.elapsed();
    println!("ml-1m.txt: {} interactions in {took:?}", dataset.interactions());
    assert!(took < Duration::from_secs(10), "{took:?}");
}
