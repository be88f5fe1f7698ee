//! The kernels over a chunk of rows: checked inputs, the choice of instructions, and threads.

use rayon::prelude::*;

use super::range::{CrossEntropies, Losses, RangeTask, RowRange, Softmax};
use super::spec::LossSpec;
use super::sums::{LossSums, PeerLosses, RowFlags, RowLosses};
use crate::simd::lanes::{SimdLevel, dispatch};

/// Rows that one thread takes at a time. Fixed, so that what is computed together never depends on the threads.
const ROWS_PER_RANGE: usize = 8;
/// Below so many logits a chunk isn't worth waking other threads.
const LOGITS_WORTH_THREADS: usize = 1 << 17;

/// What is wrong with a chunk.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LossError {
    /// A slice of the wrong length.
    #[error("{what} of the loss chunk has {found} entries, but {expected} are needed ({shape})")]
    Shape {
        /// Which slice.
        what: &'static str,
        /// What its axes are.
        shape: &'static str,
        /// The product of its axes.
        expected: usize,
        /// The length given.
        found: usize,
    },
    /// A target that is no class.
    #[error("row {row} of the loss chunk has target {target}, outside the catalogue of {catalogue} classes")]
    Target {
        /// The row within the chunk.
        row: usize,
        /// Its target.
        target: i64,
        /// V.
        catalogue: usize,
    },
    /// A peer that is not in the cohort.
    #[error("peer {peer} is not one of the {peers} peers of the loss chunk")]
    Peer {
        /// The peer.
        peer: usize,
        /// T.
        peers: usize,
    },
    /// An instruction set that this machine lacks.
    #[error("this machine has no {0:?} instructions")]
    Level(SimdLevel),
}

/// The rows of a chunk, as far as all peers share them.
#[derive(Clone, Copy, Debug)]
pub struct ChunkRows<'a> {
    /// The positive class of each row, `[rows]`; ignored on padding.
    pub targets: &'a [i64],
    /// The weight of each row, `[rows]`, 0 for padding; `None`: all 1.
    pub weights: Option<&'a [f32]>,
    /// Which rows are truncated, `[rows]`; `None`: none.
    pub truncated: Option<&'a [bool]>,
    /// V, the number of classes.
    pub catalogue: usize,
    /// What gradients are multiplied by, besides the row weight: 1 over [`LossSpec::denominator`] of the whole batch.
    pub scale: f64,
}

/// The loss kernels for one instruction set.
#[derive(Clone, Copy, Debug)]
pub struct LossKernel {
    level: SimdLevel,
    threads: bool,
}

impl Default for LossKernel {
    fn default() -> Self {
        Self::new()
    }
}

impl LossKernel {
    /// The fastest kernels for this machine, on the calling thread.
    pub fn new() -> Self {
        Self { level: SimdLevel::best(), threads: false }
    }

    /// The kernels for a given instruction set.
    ///
    /// # Errors
    /// [`LossError::Level`] if the machine lacks it.
    pub fn with_level(level: SimdLevel) -> Result<Self, LossError> {
        let known = SimdLevel::available().contains(&level);
        known.then_some(Self { level, threads: false }).ok_or(LossError::Level(level))
    }

    /// Splits large chunks over the current rayon pool. The results are the same bits, whatever the pool.
    pub fn on_threads(self, threads: bool) -> Self {
        Self { threads, ..self }
    }

    /// The instruction set in use.
    pub fn level(&self) -> SimdLevel {
        self.level
    }

    /// Losses of all peers on the rows of a chunk, and the gradients of the sum of their totals.
    ///
    /// `logits`: `[peers, rows, catalogue]`, overwritten by d(Σ_j total_j) / d(logits), weighted and scaled; zero on
    /// rows of weight 0. `sums` has one entry a peer, to which row sums are added.
    ///
    /// # Errors
    /// [`LossError`] if a slice has the wrong length or a target is no class; nothing is written then.
    pub fn losses_and_gradients(
        &self,
        spec: &LossSpec,
        rows: &ChunkRows<'_>,
        logits: &mut [f32],
        sums: &mut LossSums,
    ) -> Result<(), LossError> {
        let peers = sums.peers.len();
        rows.check()?;
        check_length("logits", "[peers, rows, catalogue]", peers * rows.logits(), logits.len())?;
        let own: Vec<usize> = (0..peers).collect();
        self.losses(&Losses { spec, rows, own: &own, peers, everyone: None }, logits, &mut |losses, flags| {
            sums.add_row(&own, losses, flags);
        });
        Ok(())
    }

    /// [`LossKernel::losses_and_gradients`] for `peers` peers, with the losses of every row by itself.
    ///
    /// # Errors
    /// As there.
    pub fn losses_by_row(
        &self,
        spec: &LossSpec,
        rows: &ChunkRows<'_>,
        peers: usize,
        logits: &mut [f32],
    ) -> Result<RowLosses, LossError> {
        rows.check()?;
        check_length("logits", "[peers, rows, catalogue]", peers * rows.logits(), logits.len())?;
        let own: Vec<usize> = (0..peers).collect();
        let mut by_row = RowLosses::new(peers);
        self.losses(&Losses { spec, rows, own: &own, peers, everyone: None }, logits, &mut |losses, flags| {
            by_row.push(losses, flags);
        });
        Ok(by_row)
    }

