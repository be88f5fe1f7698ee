//! What a network learns from: windows with masked items (bidirectional) or next-item targets (causal), and which of
//! them make the batch of a step.
//!
//! **Bidirectional**: each window gives `copies` samples with k = min(`max_masks`, max(1, round(`mask_share` · length)))
//! masked items, drawn without replacement, and with `last_item_copy` one sample in which only the last item is masked
//! (HAIL's released generator, which follows BERT4Rec's). A masked item is always replaced by the mask token. A
//! training part of one item gives no sample, since with it hidden nothing is left to predict it from; the released
//! generator fails on it.
//!
//! **Causal**: each window gives one sample; its input is all but its last item and the target at every position is
//! the next item. It is the inputs that are sliced into windows of `max_length`, so that every position which
//! evaluation uses is trained; a window then holds one item more, the target of its last position.
//!
//! **Order**: an epoch is a permutation of all samples, keyed by (seed, epoch); its batches follow one another in it.
//! A partial batch at its end is left out, unless it is the epoch's only one. Fixed masks are keyed by
//! (seed, sample), re-drawn ones by (seed, epoch, sample).

use super::batches::{self, Batch, Bucketing, Sample};
use super::windows::windows;
use super::{DataError, Dataset, item_token, mask_token};
use crate::random::{self, Purpose};
use medley_common::config::{DataConfig, NetworkKind, SamplesConfig};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// All training samples of a dataset. Every method is a function of the arguments of [`SampleSet::new`] and its own.
#[derive(Debug)]
pub struct SampleSet {
    config: SamplesConfig,
    kind: NetworkKind,
    seed: u64,
    items: usize,
    /// Training parts of all users, one after the other.
    tokens: Vec<u32>,
    /// Start in `tokens` and length of each window.
    windows: Vec<(usize, usize)>,
    bucketing: Bucketing,
    /// The order of the epoch asked for last, which is the next one asked for as a rule.
    order: Mutex<Option<(u64, Arc<Vec<usize>>)>>,
}

impl SampleSet {
    /// Slices the training part of every user into windows. Users with one training item give none.
    ///
    /// # Errors
    /// [`DataError::NoSamples`] if that leaves nothing.
    pub fn new(
        dataset: &Dataset,
        data: &DataConfig,
        samples: &SamplesConfig,
        kind: NetworkKind,
        seed: u64,
    ) -> Result<Self, DataError> {
        let mut tokens = Vec::with_capacity(dataset.interactions());
        let mut spans = Vec::new();
        for user in 0..dataset.users() {
            let training = dataset.training(user, data.train_on_validation);
            let base = tokens.len();
            tokens.extend_from_slice(training);
            spans.extend(
                sample_windows(training.len(), samples, kind)
                    .into_iter()
                    .map(|window| (base + window.start, window.len())),
            );
        }
        if spans.is_empty() {
            return Err(DataError::NoSamples);
        }
        Ok(Self {
            config: samples.clone(),
            kind,
            seed,
            items: dataset.items,
            tokens,
            windows: spans,
            bucketing: Bucketing::ByLength,
            order: Mutex::new(None),
        })
    }

    /// The same samples in batches of another shape: with [`Bucketing::Single`] all sequences of a batch are padded
    /// to its longest. What is learned is the same.
    pub fn with_bucketing(mut self, bucketing: Bucketing) -> Self {
        self.bucketing = bucketing;
        self
    }

    /// How many windows there are.
    pub fn windows(&self) -> usize {
        self.windows.len()
    }

    /// Samples of an epoch.
    pub fn samples_per_epoch(&self) -> usize {
        self.windows.len() * self.variants()
    }

    /// Batches of an epoch, at least 1: full ones only, or the one partial batch.
    ///
    /// # Panics
    /// If `batch_size` is 0, which configurations refuse.
    pub fn steps_per_epoch(&self, batch_size: usize) -> usize {
        (self.samples_per_epoch() / batch_size).max(1)
    }

    /// A lower bound on the rows of every batch: those of the `batch_size` samples with the fewest.
    pub fn min_rows(&self, batch_size: usize) -> usize {
        let mut rows: Vec<usize> = (0..self.samples_per_epoch()).map(|sample| self.rows_of(sample)).collect();
        rows.sort_unstable();
        rows.iter().take(batch_size).sum()
    }

    /// The batch of a step counted over the whole training, from 0.
    ///
    /// # Panics
    /// If `batch_size` is 0, which configurations refuse.
    pub fn batch_at(&self, step: u64, batch_size: usize) -> Batch {
        let steps = self.steps_per_epoch(batch_size) as u64;
        self.batch(step / steps, (step % steps) as usize, batch_size)
    }

