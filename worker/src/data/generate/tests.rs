#![allow(clippy::unwrap_used)]
use super::model::sequences;
use super::*;
use crate::random::{self, Purpose};
use std::collections::HashSet;

#[test]
fn is_a_function_of_its_options() {
    let options = GenerateOptions { users: 50, ..GenerateOptions::default() };
    let base = sequences(&options);
    assert_eq!(base, sequences(&options));
    assert_ne!(base, sequences(&GenerateOptions { seed: 2, ..options }));
    assert_eq!(base[..20], sequences(&GenerateOptions { users: 20, ..options })[..]);
}

#[test]
fn has_the_shape_asked_for() {
    let sequences = sequences(&GenerateOptions::default());
    assert_eq!(sequences.len(), 1500);
    let total: usize = sequences.iter().map(Vec::len).sum();
    let mean = total as f64 / 1500.0;
    assert!((mean - 25.0).abs() < 2.0, "{mean}");
    for sequence in &sequences {
        assert!(sequence.len() >= SHORTEST);
        let distinct: HashSet<usize> = sequence.iter().copied().collect();
        assert_eq!(distinct.len(), sequence.len());
    }
    let mut counts = vec![0_usize; 600];
    for &item in sequences.iter().flatten() {
        counts[item] += 1;
    }
    counts.sort_unstable_by(|a, b| b.cmp(a));
    let head: usize = counts[..60].iter().sum();
    assert!(4 * head > total, "a tenth of the items has {head} of {total}");
}

/// HR@10 of the last items, each ranked among 99 that the user has not had.
fn hit_rate(sequences: &[Vec<usize>], items: usize, score: impl Fn(usize, usize) -> f64) -> f64 {
    let hits = sequences
        .iter()
        .enumerate()
        .filter(|(user, sequence)| {
            let mut rng = random::stream(Purpose::SyntheticUser, 99, 1, *user as u64);
            let target = sequence[sequence.len() - 1];
            let last = sequence[sequence.len() - 2];
            let mut negatives = Vec::new();
            while negatives.len() < 99 {
                let item = random::below(&mut rng, items);
                if !sequence.contains(&item) {
                    negatives.push(item);
                }
            }
            let goal = score(last, target);
            let above = negatives.iter().filter(|&&item| score(last, item) >= goal).count();
            above < 10
        })
        .count();
    hits as f64 / sequences.len() as f64
}

#[test]
fn the_last_item_tells_far_more_than_popularity() {
    let options = GenerateOptions::default();
    let sequences = sequences(&options);
    let mut popularity = vec![0.0; options.items];
    let mut follows = vec![vec![0.0; options.items]; options.items];
    for sequence in &sequences {
        let training = &sequence[..sequence.len() - 1];
        for &item in training {
            popularity[item] += 1.0;
        }
        for pair in training.windows(2) {
            follows[pair[0]][pair[1]] += 1.0;
        }
    }
    let popular = hit_rate(&sequences, options.items, |_, item| popularity[item]);
    let markov = hit_rate(&sequences, options.items, |last, item| follows[last][item] + 1e-6 * popularity[item]);
    println!("HR@10 under uniform99: popularity {popular:.3}, first-order lookup {markov:.3}");
    assert!(popular < 0.45, "{popular}");
    assert!(markov > popular + 0.3, "{markov} against {popular}");
}

#[test]
fn writes_whole_files_and_replaces_none_unasked() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("made.txt");
    let options = GenerateOptions { users: 10, ..GenerateOptions::default() };
    let report = generate(&path, &options, false).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(text.lines().count(), report.interactions);
    assert!(matches!(generate(&path, &GenerateOptions { seed: 3, ..options }, false), Err(DataError::Exists { .. })));
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
    generate(&path, &GenerateOptions { seed: 3, ..options }, true).unwrap();
    assert_ne!(fs::read_to_string(&path).unwrap(), text);
    let names: Vec<_> = fs::read_dir(directory.path()).unwrap().collect();
    assert_eq!(names.len(), 1, "{names:?}");
    let below_a_file = path.join("data.txt");
    assert!(matches!(generate(&below_a_file, &options, false), Err(DataError::Write { .. })));
    assert!(write_whole(&path, |_| Err(io::Error::other("disk full"))).is_err());
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[test]
fn options_that_make_no_data_are_named() {
    let bad = |change: fn(&mut GenerateOptions)| {
        let mut options = GenerateOptions::default();
        change(&mut options);
        check(&options).unwrap_err().to_string()
    };
    assert!(bad(|o| o.users = 0).starts_with("--users is 0;"));
    assert!(bad(|o| o.interests = 0).starts_with("--interests is 0;"));
    assert!(bad(|o| o.interests_per_user = 13).starts_with("--interests-per-user is 13; use 1 to 12"));
    assert!(bad(|o| o.mean_length = 4).starts_with("--mean-length is 4; use 5"));
    assert!(bad(|o| o.items = 100).starts_with("--items is 100; use 204 or more"));
    assert!(bad(|o| o.skew = f64::NAN).starts_with("--skew is NaN;"));
    assert!(bad(|o| o.order = 1.5).starts_with("--order is 1.5;"));
    assert!(bad(|o| o.switch = -0.1).starts_with("--switch is -0.1;"));
    // The smallest catalogue allowed does not run dry.
    let tight = GenerateOptions { items: 204, skew: 3.0, users: 100, ..GenerateOptions::default() };
    assert_eq!(sequences(&tight).len(), 100);
}
