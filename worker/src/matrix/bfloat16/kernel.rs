//! Tiles of a product from packed factors.

use super::super::{MatrixMut, Write};
use super::blocks::{Line, WIDTH};
use super::pack::Left;
use std::arch::x86_64::*;

/// Writes a part of a product, of at most `VECTORS` vectors of columns, from a block of the left factor and a panel of
/// the right one; `ROWS` rows at a time.
///
/// # Panics
/// If the panel is not made of `VECTORS` vectors, or factors and product are of different sizes.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub fn tiles<const ROWS: usize, const VECTORS: usize>(
    part: &mut MatrixMut<'_>,
    write: Write,
    left: Left<'_>,
    panel: &[Line],
) {
    let (rows, columns, stride) = (part.layout.rows, part.layout.columns, part.layout.row_stride);
    assert!(columns.div_ceil(WIDTH) == VECTORS && panel.len().is_multiple_of(VECTORS) && ROWS <= Left::PADDING + 1);
    for first in (0..rows).step_by(ROWS) {
        let sums = sums::<ROWS, VECTORS>(left, first, panel);
        let to = &mut part.values[first * stride..];
        if first + ROWS <= rows && columns == VECTORS * WIDTH {
            whole(&sums, write, to, stride);
        } else {
            for (sums, to) in sums.iter().zip(to.chunks_mut(stride.max(1))).take(rows - first) {
                for (sum, to) in sums.iter().zip(to[..columns].chunks_mut(WIDTH)) {
                    let mask = u16::MAX >> (WIDTH - to.len());
                    // SAFETY: the mask leaves out what is after the slice's end.
                    unsafe {
                        let to = to.as_mut_ptr();
                        let before = if write == Write::Add { _mm512_maskz_loadu_ps(mask, to) } else { zero() };
                        _mm512_mask_storeu_ps(to, mask, _mm512_add_ps(before, *sum));
                    }
                }
            }
        }
    }
}

/// Writes a tile that lies within the product, to rows `stride` apart.
#[inline]
#[target_feature(enable = "avx512f")]
fn whole<const ROWS: usize, const VECTORS: usize>(
    sums: &[[__m512; VECTORS]; ROWS],
    write: Write,
    to: &mut [f32],
    stride: usize,
) {
    assert!((ROWS - 1) * stride + VECTORS * WIDTH <= to.len(), "the tile does not lie within the product");
    let mut to = to.as_mut_ptr();
    // Loops of constant lengths, which are unrolled: sums stay in registers.
    for sums in sums {
        for (vector, sum) in sums.iter().enumerate() {
            // SAFETY: the assertion has found the end of the last row, the farthest, within the slice.
            unsafe {
                let to = to.add(vector * WIDTH);
                let sum = if write == Write::Add { _mm512_add_ps(_mm512_loadu_ps(to), *sum) } else { *sum };
                _mm512_storeu_ps(to, sum);
            }
        }
        to = to.wrapping_add(stride);
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn zero() -> __m512 {
    _mm512_setzero_ps()
}

/// Products of `ROWS` rows from `first` on with all columns of the panel. Rows after the last one yield nothing of use.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn sums<const ROWS: usize, const VECTORS: usize>(
    left: Left<'_>,
    first: usize,
    panel: &[Line],
) -> [[__m512; VECTORS]; ROWS] {
    let mut sums = [[_mm512_setzero_ps(); VECTORS]; ROWS];
    let pairs = panel.len() / VECTORS;
    if pairs == 0 {
        return sums;
    }
    let last = (first + ROWS - 1) * left.row_stride + (pairs - 1) * left.pair_stride;
    assert!(last < left.lines.len() * WIDTH, "the left factor has fewer pairs than the right one");
    let mut pair = left.lines.as_ptr().cast::<u32>().wrapping_add(first * left.row_stride);
    for lines in panel.chunks_exact(VECTORS) {
        let mut columns = [zero(); VECTORS];
        for (into, line) in columns.iter_mut().zip(lines) {
            // SAFETY: a line is 64 bytes, aligned to 64.
            *into = unsafe { _mm512_load_ps(std::ptr::from_ref(line).cast()) };
        }
        for (row, sums) in sums.iter_mut().enumerate() {
            // SAFETY: the assertion has found the last row's last pair, the farthest, within the lines.
            let value = unsafe { *pair.add(row * left.row_stride) };
            let value = bfloat16(_mm512_castsi512_ps(_mm512_set1_epi32(value.cast_signed())));
            for (sum, column) in sums.iter_mut().zip(columns) {
                *sum = _mm512_dpbf16_ps(*sum, value, bfloat16(column));
            }
        }
        pair = pair.wrapping_add(left.pair_stride);
    }
    sums
}

#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn bfloat16(bits: __m512) -> __m512bh {
    // SAFETY: both are 64 bytes of plain numbers.
    unsafe { std::mem::transmute::<__m512, __m512bh>(bits) }
}
