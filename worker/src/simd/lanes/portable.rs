//! Vectors of 8 numbers in plain Rust, for machines without the instruction sets of the others.

use std::array::from_fn;

use super::Lanes;
use crate::simd::keep::KeepRow;

/// The bits of √½ as an integer: subtracting them makes the exponent field count from [√½, √2).
pub(super) const ROOT_HALF_BITS: i32 = std::f32::consts::FRAC_1_SQRT_2.to_bits().cast_signed();

#[derive(Clone, Copy)]
pub(crate) struct F32x8([f32; 8]);

impl Lanes for F32x8 {
    const WIDTH: usize = 8;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        Self([value; 8])
    }

    #[inline(always)]
    fn load(from: &[f32]) -> Self {
        Self(*from.first_chunk().expect("a full vector"))
    }

    #[inline(always)]
    fn store(self, to: &mut [f32]) {
        *to.first_chunk_mut().expect("a full vector") = self.0;
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        Self(from_fn(|l| self.0[l] + other.0[l]))
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        Self(from_fn(|l| self.0[l] - other.0[l]))
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        Self(from_fn(|l| self.0[l] * other.0[l]))
    }

    #[inline(always)]
    fn div(self, other: Self) -> Self {
        Self(from_fn(|l| self.0[l] / other.0[l]))
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        Self(from_fn(|l| if self.0[l] > other.0[l] { self.0[l] } else { other.0[l] }))
    }

    #[inline(always)]
    fn min(self, other: Self) -> Self {
        Self(from_fn(|l| if self.0[l] < other.0[l] { self.0[l] } else { other.0[l] }))
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, term: Self) -> Self {
        // Not `f32::mul_add`: without the instruction it is a call into a software implementation.
        Self(from_fn(|l| self.0[l] * factor.0[l] + term.0[l]))
    }

    #[inline(always)]
    fn times_power_of_two(self, power: Self) -> Self {
        Self(from_fn(|l| {
            // In 1.5 * 2^23 + power the lowest bits are the integer; unlike a cast this is one vector addition.
            let power = (power.0[l] + 12_582_912.0).to_bits().wrapping_sub(12_582_912.0_f32.to_bits()).cast_signed();
            // Two factors, because 2^power itself may not be a normal number.
            let half = power >> 1;
            let other_half = power.wrapping_sub(half);
            let factor = |n: i32| f32::from_bits(n.wrapping_add(127).cast_unsigned() << 23);
            self.0[l] * factor(half) * factor(other_half)
        }))
    }

    #[inline(always)]
    fn mantissa_and_exponent(self) -> (Self, Self) {
        let exponent: [i32; 8] = from_fn(|l| (self.0[l].to_bits().cast_signed().wrapping_sub(ROOT_HALF_BITS)) >> 23);
        let mantissa =
            from_fn(|l| f32::from_bits(self.0[l].to_bits().wrapping_sub((exponent[l] << 23).cast_unsigned())));
        (Self(mantissa), Self(from_fn(|l| exponent[l] as f32)))
    }

    #[inline(always)]
    fn where_less(self, left: Self, right: Self, otherwise: Self) -> Self {
        Self(from_fn(|l| if left.0[l] < right.0[l] { self.0[l] } else { otherwise.0[l] }))
    }

    #[inline(always)]
    fn any_equal(self, other: Self) -> bool {
        (0..8).any(|l| self.0[l] == other.0[l])
    }

    #[inline(always)]
    fn keep_factors(row: &KeepRow, first: u32) -> Self {
        Self(from_fn(|l| if row.hash(first.wrapping_add(l as u32)) < row.threshold { 0.0 } else { row.scale }))
    }
}
