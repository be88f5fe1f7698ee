#![allow(clippy::unwrap_used)]

use super::*;
use crate::data::{LoadReport, Prefetch};
use medley_common::config::DataFormat;
use proptest::prelude::*;
use std::collections::HashMap;

/// Users of the given lengths. Item u·1000 + p is at place p of user u, so that a token tells where it comes from.
fn dataset(lengths: &[usize]) -> Dataset {
    let sequences: Vec<Vec<u32>> = lengths
        .iter()
        .zip(0..)
        .map(|(&length, user)| (0..length as u32).map(|place| user * 1000 + place).collect())
        .collect();
    let items = lengths.len() * 1000;
    Dataset {
        item_names: (0..items).map(|item| item.to_string()).collect(),
        user_names: (0..lengths.len()).map(|user| user.to_string()).collect(),
        sequences,
        items,
        hash: String::new(),
        report: LoadReport {
            format: DataFormat::Auto,
            interactions_read: 0,
            interactions_rated_lower: 0,
            users_below_k_core: 0,
            users_below_min_length: 0,
            items_removed: 0,
        },
    }
}

fn set(lengths: &[usize], kind: NetworkKind, seed: u64, config: &SamplesConfig) -> SampleSet {
    SampleSet::new(&dataset(lengths), &DataConfig::default(), config, kind, seed).unwrap()
}

fn small() -> SamplesConfig {
    SamplesConfig { max_length: 20, max_masks: 4, copies: 3, ..SamplesConfig::default() }
}

/// Tokens, and (position, target) rows.
type Unpacked = (Vec<i64>, Vec<(usize, i64)>);

/// Sequences of a batch without padding, each with its (position, target) rows.
fn unpack(batch: &Batch) -> Vec<Unpacked> {
    let mut sequences = Vec::new();
    for bucket in &batch.buckets {
        assert_eq!(bucket.tokens.len(), bucket.sequences * bucket.length);
        assert!(bucket.row_positions.is_sorted_by(|a, b| a < b));
        for (place, &length) in bucket.lengths.iter().enumerate() {
            let tokens = &bucket.tokens[place * bucket.length..(place + 1) * bucket.length];
            assert!(tokens[..length].iter().all(|&token| token > 0));
            assert!(tokens[length..].iter().all(|&token| token == 0));
            let rows = bucket
                .row_positions
                .iter()
                .zip(&bucket.targets)
                .filter(|&(&row, _)| row as usize / bucket.length == place)
                .map(|(&row, &target)| (row as usize % bucket.length, target))
                .collect();
            sequences.push((tokens[..length].to_vec(), rows));
        }
    }
    assert_eq!(batch.rows, batch.targets().count());
    sequences
}

#[test]
fn masks_hide_their_share_and_targets_are_what_they_hide() {
    let lengths = [3, 4, 9, 22, 70, 5];
    let set = set(&lengths, NetworkKind::Bidirectional, 1, &small());
    let mask = mask_token(6000);
    let mut only_last = 0;
    let batch = set.batch(0, 0, set.samples_per_epoch());
    for (tokens, rows) in unpack(&batch) {
        let length = tokens.len();
        let share = (0.2 * length as f64).round().clamp(1.0, 4.0) as usize;
        assert!(rows.len() == share || rows.len() == 1);
        only_last += usize::from(rows.len() == 1 && rows[0].0 == length - 1 && length > 7);
        // Restored, the window is a run of consecutive items of one user.
        let mut restored = tokens.clone();
        for &(position, target) in &rows {
            assert_eq!(tokens[position], mask);
            restored[position] = target + 1;
        }
        assert_eq!(tokens.iter().filter(|&&t| t == mask).count(), rows.len());
        assert!(restored.windows(2).all(|pair| pair[1] == pair[0] + 1));
    }
    // One such copy of each window longer than 7 items, whose other copies hide two or more.
    let long = set.windows.iter().filter(|window| window.1 > 7).count();
    assert_eq!(only_last, long);
    // Training parts of 1, 2, 7, 20, 68 and 3 items.
    assert_eq!(set.windows(), 1 + 1 + 1 + 6 + 1);
    assert_eq!(set.samples_per_epoch(), set.windows() * 4);
}