    /// The same for a worker that has the logits of its `own` peers alone, and of all peers the probabilities
    /// (`exchange = "distributions"`).
    ///
    /// `own`: indices of peers. `own_logits`: `[own, rows, catalogue]`, overwritten by gradients.
    /// `everyone`: `[peers, rows, catalogue]`, from [`LossKernel::softmax`], the own peers included. `sums` has one entry
    /// for every peer of the cohort; those of `own` are added to. Peers whose p_* round to the same number are equals
    /// to [`Teacher::MinimumGroup`](super::Teacher::MinimumGroup).
    ///
    /// # Errors
    /// As [`LossKernel::losses_and_gradients`], and [`LossError::Peer`].
    pub fn losses_and_gradients_for(
        &self,
        spec: &LossSpec,
        rows: &ChunkRows<'_>,
        own: &[usize],
        own_logits: &mut [f32],
        everyone: &[f32],
        sums: &mut LossSums,
    ) -> Result<(), LossError> {
        let peers = sums.peers.len();
        rows.check()?;
        if let Some(&peer) = own.iter().find(|&&peer| peer >= peers) {
            return Err(LossError::Peer { peer, peers });
        }
        check_length("own logits", "[own, rows, catalogue]", own.len() * rows.logits(), own_logits.len())?;
        check_length("probabilities", "[peers, rows, catalogue]", peers * rows.logits(), everyone.len())?;
        self.losses(&Losses { spec, rows, own, peers, everyone: Some(everyone) }, own_logits, &mut |losses, flags| {
            sums.add_row(own, losses, flags);
        });
        Ok(())
    }

    /// `-log p_*` of every row, for ranks that must be known before the gradients: the very numbers that
    /// [`LossKernel::losses_and_gradients`] adds up.
    ///
    /// `logits`: `[peers, rows, catalogue]`, not changed. `into`: `[peers, rows]`; 0 on rows of weight 0.
    ///
    /// # Errors
    /// [`LossError`] if a slice has the wrong length or a target is no class.
    pub fn cross_entropies(&self, rows: &ChunkRows<'_>, logits: &[f32], into: &mut [f64]) -> Result<(), LossError> {
        rows.check()?;
        let count = rows.targets.len();
        let peers = into.len().checked_div(count).unwrap_or(0);
        check_length("cross-entropies", "[peers, rows]", peers * count, into.len())?;
        check_length("logits", "[peers, rows, catalogue]", peers * rows.logits(), logits.len())?;
        if count > 0 {
            dispatch(self.level, CrossEntropies { rows, logits, into });
        }
        Ok(())
    }

    /// Replaces rows of logits, `[.., catalogue]`, by their probabilities.
    pub fn softmax(&self, catalogue: usize, logits: &mut [f32]) {
        if catalogue > 0 {
            dispatch(self.level, Softmax { catalogue, logits });
        }
    }

    /// `on_row` is given the own peers' losses of every row, in order.
    fn losses(&self, job: &Losses<'_>, logits: &mut [f32], on_row: &mut dyn FnMut(&[PeerLosses], RowFlags)) {
        let (count, block) = (job.rows.targets.len(), job.rows.logits());
        if count == 0 || job.own.is_empty() {
            return;
        }
        // Ranges of rows, each with its slice of every own peer's block and its own outcomes.
        let mut ranges: Vec<RowRange<'_>> = (0..count)
            .step_by(ROWS_PER_RANGE)
            .map(|start| RowRange::new(start..count.min(start + ROWS_PER_RANGE), job.own.len()))
            .collect();
        for peer in logits.chunks_exact_mut(block) {
            let pieces = peer.chunks_mut(ROWS_PER_RANGE * job.rows.catalogue);
            for (range, piece) in ranges.iter_mut().zip(pieces) {
                range.logits.push(piece);
            }
        }
        if self.threads && logits_worth_threads(job.own.len() * block) {
            ranges.par_iter_mut().for_each(|range| dispatch(self.level, RangeTask { job, range }));
        } else {
            for range in &mut ranges {
                dispatch(self.level, RangeTask { job, range });
            }
        }
        for range in &ranges {
            for (losses, flags) in range.losses.chunks_exact(job.own.len()).zip(&range.flags) {
                on_row(losses, *flags);
            }
        }
    }
}

fn logits_worth_threads(logits: usize) -> bool {
    logits >= LOGITS_WORTH_THREADS && rayon::current_num_threads() > 1
}

fn check_length(what: &'static str, shape: &'static str, expected: usize, found: usize) -> Result<(), LossError> {
    if expected == found { Ok(()) } else { Err(LossError::Shape { what, shape, expected, found }) }
}

impl ChunkRows<'_> {
    /// Logits of one peer.
    fn logits(&self) -> usize {
        self.targets.len() * self.catalogue
    }

    pub(super) fn weight(&self, row: usize) -> f64 {
        self.weights.map_or(1.0, |weights| f64::from(weights[row]))
    }

    fn check(&self) -> Result<(), LossError> {
        let rows = self.targets.len();
        check_length("weights", "[rows]", rows, self.weights.map_or(rows, <[f32]>::len))?;
        check_length("truncated", "[rows]", rows, self.truncated.map_or(rows, <[bool]>::len))?;
        for (row, &target) in self.targets.iter().enumerate() {
            let inside = usize::try_from(target).is_ok_and(|target| target < self.catalogue);
            if !inside && self.weight(row) != 0.0 {
                return Err(LossError::Target { row, target, catalogue: self.catalogue });
            }
        }
        Ok(())
    }
}
