//! The work on a range of rows, written once for every instruction set.

use std::ops::Range;

use super::chunk::ChunkRows;
use super::exclusivity::{cross_entropy_row, exclusivity_row};
use super::mutual::mutual_row;
use super::row::{Others, Row, Scratch};
use super::softmax::{exponentiate, probabilities};
use super::spec::LossSpec;
use super::sums::{PeerLosses, RowFlags};
use crate::simd::lanes::{Lanes, Task};

/// A chunk's losses: everything but the logits.
pub(super) struct Losses<'a> {
    pub spec: &'a LossSpec,
    pub rows: &'a ChunkRows<'a>,
    pub own: &'a [usize],
    pub peers: usize,
    pub everyone: Option<&'a [f32]>,
}

/// Some rows of a chunk, and what came of them.
pub(super) struct RowRange<'a> {
    pub rows: Range<usize>,
    /// Of each own peer, `[rows, catalogue]`.
    pub logits: Vec<&'a mut [f32]>,
    /// `[rows, own]`.
    pub losses: Vec<PeerLosses>,
    pub flags: Vec<RowFlags>,
}

impl RowRange<'_> {
    pub(super) fn new(rows: Range<usize>, own: usize) -> Self {
        let count = rows.len();
        Self {
            rows,
            logits: Vec::with_capacity(own),
            losses: vec![PeerLosses::default(); count * own],
            flags: vec![RowFlags::default(); count],
        }
    }
}

pub(super) struct RangeTask<'t, 'a> {
    pub job: &'t Losses<'t>,
    pub range: &'t mut RowRange<'a>,
}

impl Task for RangeTask<'_, '_> {
    #[inline(always)]
    fn run<L: Lanes>(self) {
        let Losses { spec, rows, own, peers, everyone } = *self.job;
        let catalogue = rows.catalogue;
        let cooperative = spec.needs_peers() && peers > 1;
        let peer_rows = match spec {
            LossSpec::Mutual { .. } if cooperative => peers,
            LossSpec::Exclusivity(spec) if cooperative && spec.gamma != 1.0 => peers,
            _ => 0,
        };
        let mut scratch = Scratch::new(own.len(), peers, catalogue, cooperative, peer_rows);
        for (local, index) in self.range.rows.clone().enumerate() {
            let span = local * catalogue..(local + 1) * catalogue;
            let mut logits: Vec<&mut [f32]> = Vec::with_capacity(own.len());
            for block in &mut self.range.logits {
                logits.push(&mut block[span.clone()]);
            }
            let weight = rows.weight(index);
            if weight == 0.0 {
                for row in logits {
                    row.fill(0.0);
                }
                continue;
            }
            let truncated = rows.truncated.is_some_and(|truncated| truncated[index]);
            let others = match everyone {
                None => Others::Logits,
                Some(everyone) => {
                    let row_of = |peer| &everyone[(peer * rows.targets.len() + index) * catalogue..][..catalogue];
                    Others::Probabilities((0..peers).map(row_of).collect())
                }
            };
            let target = rows.targets[index] as usize;
            let scale = weight * rows.scale;
            let mut row = Row { peers, own_peers: own, own: &mut logits, others, target, truncated, scale };
            match spec {
                LossSpec::Mutual { alpha } if cooperative => mutual_row::<L>(*alpha, &mut row, &mut scratch),
                LossSpec::Exclusivity(spec) if cooperative => exclusivity_row::<L>(spec, &mut row, &mut scratch),
                _ => {
                    let (exponent, ce_factor) = match spec {
                        LossSpec::ReweightedCrossEntropy { exponent } => (*exponent, 1.0),
                        LossSpec::Exclusivity(spec) if spec.truncate_ce && truncated => (0.0, 0.0),
                        _ => (0.0, 1.0),
                    };
                    cross_entropy_row::<L>(&mut row, exponent, ce_factor, &mut scratch);
                }
            }
            let implicitly_hard = row.implicitly_hard::<L>(&scratch);
            self.range.losses[local * own.len()..(local + 1) * own.len()].copy_from_slice(&scratch.losses);
            self.range.flags[local] = RowFlags { weight, truncated, implicitly_hard };
        }
    }
}

pub(super) struct CrossEntropies<'t> {
    pub rows: &'t ChunkRows<'t>,
    pub logits: &'t [f32],
    pub into: &'t mut [f64],
}

impl Task for CrossEntropies<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self) {
        let mut scratch = vec![0.0; self.rows.catalogue];
        let count = self.rows.targets.len();
        for (at, into) in self.into.iter_mut().enumerate() {
            let row = at % count;
            *into = 0.0;
            if self.rows.weight(row) != 0.0 {
                scratch.copy_from_slice(&self.logits[at * self.rows.catalogue..][..self.rows.catalogue]);
                *into = exponentiate::<L>(&mut scratch, self.rows.targets[row] as usize).cross_entropy;
            }
        }
    }
}

pub(super) struct Softmax<'t> {
    pub catalogue: usize,
    pub logits: &'t mut [f32],
}

impl Task for Softmax<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self) {
        for row in self.logits.chunks_exact_mut(self.catalogue) {
            probabilities::<L>(row, 0);
        }
    }
}
