//! Vectors of 8 numbers: AVX2 with fused multiply-add.

use std::arch::x86_64::*;

use super::Lanes;
use crate::simd::keep::{FIRST_FACTOR, KeepRow, SECOND_FACTOR};

#[derive(Clone, Copy)]
pub(crate) struct F32x8(__m256);

/// An intrinsic that needs nothing but the instruction set.
macro_rules! intrinsic {
    ($call:expr) => {
        // SAFETY: vectors of this type exist only inside `dispatch`, which has detected AVX2 and FMA.
        unsafe { $call }
    };
}

impl Lanes for F32x8 {
    const WIDTH: usize = 8;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        Self(intrinsic!(_mm256_set1_ps(value)))
    }

    #[inline(always)]
    fn load(from: &[f32]) -> Self {
        let lanes = *from.first_chunk::<8>().expect("a full vector");
        // SAFETY: both are 8 numbers without padding. An array rather than the load instruction's pointer, because
        // builds with debug assertions check pointers at every load, which costs more than the arithmetic.
        Self(unsafe { std::mem::transmute::<[f32; 8], __m256>(lanes) })
    }

    #[inline(always)]
    fn store(self, to: &mut [f32]) {
        // SAFETY: both are 8 numbers without padding.
        let lanes = unsafe { std::mem::transmute::<__m256, [f32; 8]>(self.0) };
        *to.first_chunk_mut::<8>().expect("a full vector") = lanes;
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        Self(intrinsic!(_mm256_add_ps(self.0, other.0)))
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        Self(intrinsic!(_mm256_sub_ps(self.0, other.0)))
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        Self(intrinsic!(_mm256_mul_ps(self.0, other.0)))
    }

    #[inline(always)]
    fn div(self, other: Self) -> Self {
        Self(intrinsic!(_mm256_div_ps(self.0, other.0)))
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        Self(intrinsic!(_mm256_max_ps(self.0, other.0)))
    }

    #[inline(always)]
    fn min(self, other: Self) -> Self {
        Self(intrinsic!(_mm256_min_ps(self.0, other.0)))
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, term: Self) -> Self {
        Self(intrinsic!(_mm256_fmadd_ps(self.0, factor.0, term.0)))
    }

    #[inline(always)]
    fn times_power_of_two(self, power: Self) -> Self {
        // Two factors, because 2^power itself may not be a normal number.
        intrinsic!({
            let power = _mm256_cvtps_epi32(power.0);
            let half = _mm256_srai_epi32::<1>(power);
            let other_half = _mm256_sub_epi32(power, half);
            let bias = _mm256_set1_epi32(127);
            let first = _mm256_slli_epi32::<23>(_mm256_add_epi32(half, bias));
            let second = _mm256_slli_epi32::<23>(_mm256_add_epi32(other_half, bias));
            let scaled = _mm256_mul_ps(self.0, _mm256_castsi256_ps(first));
            Self(_mm256_mul_ps(scaled, _mm256_castsi256_ps(second)))
        })
    }

    #[inline(always)]
    fn mantissa_and_exponent(self) -> (Self, Self) {
        intrinsic!({
            let bits = _mm256_castps_si256(self.0);
            let above_root_half = _mm256_sub_epi32(bits, _mm256_set1_epi32(super::portable::ROOT_HALF_BITS));
            let exponent = _mm256_srai_epi32::<23>(above_root_half);
            let mantissa = _mm256_sub_epi32(bits, _mm256_slli_epi32::<23>(exponent));
            (Self(_mm256_castsi256_ps(mantissa)), Self(_mm256_cvtepi32_ps(exponent)))
        })
    }

    #[inline(always)]
    fn where_less(self, left: Self, right: Self, otherwise: Self) -> Self {
        intrinsic!({
            let less = _mm256_cmp_ps::<_CMP_LT_OQ>(left.0, right.0);
            Self(_mm256_blendv_ps(otherwise.0, self.0, less))
        })
    }

    #[inline(always)]
    fn any_equal(self, other: Self) -> bool {
        intrinsic!(_mm256_movemask_ps(_mm256_cmp_ps::<_CMP_EQ_OQ>(self.0, other.0))) != 0
    }

    #[inline(always)]
    fn keep_factors(row: &KeepRow, first: u32) -> Self {
        let number = |value: u32| value.cast_signed();
        intrinsic!({
            let places = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            let places = _mm256_add_epi32(places, _mm256_set1_epi32(number(first)));
            let x = _mm256_xor_si256(places, _mm256_set1_epi32(number(row.keys[0])));
            let x = _mm256_xor_si256(x, _mm256_srli_epi32::<16>(x));
            let x = _mm256_mullo_epi32(x, _mm256_set1_epi32(number(FIRST_FACTOR)));
            let x = _mm256_xor_si256(x, _mm256_srli_epi32::<15>(x));
            let x = _mm256_add_epi32(x, _mm256_set1_epi32(number(row.keys[1])));
            let x = _mm256_mullo_epi32(x, _mm256_set1_epi32(number(SECOND_FACTOR)));
            let x = _mm256_xor_si256(x, _mm256_srli_epi32::<16>(x));
            // There is no unsigned comparison: the greater of the two equals x where x is not below.
            let kept = _mm256_cmpeq_epi32(_mm256_max_epu32(x, _mm256_set1_epi32(number(row.threshold))), x);
            Self(_mm256_and_ps(_mm256_castsi256_ps(kept), _mm256_set1_ps(row.scale)))
        })
    }
}