#[test]
fn causal_targets_are_the_next_items_and_all_but_the_first_are_targets() {
    let config = SamplesConfig { window_overlap: 0.0, ..small() };
    let lengths = [4, 23, 63, 100];
    let set = set(&lengths, NetworkKind::Causal, 1, &config);
    assert_eq!(set.samples_per_epoch(), set.windows());
    let mut targets: HashMap<i64, usize> = HashMap::new();
    for (tokens, rows) in unpack(&set.batch(0, 0, set.windows())) {
        assert!(tokens.len() <= 20);
        assert_eq!(rows.len(), tokens.len());
        for (position, target) in rows {
            // The token of the item before the target is the target's index.
            assert_eq!(tokens[position], target);
            *targets.entry(target).or_default() += 1;
        }
    }
    for (user, length) in lengths.into_iter().enumerate() {
        for place in 1..length as i64 - 2 {
            assert!(targets.contains_key(&(user as i64 * 1000 + place)), "{user} {place}");
        }
    }
    let total: usize = lengths.iter().map(|length| length - 3).sum();
    assert_eq!(targets.len(), total);
}

#[test]
fn a_training_part_of_one_item_gives_no_sample() {
    for kind in [NetworkKind::Bidirectional, NetworkKind::Causal] {
        assert_eq!(set(&[3, 4], kind, 1, &small()).windows(), 1);
        let none = SampleSet::new(&dataset(&[3, 3]), &DataConfig::default(), &small(), kind, 1);
        assert!(matches!(none, Err(DataError::NoSamples)));
        let data = DataConfig { train_on_validation: true, ..DataConfig::default() };
        let some = SampleSet::new(&dataset(&[3, 3]), &data, &small(), kind, 1).unwrap();
        assert_eq!(some.windows(), 2);
    }
}

#[test]
fn batches_are_a_function_of_seed_epoch_and_step() {
    let lengths = [30, 9, 55, 14, 41, 23];
    for kind in [NetworkKind::Bidirectional, NetworkKind::Causal] {
        let make = |seed| set(&lengths, kind, seed, &small());
        let (a, b) = (make(5), make(5));
        // Asked in another order, by another instance.
        let steps = a.steps_per_epoch(4);
        let forwards: Vec<Batch> = (0..2 * steps as u64).map(|step| a.batch_at(step, 4)).collect();
        let mut backwards: Vec<Batch> = (0..2 * steps as u64).rev().map(|step| b.batch_at(step, 4)).collect();
        backwards.reverse();
        assert_eq!(forwards, backwards);
        assert_eq!(forwards[steps + 1], a.batch(1, 1, 4));
        assert_ne!(a.batch(0, 0, 4), a.batch(0, 1, 4));
        assert_ne!(a.batch(0, 0, 4), a.batch(1, 0, 4));
        assert_ne!(a.batch(0, 0, 4), make(6).batch(0, 0, 4));
    }
}

#[test]
fn fixed_masks_stay_and_redrawn_ones_change_with_the_epoch() {
    let lengths = [40, 33, 28];
    let epoch = |set: &SampleSet, epoch| {
        let mut all = unpack(&set.batch(epoch, 0, set.samples_per_epoch()));
        all.sort();
        all
    };
    let fixed = set(&lengths, NetworkKind::Bidirectional, 1, &small());
    assert_eq!(epoch(&fixed, 0), epoch(&fixed, 1));
    let config = SamplesConfig { redraw: true, ..small() };
    let redrawn = set(&lengths, NetworkKind::Bidirectional, 1, &config);
    assert_ne!(epoch(&redrawn, 0), epoch(&redrawn, 1));
    assert_eq!(epoch(&redrawn, 1), epoch(&redrawn, 1));
    let other = set(&lengths, NetworkKind::Bidirectional, 2, &small());
    assert_ne!(epoch(&fixed, 0), epoch(&other, 0));
}

