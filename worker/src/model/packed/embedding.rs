//! The embedding that all peers share: item plus position, normalised, with dropout (HAIL section 3.1).

use super::blocks::{Block, Place};
use super::norm::{self, Normalized};
use super::passes::run;
use crate::simd::keep::Keep;
use crate::simd::lanes::{Lanes, Task, load, store, sweep};

/// The embedding's parameters or, as `W = &mut [f32]`, their gradients.
pub struct Parts<W> {
    /// `[V + 2, d]`.
    pub items: W,
    /// `[max_length, d]`.
    pub positions: W,
    /// Of the norm, `[d]`.
    pub gain: W,
    /// Of the norm, `[d]`.
    pub bias: W,
}

/// Embedded tokens of a block, and what the way back needs.
#[derive(Default)]
pub struct Embedded {
    /// `[n, d]`.
    pub values: Vec<f32>,
    norm: Normalized,
}

impl Parts<&[f32]> {
    /// Embeds a block whose tokens are `tokens`.
    pub fn forward(&self, tokens: &[u32], block: &Block, keep: Keep, into: &mut Embedded) {
        let d = self.gain.len();
        into.values.clear();
        for (token, place) in tokens.iter().zip(&block.token_places) {
            let item = &self.items[*token as usize * d..][..d];
            let position = &self.positions[place.position as usize * d..][..d];
            into.values.extend(item.iter().zip(position).map(|(item, position)| item + position));
        }
        let Embedded { values, norm } = into;
        let sums = super::attention::sized(&mut norm.values, values.len());
        sums.copy_from_slice(values);
        let inverse = super::attention::sized(&mut norm.inverse, values.len() / d);
        run(super::passes::Normalize {
            rows: sums,
            inverse,
            gain: self.gain,
            bias: self.bias,
            into: values,
            into_width: d,
        });
        if keep.is_active() {
            run(MultiplyKeep { rows: values, width: d, keep, places: &block.token_places });
        }
    }

    /// From the gradient of embedded tokens to that of item plus position, in place; adds to the gradients of gain and
    /// bias.
    pub fn backward(
        &self,
        block: &Block,
        keep: Keep,
        embedded: &Embedded,
        gradient: &mut [f32],
        gain_gradient: &mut [f32],
        bias_gradient: &mut [f32],
    ) {
        if keep.is_active() {
            run(MultiplyKeep { rows: gradient, width: self.gain.len(), keep, places: &block.token_places });
        }
        norm::backward(gradient, &embedded.norm, self.gain, gain_gradient, bias_gradient);
    }
}

/// Adds the gradient of each token's row to its item's and its position's.
pub fn scatter(tokens: &[u32], blocks: &[Block], gradient: &[f32], items: &mut [f32], positions: &mut [f32], d: usize) {
    let add = |into: &mut [f32], entry: usize, row: &[f32]| {
        into[entry * d..][..d].iter_mut().zip(row).for_each(|(into, value)| *into += value);
    };
    rayon::join(
        || {
            for (token, row) in tokens.iter().zip(gradient.chunks_exact(d)) {
                add(items, *token as usize, row);
            }
        },
        || {
            let places = blocks.iter().flat_map(|block| &block.token_places);
            for (place, row) in places.zip(gradient.chunks_exact(d)) {
                add(positions, place.position as usize, row);
            }
        },
    );
}

/// `rows *= keep`.
struct MultiplyKeep<'a> {
    rows: &'a mut [f32],
    width: usize,
    keep: Keep,
    places: &'a [Place],
}

impl Task for MultiplyKeep<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self) {
        for (row, place) in self.rows.chunks_exact_mut(self.width).zip(self.places) {
            let keep = self.keep.row(place.sequence, place.position);
            sweep!(L, self.width, |at, FULL| {
                store::<L, FULL>(load::<L, FULL>(row, at, 0.0).mul(keep.factors(at)), row, at);
            });
        }
    }
}
