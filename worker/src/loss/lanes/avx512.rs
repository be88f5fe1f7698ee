//! Vectors of 16 numbers: AVX-512 Foundation.

use std::arch::x86_64::*;

use super::Lanes;

#[derive(Clone, Copy)]
pub(in crate::loss) struct F32x16(__m512);

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
        let from = &from[..Self::WIDTH];
        // SAFETY: the slice has 16 numbers; the instruction set as in `intrinsic!`.
        Self(unsafe { _mm512_loadu_ps(from.as_ptr()) })
    }

    #[inline(always)]
    fn store(self, to: &mut [f32]) {
        let to = &mut to[..Self::WIDTH];
        // SAFETY: the slice has 16 numbers; the instruction set as in `intrinsic!`.
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), self.0) }
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
            let above_root_half =
                _mm512_sub_epi32(bits, _mm512_set1_epi32(super::portable::ROOT_HALF_BITS));
            let exponent = _mm512_srai_epi32::<23>(above_root_half);
            let mantissa = _mm512_sub_epi32(bits, _mm512_slli_epi32::<23>(exponent));
            (
                Self(_mm512_castsi512_ps(mantissa)),
                Self(_mm512_cvtepi32_ps(exponent)),
            )
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
}
