//! What happens between matrix products, each in one pass over rows that lie in the cache.
//!
//! Rows are `[rows, width]`, row-major. Every pass is a [`Task`], compiled for each instruction set.

use super::blocks::Place;
use crate::simd::elementary::normal_share_and_density;
use crate::simd::keep::Keep;
use crate::simd::lanes::{Lanes, SimdLevel, Task, dispatch, load, store, sweep};

/// Runs a pass with the best instructions of this machine.
pub fn run(pass: impl Task) {
    dispatch(SimdLevel::best(), pass);
}

/// `sublayer = residual + keep · (sublayer + bias)`: the end of a sublayer.
pub struct Residual<'a> {
    pub sublayer: &'a mut [f32],
    pub bias: &'a [f32],
    pub residual: &'a [f32],
    pub keep: Keep,
    pub places: &'a [Place],
}

impl Task for Residual<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self) {
        let width = self.bias.len();
        let rows = self.sublayer.chunks_exact_mut(width).zip(self.residual.chunks_exact(width));
        for ((row, residual), place) in rows.zip(self.places) {
            let keep = self.keep.row(place.sequence, place.position);
            sweep!(L, width, |at, FULL| {
                let sum = load::<L, FULL>(row, at, 0.0).add(load::<L, FULL>(self.bias, at, 0.0));
                let kept = if self.keep.is_active() { sum.mul(keep.factors(at)) } else { sum };
                store::<L, FULL>(kept.add(load::<L, FULL>(residual, at, 0.0)), row, at);
            });
        }
    }
}

/// `into = keep · gradient`, and `sums += Σ_rows into`: back through dropout and a bias.
pub struct ThroughKeep<'a> {
    pub gradient: &'a [f32],
    pub into: &'a mut [f32],
    pub sums: &'a mut [f32],
    pub keep: Keep,
    pub places: &'a [Place],
}

impl Task for ThroughKeep<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self) {
        let width = self.sums.len();
        let rows = self.gradient.chunks_exact(width).zip(self.into.chunks_exact_mut(width));
        for ((gradient, into), place) in rows.zip(self.places) {
            let keep = self.keep.row(place.sequence, place.position);
            sweep!(L, width, |at, FULL| {
                let gradient = load::<L, FULL>(gradient, at, 0.0);
                let kept = if self.keep.is_active() { gradient.mul(keep.factors(at)) } else { gradient };
                store::<L, FULL>(kept, into, at);
                store::<L, FULL>(kept.add(load::<L, FULL>(self.sums, at, 0.0)), self.sums, at);
            });
        }
    }
}

/// `rows += bias`.
pub struct AddBias<'a> {
    pub rows: &'a mut [f32],
    pub bias: &'a [f32],
}

impl Task for AddBias<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self) {
        let width = self.bias.len();
        for row in self.rows.chunks_exact_mut(width) {
            sweep!(L, width, |at, FULL| {
                store::<L, FULL>(load::<L, FULL>(row, at, 0.0).add(load::<L, FULL>(self.bias, at, 0.0)), row, at);
            });
        }
    }
}

/// `sums += Σ_rows rows`: the gradient of a bias.
pub struct SumRows<'a> {
    pub rows: &'a [f32],
    pub sums: &'a mut [f32],
}

impl Task for SumRows<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self) {
        let width = self.sums.len();
        for row in self.rows.chunks_exact(width) {
            sweep!(L, width, |at, FULL| {
                store::<L, FULL>(load::<L, FULL>(row, at, 0.0).add(load::<L, FULL>(self.sums, at, 0.0)), self.sums, at);
            });
        }
    }
}

/// `into += addend`, value by value.
pub struct Add<'a> {
    pub into: &'a mut [f32],
    pub addend: &'a [f32],
}

impl Task for Add<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self) {
        assert_eq!(self.into.len(), self.addend.len(), "what is added has the shape of what it is added to");
        sweep!(L, self.addend.len(), |at, FULL| {
            let sum = load::<L, FULL>(self.into, at, 0.0).add(load::<L, FULL>(self.addend, at, 0.0));
            store::<L, FULL>(sum, self.into, at);
        });
    }
}

/// `values = GELU(values + bias)`, with the exact GELU: x Φ(x).
pub struct Gelu<'a> {
    pub values: &'a mut [f32],
    pub bias: &'a [f32],
}

impl Task for Gelu<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self) {
        let width = self.bias.len();
        for row in self.values.chunks_exact_mut(width) {
            sweep!(L, width, |at, FULL| {
                let x = load::<L, FULL>(row, at, 0.0).add(load::<L, FULL>(self.bias, at, 0.0));
                store::<L, FULL>(x.mul(normal_share_and_density(x).0), row, at);
            });
        }
    }
}

/// Back through [`Gelu`], with its values computed anew: `values = GELU(values + bias)`,
/// `gradient *= GELU'(values + bias)`, and `sums += Σ_rows gradient`.
pub struct GeluBackward<'a> {
    pub values: &'a mut [f32],
    pub gradient: &'a mut [f32],
    pub bias: &'a [f32],
    pub sums: &'a mut [f32],
}

impl Task for GeluBackward<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self) {
        let width = self.bias.len();
        for (row, gradient) in self.values.chunks_exact_mut(width).zip(self.gradient.chunks_exact_mut(width)) {
            sweep!(L, width, |at, FULL| {
                let x = load::<L, FULL>(row, at, 0.0).add(load::<L, FULL>(self.bias, at, 0.0));
                let (share, density) = normal_share_and_density(x);
                store::<L, FULL>(x.mul(share), row, at);
                let slope = x.mul_add(density, share);
                let change = load::<L, FULL>(gradient, at, 0.0).mul(slope);
                store::<L, FULL>(change, gradient, at);
                store::<L, FULL>(change.add(load::<L, FULL>(self.sums, at, 0.0)), self.sums, at);
            });
        }
    }
}

