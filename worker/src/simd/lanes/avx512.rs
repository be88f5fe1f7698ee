//! Vectors of 16 numbers: AVX-512 Foundation.

use std::arch::x86_64::*;

use super::Lanes;
use crate::simd::keep::{FIRST_FACTOR, KeepRow, SECOND_FACTOR};

#[derive(Clone, Copy)]
pub(crate) struct F32x16(__m512);

/// An intrinsic that needs nothing but the instruction set.
macro_rules! intrinsic {
    ($call:expr) => {
        // SAFETY: vectors of this type exist only inside `dispatch`, which has detected AVX-512F.
        unsafe { $call }
    };
}

impl Lanes for F32x16 {
    const WIDTH: usize = 16;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        Self(intrinsic!(_mm512_set1_ps(value)))
    }

    #[inline(always)]
    fn load(from: &[f32]) -> Self {
        let lanes = *from.first_chunk::<16>().expect("a full vector");
        // SAFETY: both are 16 numbers without padding. An array rather than the load instruction's pointer, because
        // builds with debug assertions check pointers at every load, which costs more than the arithmetic.
        Self(unsafe { std::mem::transmute::<[f32; 16], __m512>(lanes) })
    }

    #[inline(always)]
    fn store(self, to: &mut [f32]) {
        // SAFETY: both are 16 numbers without padding.
        let lanes = unsafe { std::mem::transmute::<__m512, [f32; 16]>(self.0) };
        *to.first_chunk_mut::<16>().expect("a full vector") = lanes;
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        Self(intrinsic!(_mm512_add_ps(self.0, other.0)))
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        Self(intrinsic!(_mm512_sub_ps(self.0, other.0)))
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        Self(intrinsic!(_mm512_mul_ps(self.0, other.0)))
    }

    #[inline(always)]
    fn div(self, other: Self) -> Self {
        Self(intrinsic!(_mm512_div_ps(self.0, other.0)))
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        Self(intrinsic!(_mm512_max_ps(self.0, other.0)))
    }

    #[inline(always)]
    fn min(self, other: Self) -> Self {
        Self(intrinsic!(_mm512_min_ps(self.0, other.0)))
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, term: Self) -> Self {
        Self(intrinsic!(_mm512_fmadd_ps(self.0, factor.0, term.0)))
    }

    #[inline(always)]
    fn times_power_of_two(self, power: Self) -> Self {
        Self(intrinsic!(_mm512_scalef_ps(self.0, power.0)))
    }

    #[inline(always)]
    fn mantissa_and_exponent(self) -> (Self, Self) {
        intrinsic!({
            let bits = _mm512_castps_si512(self.0);
            let above_root_half = _mm512_sub_epi32(bits, _mm512_set1_epi32(super::portable::ROOT_HALF_BITS));
            let exponent = _mm512_srai_epi32::<23>(above_root_half);
            let mantissa = _mm512_sub_epi32(bits, _mm512_slli_epi32::<23>(exponent));
            (Self(_mm512_castsi512_ps(mantissa)), Self(_mm512_cvtepi32_ps(exponent)))
        })
    }

    #[inline(always)]
    fn where_less(self, left: Self, right: Self, otherwise: Self) -> Self {
        intrinsic!({
            let less = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(left.0, right.0);
            Self(_mm512_mask_blend_ps(less, otherwise.0, self.0))
        })
    }

    #[inline(always)]
    fn any_equal(self, other: Self) -> bool {
        intrinsic!(_mm512_cmp_ps_mask::<_CMP_EQ_OQ>(self.0, other.0)) != 0
    }

    #[inline(always)]
    fn keep_factors(row: &KeepRow, first: u32) -> Self {
        let number = |value: u32| value.cast_signed();
        intrinsic!({
            let places = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
            let places = _mm512_add_epi32(places, _mm512_set1_epi32(number(first)));
            let x = _mm512_xor_si512(places, _mm512_set1_epi32(number(row.keys[0])));
            let x = _mm512_xor_si512(x, _mm512_srli_epi32::<16>(x));
            let x = _mm512_mullo_epi32(x, _mm512_set1_epi32(number(FIRST_FACTOR)));
            let x = _mm512_xor_si512(x, _mm512_srli_epi32::<15>(x));
            let x = _mm512_add_epi32(x, _mm512_set1_epi32(number(row.keys[1])));
            let x = _mm512_mullo_epi32(x, _mm512_set1_epi32(number(SECOND_FACTOR)));
            let x = _mm512_xor_si512(x, _mm512_srli_epi32::<16>(x));
            let kept = _mm512_cmpge_epu32_mask(x, _mm512_set1_epi32(number(row.threshold)));
            Self(_mm512_maskz_mov_ps(kept, _mm512_set1_ps(row.scale)))
        })
    }
}