    /// The batch of a step of an epoch, both from 0.
    ///
    /// # Panics
    /// If the epoch has no such step, or `batch_size` is 0.
    pub fn batch(&self, epoch: u64, step_in_epoch: usize, batch_size: usize) -> Batch {
        let steps = self.steps_per_epoch(batch_size);
        assert!(step_in_epoch < steps, "step {step_in_epoch} of an epoch of {steps}");
        let order = self.order(epoch);
        let start = step_in_epoch * batch_size;
        let end = (start + batch_size).min(order.len());
        let samples: Vec<Sample> = order[start..end].iter().map(|&sample| self.sample(epoch, sample)).collect();
        batches::assemble(&samples, self.bucketing).0
    }

    fn order(&self, epoch: u64) -> Arc<Vec<usize>> {
        // A cache is as good after a panic elsewhere as before.
        let mut cached = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        match &*cached {
            Some((of, order)) if *of == epoch => Arc::clone(order),
            _ => {
                let mut order: Vec<usize> = (0..self.samples_per_epoch()).collect();
                let count = order.len();
                let mut rng = random::stream(Purpose::EpochOrder, self.seed, epoch, 0);
                random::shuffle_first(&mut order, count, &mut rng);
                let order = Arc::new(order);
                *cached = Some((epoch, Arc::clone(&order)));
                order
            }
        }
    }

    /// Samples made of each window.
    fn variants(&self) -> usize {
        match self.kind {
            NetworkKind::Bidirectional => self.config.copies + usize::from(self.config.last_item_copy),
            NetworkKind::Causal => 1,
        }
    }

    fn window(&self, sample: usize) -> &[u32] {
        let (start, length) = self.windows[sample / self.variants()];
        &self.tokens[start..start + length]
    }

    fn rows_of(&self, sample: usize) -> usize {
        let length = self.window(sample).len();
        match self.kind {
            NetworkKind::Causal => length - 1,
            NetworkKind::Bidirectional if self.masks_last_item_only(sample) => 1,
            NetworkKind::Bidirectional => mask_count(&self.config, length),
        }
    }

    fn masks_last_item_only(&self, sample: usize) -> bool {
        sample % self.variants() == self.config.copies
    }

    fn sample(&self, epoch: u64, sample: usize) -> Sample {
        let window = self.window(sample);
        match self.kind {
            NetworkKind::Causal => next_items(window),
            NetworkKind::Bidirectional => {
                let positions = if self.masks_last_item_only(sample) {
                    vec![window.len() - 1]
                } else {
                    self.mask_positions(epoch, sample, window.len())
                };
                masked(window, &positions, self.items)
            }
        }
    }

    fn mask_positions(&self, epoch: u64, sample: usize, length: usize) -> Vec<usize> {
        let mut rng = if self.config.redraw {
            random::stream(Purpose::RedrawnMasks, self.seed, epoch, sample as u64)
        } else {
            random::stream(Purpose::FixedMasks, self.seed, 0, sample as u64)
        };
        let count = mask_count(&self.config, length);
        let mut positions: Vec<usize> = (0..length).collect();
        random::shuffle_first(&mut positions, count, &mut rng);
        positions.truncate(count);
        positions.sort_unstable();
        positions
    }
}

/// Windows of a training part, each of at least two items.
fn sample_windows(length: usize, config: &SamplesConfig, kind: NetworkKind) -> Vec<Range<usize>> {
    if length < 2 {
        return Vec::new();
    }
    match kind {
        NetworkKind::Bidirectional => windows(length, config.max_length, config.window_overlap),
        NetworkKind::Causal => windows(length - 1, config.max_length, config.window_overlap)
            .into_iter()
            .map(|inputs| inputs.start..inputs.end + 1)
            .collect(),
    }
}

/// How many items of a window are masked.
fn mask_count(config: &SamplesConfig, length: usize) -> usize {
    let share = (config.mask_share * length as f64).round() as usize;
    share.max(1).min(config.max_masks)
}

fn next_items(window: &[u32]) -> Sample {
    let input = &window[..window.len() - 1];
    Sample {
        tokens: input.iter().copied().map(item_token).collect(),
        rows: window[1..].iter().map(|&item| i64::from(item)).enumerate().collect(),
    }
}

fn masked(window: &[u32], positions: &[usize], items: usize) -> Sample {
    let mut tokens: Vec<i64> = window.iter().copied().map(item_token).collect();
    let rows = positions
        .iter()
        .map(|&position| {
            tokens[position] = mask_token(items);
            (position, i64::from(window[position]))
        })
        .collect();
    Sample { tokens, rows }
}

#[cfg(test)]
mod tests;