/// Layer normalisation: `rows` become normalised, and `into = gain · normalised + bias`. `into` may have wider rows.
pub struct Normalize<'a> {
    pub rows: &'a mut [f32],
    /// 1 / standard deviation of each row, `[rows]`.
    pub inverse: &'a mut [f32],
    pub gain: &'a [f32],
    pub bias: &'a [f32],
    pub into: &'a mut [f32],
    pub into_width: usize,
}

impl Task for Normalize<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self) {
        let width = self.gain.len();
        let share = 1.0 / width as f32;
        let rows = self.rows.chunks_exact_mut(width).zip(self.inverse.iter_mut());
        for ((row, inverse), into) in rows.zip(self.into.chunks_exact_mut(self.into_width)) {
            let mut sum = L::splat(0.0);
            sweep!(L, width, |at, FULL| {
                sum = sum.add(load::<L, FULL>(row, at, 0.0));
            });
            let mean = L::splat(sum.sum() * share);
            let mut squares = L::splat(0.0);
            sweep!(L, width, |at, FULL| {
                let centred = load::<L, FULL>(row, at, 0.0).sub(mean);
                // Lanes past the end of the row must not count.
                let counted = if FULL { centred } else { padded::<L>(centred, width - at) };
                squares = counted.mul_add(counted, squares);
                store::<L, FULL>(centred, row, at);
            });
            *inverse = 1.0 / (squares.sum() * share + super::EPSILON).sqrt();
            let factor = L::splat(*inverse);
            sweep!(L, width, |at, FULL| {
                let normalized = load::<L, FULL>(row, at, 0.0).mul(factor);
                store::<L, FULL>(normalized, row, at);
                let (gain, bias) = (load::<L, FULL>(self.gain, at, 0.0), load::<L, FULL>(self.bias, at, 0.0));
                store::<L, FULL>(normalized.mul_add(gain, bias), &mut into[..width], at);
            });
        }
    }
}

/// The vector with zeros from lane `real` on.
#[inline(always)]
fn padded<L: Lanes>(vector: L, real: usize) -> L {
    let mut lanes = [0.0; crate::simd::lanes::WIDEST];
    vector.store(&mut lanes);
    lanes[real..].fill(0.0);
    L::load(&lanes)
}

/// `into = gain · normalized + bias`: what [`Normalize`] wrote, once more.
pub struct Affine<'a> {
    pub normalized: &'a [f32],
    pub gain: &'a [f32],
    pub bias: &'a [f32],
    pub into: &'a mut [f32],
}

impl Task for Affine<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self) {
        let width = self.gain.len();
        for (row, into) in self.normalized.chunks_exact(width).zip(self.into.chunks_exact_mut(width)) {
            sweep!(L, width, |at, FULL| {
                let (gain, bias) = (load::<L, FULL>(self.gain, at, 0.0), load::<L, FULL>(self.bias, at, 0.0));
                store::<L, FULL>(load::<L, FULL>(row, at, 0.0).mul_add(gain, bias), into, at);
            });
        }
    }
}

/// Back through [`Normalize`]: `gradient` becomes that of the rows before; gradients of gain and bias are added up.
pub struct NormalizeBackward<'a> {
    pub gradient: &'a mut [f32],
    pub normalized: &'a [f32],
    pub inverse: &'a [f32],
    pub gain: &'a [f32],
    pub gain_gradient: &'a mut [f32],
    pub bias_gradient: &'a mut [f32],
}

impl Task for NormalizeBackward<'_> {
    #[inline(always)]
    fn run<L: Lanes>(self) {
        let width = self.gain.len();
        let share = 1.0 / width as f32;
        let rows = self.gradient.chunks_exact_mut(width).zip(self.normalized.chunks_exact(width));
        for ((gradient, normalized), inverse) in rows.zip(self.inverse) {
            let (mut sum, mut product) = (L::splat(0.0), L::splat(0.0));
            sweep!(L, width, |at, FULL| {
                let change = load::<L, FULL>(gradient, at, 0.0);
                let normalized = load::<L, FULL>(normalized, at, 0.0);
                let gain_gradient = load::<L, FULL>(self.gain_gradient, at, 0.0);
                store::<L, FULL>(change.mul_add(normalized, gain_gradient), self.gain_gradient, at);
                let bias_gradient = load::<L, FULL>(self.bias_gradient, at, 0.0);
                store::<L, FULL>(change.add(bias_gradient), self.bias_gradient, at);
                let scaled = change.mul(load::<L, FULL>(self.gain, at, 0.0));
                sum = sum.add(scaled);
                product = scaled.mul_add(normalized, product);
                store::<L, FULL>(scaled, gradient, at);
            });
            let (mean, slope) = (L::splat(sum.sum() * share), L::splat(product.sum() * share));
            let factor = L::splat(*inverse);
            sweep!(L, width, |at, FULL| {
                let along = load::<L, FULL>(normalized, at, 0.0).mul(slope);
                let rest = load::<L, FULL>(gradient, at, 0.0).sub(mean).sub(along);
                store::<L, FULL>(rest.mul(factor), gradient, at);
            });
        }
    }
}