/// These numbers must never change: runs in progress would not resume as they began.
#[test]
fn the_first_batch_is_what_it_always_was() {
    let set = set(&[12, 9, 30], NetworkKind::Bidirectional, 7, &small());
    let rows: Vec<_> = unpack(&set.batch(3, 1, 3)).into_iter().map(|(_, rows)| rows).collect();
    let expected = [
        vec![(8, 2016), (9, 2017), (11, 2019), (18, 2026)],
        vec![(1, 2001), (9, 2009), (13, 2013), (19, 2019)],
        vec![(19, 2027)],
    ];
    assert_eq!(rows, expected);
}

#[test]
fn a_lone_partial_batch_is_used_and_other_tails_are_not() {
    let set = set(&[12, 9, 30], NetworkKind::Bidirectional, 7, &small());
    let samples = set.samples_per_epoch();
    assert_eq!(samples, 16);
    assert_eq!(set.steps_per_epoch(100), 1);
    assert_eq!(set.batch(0, 0, 100).sequences(), samples);
    assert_eq!(set.steps_per_epoch(5), 3);
    assert_eq!(set.steps_per_epoch(16), 1);
}

#[test]
fn a_single_bucket_holds_the_same_rows() {
    let lengths = [30, 9, 55, 14, 41, 23, 4, 4];
    let by_length = set(&lengths, NetworkKind::Bidirectional, 1, &small());
    let single = set(&lengths, NetworkKind::Bidirectional, 1, &small()).with_bucketing(Bucketing::Single);
    let (a, b) = (by_length.batch(0, 0, 30), single.batch(0, 0, 30));
    assert_eq!(b.buckets.len(), 1);
    assert_eq!(unpack(&a), unpack(&b));
    assert!(a.targets().eq(b.targets()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn an_epoch_has_every_sample_once_but_for_its_tail(
        lengths in prop::collection::vec(4_usize..60, 1..12),
        batch_size in 1_usize..20,
        epoch in 0_u64..5,
        seed in any::<u64>(),
        causal in any::<bool>(),
    ) {
        let kind = if causal { NetworkKind::Causal } else { NetworkKind::Bidirectional };
        let set = set(&lengths, kind, seed, &small());
        let steps = set.steps_per_epoch(batch_size);
        let least = set.min_rows(batch_size);
        let mut seen: HashMap<_, usize> = HashMap::new();
        let mut sequences = 0;
        for step in 0..steps {
            let batch = set.batch(epoch, step, batch_size);
            prop_assert!(batch.rows >= least.max(1));
            for sample in unpack(&batch) {
                *seen.entry(sample).or_default() += 1;
                sequences += 1;
            }
        }
        let all = set.samples_per_epoch();
        prop_assert_eq!(sequences, if all < batch_size { all } else { steps * batch_size });
        // Copies of a window may draw the same masks by chance: compare with how often each occurs at all.
        let mut possible: HashMap<_, usize> = HashMap::new();
        for sample in 0..all {
            let sample = set.sample(epoch, sample);
            *possible.entry((sample.tokens, sample.rows)).or_default() += 1;
        }
        for (sample, times) in seen {
            prop_assert!(times <= possible.get(&sample).copied().unwrap_or(0));
        }
    }
}

#[test]
fn a_thread_ahead_builds_the_same_batches_from_any_step_on() {
    let samples = || set(&[9, 14, 30, 7], NetworkKind::Bidirectional, 3, &small());
    let (alone, batch_size) = (samples(), 4);
    let steps_per_epoch = alone.steps_per_epoch(batch_size) as u64;
    // From the beginning and from within an epoch, both into the next one and ended before the last step.
    for first in [0, steps_per_epoch - 1, 2 * steps_per_epoch + 1] {
        let shared = Arc::new(samples());
        let ahead = Arc::clone(&shared);
        let mut batches = Prefetch::start(first..u64::MAX, move |step| ahead.batch_at(step, batch_size)).unwrap();
        for step in first..first + steps_per_epoch + 2 {
            assert_eq!(batches.take().unwrap(), alone.batch_at(step, batch_size), "step {step}");
        }
        drop(batches);
        assert_eq!(Arc::strong_count(&shared), 1, "the thread is gone");
    }
}
