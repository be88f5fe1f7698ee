//! Popularity and own-frequency against figures measured elsewhere on the papers' datasets. The negatives there came from
//! another stream of random numbers, so the last digits differ.

#![allow(clippy::unwrap_used)]

use medley_common::config::DataConfig;
use medley_common::method::{MethodName, Protocol};
use medley_worker::data::Dataset;
use medley_worker::eval::{EvalError, Evaluator, Split};
use std::path::{Path, PathBuf};

/// Several standard errors of a share, both sides being samples; times the root of the number of users.
const TOLERANCE: f64 = 1.2;

fn shared() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared");
    let shared = std::env::var_os("MEDLEY_SHARED").map_or(beside, PathBuf::from);
    shared.join("data").is_dir().then_some(shared)
}

#[test]
fn published_data_gives_the_measured_figures() {
    let Some(shared) = shared() else {
        println!("the papers' data is not beside the checkout; skipped");
        return;
    };
    let figures = std::fs::read_to_string(shared.join("paper/sanity_baselines.csv")).unwrap();
    let names = [("ML-1m", "ml-1m"), ("LastFM", "lastfm.seq"), ("CHI-18", "chi-18"), ("NYC-16", "nyc-16")];
    let mut checked = 0;
    for (name, file) in names {
        let path = shared.join(format!("data/{file}.txt"));
        let dataset = Dataset::load(&DataConfig { path, ..DataConfig::default() }).unwrap();
        let protocols = vec![Protocol::Uniform99, Protocol::Popularity99];
        let evaluator = Evaluator::new(protocols, &dataset.sequences, dataset.items, 1).unwrap();
        for method in [MethodName::Popularity, MethodName::OwnFrequency] {
            let never = || Ok::<_, EvalError>(false);
            let measured = evaluator.baseline(method, Split::Test, &never).unwrap().unwrap();
            for line in figures.lines().skip(1) {
                let fields: Vec<&str> = line.split(',').collect();
                let theirs = if method == MethodName::Popularity { "POP" } else { "PersonalFreq+POP" };
                let protocol = match fields[2] {
                    "excl_history" => "uniform99",
                    "popularity_excl_history" => "popularity99",
                    _ => continue,
                };
                if fields[0] != name || fields[1] != theirs {
                    continue;
                }
                let ours = measured.iter().find(|evaluation| evaluation.protocol == protocol).unwrap();
                let (ours, expected) = (ours.metrics[fields[3]].mean, fields[4].parse::<f64>().unwrap());
                assert!(
                    (ours - expected).abs() < TOLERANCE / (dataset.users() as f64).sqrt(),
                    "{line}: measured {ours}"
                );
                checked += 1;
            }
        }
    }
    assert!(checked >= 40, "only {checked} figures were found to compare with");
}
