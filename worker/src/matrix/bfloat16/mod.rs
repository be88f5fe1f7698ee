//! Products whose factors are rounded to bfloat16: a float32 with 8 bits of significand in the place of 24, so that an
//! instruction multiplies two of them where it multiplies one float32.
//!
//! Factors are rounded to nearest even while they are packed; what is not a number stays so, and what is larger than
//! any bfloat16 becomes infinite. Products of two are exact in float32, in which sums are taken. Subnormal numbers
//! count as zero, as the instruction has it.
//!
//! The instruction is VDPBF16PS of AVX-512 BF16: to each of 16 sums it adds the product of two pairs. So both factors
//! are packed as pairs of neighbours along the inner dimension, a pair in 32 bits:
//!
//! 1. [`pack`]: the left factor, of which a pair is multiplied with a vector, row by row or pair by pair, whichever way
//!    it lies; the right one in panels of 64 columns, each pair's columns side by side.
//! 2. [`kernel`]: tiles of the product, up to 24 vectors of sums at a time, which stay in registers.
//! 3. [`blocks`]: a product in blocks: of the left factor what half a second-level cache holds, of the right one a panel.
//!
//! Processors with AMX have AVX-512 BF16 too and take this path; AMX's tiles themselves are not used.

#[cfg(target_arch = "x86_64")]
mod blocks;
#[cfg(target_arch = "x86_64")]
mod kernel;
#[cfg(target_arch = "x86_64")]
mod pack;
#[cfg(all(test, target_arch = "x86_64"))]
mod tests;

use super::{Matrix, MatrixMut, Write};

/// Whether this processor multiplies bfloat16.
#[cfg(target_arch = "x86_64")]
pub fn is_supported() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512bf16")
}

/// Whether this processor multiplies bfloat16: there is a kernel for x86 alone.
#[cfg(not(target_arch = "x86_64"))]
pub fn is_supported() -> bool {
    false
}

/// The product of matrices whose shapes agree.
///
/// # Panics
/// If this processor does not multiply bfloat16.
pub fn product(into: &mut MatrixMut<'_>, write: Write, left: Matrix<'_>, right: Matrix<'_>) {
    assert!(is_supported(), "bfloat16 is refused at the start where the processor lacks it");
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the assertion has found the instructions on this machine.
    unsafe {
        blocks::product(into, write, left, right);
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (into, write, left, right);
}
