//! The batches of a measurement. They follow the recipe of the eager program that steps are compared with, so that both
//! do the same work; the numbers drawn are not the same.

use super::{BenchError, StepSettings};
use crate::data::batches::{Bucketing, Sample, assemble};
use crate::data::{Batch, Dataset, item_token, mask_token};
use crate::random::{self, Purpose};
use medley_common::config::DataConfig;
use rand_chacha::ChaCha8Rng;

/// Where a measurement's sequences come from. A batch is a function of the step alone, so that every worker builds it.
#[derive(Debug)]
pub enum Source {
    /// Full-length random sequences with a fixed number of masks: the worst case of a shape.
    Synthetic {
        /// V.
        items: usize,
        /// Items of every sequence.
        length: usize,
        /// Masks of every sequence.
        masks: usize,
    },
    /// Windows of real sequences, drawn with replacement.
    Windows {
        /// V.
        items: usize,
        /// Most masks of a sequence.
        masks: usize,
        /// The windows.
        windows: Vec<Vec<u32>>,
    },
}

/// Share of a real window that is masked.
const MASK_SHARE: f64 = 0.2;

/// One sample in so many has its last item masked and no other.
const LAST_ONLY_ONE_IN: usize = 11;

impl Source {
    /// The source that the settings name.
    ///
    /// # Errors
    /// Those of reading the file, and a line where it has no window.
    pub fn open(settings: &StepSettings) -> Result<Self, BenchError> {
        let Some(path) = &settings.data else {
            return Ok(Self::Synthetic { items: settings.items, length: settings.length, masks: settings.masks });
        };
        // The smallest of k-cores removes nothing but users too short to be split, which would be refused otherwise.
        let config = DataConfig { path: path.clone(), k_core: 1, ..DataConfig::default() };
        let dataset = Dataset::load(&config)?;
        let mut windows = Vec::new();
        for user in 0..dataset.users() {
            windows.extend(from_the_right(dataset.training(user, false), settings.length));
        }
        if windows.is_empty() {
            return Err(BenchError::Input(format!("{}: no user has anything to train on", path.display())));
        }
        Ok(Self::Windows { items: dataset.items, masks: settings.masks, windows })
    }

    /// V.
    pub fn items(&self) -> usize {
        match self {
            Self::Synthetic { items, .. } | Self::Windows { items, .. } => *items,
        }
    }

    /// The batch of a step: `sequences` of them, grouped by length as in training.
    pub fn batch(&self, sequences: usize, step: u64) -> Batch {
        let mut random = random::stream(Purpose::Benchmark, 0, 0, step);
        let samples: Vec<Sample> = (0..sequences).map(|_| self.sample(&mut random)).collect();
        assemble(&samples, Bucketing::default()).0
    }

    fn sample(&self, random: &mut ChaCha8Rng) -> Sample {
        match self {
            Self::Synthetic { items, length, masks } => {
                let window: Vec<u32> = (0..*length).map(|_| random::below(random, *items) as u32).collect();
                masked(&window, &positions(*length, *masks, random), *items)
            }
            Self::Windows { items, masks, windows } => {
                let window = &windows[random::below(random, windows.len())];
                let chosen = if random::below(random, LAST_ONLY_ONE_IN) == 0 {
                    vec![window.len() - 1]
                } else {
                    positions(window.len(), mask_count(window.len(), *masks), random)
                };
                masked(window, &chosen, *items)
            }
        }
    }
}

/// Windows of at most `length` items, cut from the end; what is left at the start is a shorter one, unless it is a single
/// item of a longer sequence.
fn from_the_right(items: &[u32], length: usize) -> impl Iterator<Item = Vec<u32>> + '_ {
    items.rchunks(length).filter(|window| window.len() > 1 || items.len() == 1).map(<[u32]>::to_vec)
}

fn mask_count(length: usize, most: usize) -> usize {
    ((MASK_SHARE * length as f64).round_ties_even() as usize).clamp(1, most)
}

/// Places to mask, ascending.
fn positions(length: usize, count: usize, random: &mut ChaCha8Rng) -> Vec<usize> {
    let mut all: Vec<usize> = (0..length).collect();
    random::shuffle_first(&mut all, count, random);
    all.truncate(count);
    all.sort_unstable();
    all
}

fn masked(window: &[u32], positions: &[usize], items: usize) -> Sample {
    let mut tokens: Vec<i64> = window.iter().copied().map(item_token).collect();
    let rows = positions.iter().map(|&position| (position, i64::from(window[position]))).collect();
    positions.iter().for_each(|&position| tokens[position] = mask_token(items));
    Sample { tokens, rows }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::bench::Shape;

    #[test]
    fn synthetic_batches_are_full_and_a_function_of_the_step() {
        let source = Source::Synthetic { items: 30, length: 12, masks: 4 };
        let batch = source.batch(8, 3);
        assert_eq!((batch.rows, batch.padded_tokens(), batch.buckets.len()), (32, 96, 1));
        let bucket = &batch.buckets[0];
        assert_eq!(bucket.tokens.iter().filter(|token| **token == mask_token(30)).count(), 32);
        assert!(bucket.targets.iter().all(|target| (0..30).contains(target)));
        assert_eq!(batch, source.batch(8, 3));
        assert_ne!(batch, source.batch(8, 4));
    }

    #[test]
    fn real_windows_are_cut_from_the_end_and_a_fifth_is_masked() {
        let lengths = |items: usize| -> Vec<usize> {
            let items: Vec<u32> = (0..items as u32).collect();
            from_the_right(&items, 5).map(|window| window.len()).collect()
        };
        assert_eq!(lengths(12), [5, 5, 2]);
        assert_eq!(lengths(11), [5, 5]);
        assert_eq!(lengths(1), [1]);
        assert_eq!([1, 2, 7, 8, 100, 300].map(|length| mask_count(length, 40)), [1, 1, 1, 2, 20, 40]);
        // Halves go to the even number: 0.5 to 0, of which one is made, and 2.5 to 2.
        assert_eq!([3, 12, 13].map(|length| mask_count(length, 40)), [1, 2, 3]);
    }

    #[test]
    fn a_file_gives_its_own_catalogue_and_training_parts_only() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("data.txt");
        let lines: String = (0..9).map(|item| format!("a {item}\n")).chain(["b 3\n".into()]).collect();
        std::fs::write(&path, lines).unwrap();
        let settings = StepSettings { data: Some(path), length: 4, ..StepSettings::of(Shape::Toys) };
        let source = Source::open(&settings).unwrap();
        assert_eq!(source.items(), 9);
        let Source::Windows { windows, .. } = &source else { panic!("a file has windows") };
        // User b is too short; of user a's nine items the last two are held out.
        assert_eq!(windows, &[vec![3, 4, 5, 6], vec![0, 1, 2]]);
        let batch = source.batch(50, 1);
        assert_eq!(batch.sequences(), 50);
        assert_eq!(batch.rows, 50);
    }
}
