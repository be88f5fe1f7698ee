//! Factors become pairs of bfloat16.
//!
//! Both factors are handled as `[lanes, inner]`, the right one transposed: lanes are the rows of the product, or its
//! columns. One of the two dimensions is contiguous, which makes four cases; only a right factor whose inner dimension
//! is contiguous must be turned around.
//!
//! Loops call no closures: one that a function of the standard library calls would not be compiled for these
//! instructions.

use super::super::Matrix;
use super::blocks::{Line, WIDTH};
use std::arch::x86_64::*;

/// A packed block of the left factor.
#[derive(Clone, Copy)]
pub struct Left<'a> {
    /// [`Left::PADDING`] rows more can be read than there are; what they hold is of no use.
    pub lines: &'a [Line],
    /// Pairs between a row and the next.
    pub row_stride: usize,
    /// Pairs between a pair and the next of its row.
    pub pair_stride: usize,
}

impl Left<'_> {
    /// A tile has at most one row more than this.
    pub const PADDING: usize = 11;
}

/// Packs a block of the left factor, `[rows, inner]`.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub fn left<'b>(block: Matrix<'_>, buffer: &'b mut Vec<Line>) -> Left<'b> {
    let (rows, inner) = (block.layout.rows, block.layout.columns);
    let pairs = inner.div_ceil(2);
    if block.layout.column_stride == 1 {
        let stride = pairs.div_ceil(WIDTH);
        let lines = sized(buffer, (rows + Left::PADDING) * stride);
        for (row, lines) in lines.chunks_exact_mut(stride.max(1)).take(rows).enumerate() {
            let values = block.line(row * block.layout.row_stride, inner);
            for (at, line) in lines.iter_mut().enumerate() {
                *line = store(pairs_of(values, 2 * WIDTH * at));
            }
        }
        return Left { lines, row_stride: stride * WIDTH, pair_stride: 1 };
    }
    // An odd number of cache lines, so that pairs of a row do not fall into the same few sets of the cache.
    let stride = rows.div_ceil(WIDTH) | 1;
    let lines = sized(buffer, pairs * stride + 1);
    interleave(block, lines, stride);
    Left { lines, row_stride: 1, pair_stride: stride * WIDTH }
}

/// Packs a panel of the right factor, `[inner, columns]`, as `[pairs, columns]`, with zeros in the place of columns
/// that lack to the last vector.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub fn right<'b>(panel: Matrix<'_>, buffer: &'b mut Vec<Line>) -> &'b [Line] {
    let panel = panel.transposed();
    let vectors = panel.layout.rows.div_ceil(WIDTH);
    let pairs = panel.layout.columns.div_ceil(2);
    let lines = sized(buffer, pairs * vectors);
    if panel.layout.row_stride == 1 {
        interleave(panel, lines, vectors);
    } else {
        transpose(panel, lines, vectors);
    }
    lines
}

fn sized(buffer: &mut Vec<Line>, length: usize) -> &mut [Line] {
    if buffer.len() < length {
        buffer.resize(length, Line([0; WIDTH]));
    }
    &mut buffer[..length]
}

/// Packs lanes that lie side by side: the lines of a pair begin `stride` after those of the pair before.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn interleave(source: Matrix<'_>, lines: &mut [Line], stride: usize) {
    let (lanes, inner) = (source.layout.rows, source.layout.columns);
    let mut order = [0_u16; 2 * WIDTH];
    for (place, from) in order.iter_mut().enumerate() {
        *from = (place / 2 + WIDTH * (place % 2)) as u16;
    }
    // SAFETY: both are 64 bytes of plain numbers.
    let order: __m512i = unsafe { std::mem::transmute(order) };
    for (pair, lines) in lines.chunks_mut(stride).take(inner.div_ceil(2)).enumerate() {
        let first = source.line(2 * pair * source.layout.column_stride, lanes);
        let has_second = 2 * pair + 1 < inner;
        let second = if has_second { source.line((2 * pair + 1) * source.layout.column_stride, lanes) } else { &[] };
        for (at, line) in (0..lanes).step_by(WIDTH).zip(lines) {
            *line = store(_mm512_permutexvar_epi16(order, rounded(load(first, at), load(second, at))));
        }
    }
}

/// Packs lanes whose inner dimension is contiguous, as [`interleave`] does: 16 lanes and 16 pairs at a time are turned
/// around.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn transpose(source: Matrix<'_>, lines: &mut [Line], stride: usize) {
    let (lanes, pairs) = (source.layout.rows, source.layout.columns.div_ceil(2));
    for (vector, lane) in (0..lanes).step_by(WIDTH).enumerate() {
        for pair in (0..pairs).step_by(WIDTH) {
            let columns = turned(square(source, lane, pair));
            let lines = &mut lines[pair * stride + vector..];
            if pair + WIDTH <= pairs {
                for at in 0..WIDTH {
                    lines[at * stride] = store(columns[at]);
                }
            } else {
                for at in 0..pairs - pair {
                    lines[at * stride] = store(columns[at]);
                }
            }
        }
    }
}

/// 16 pairs of 16 lanes from some on, with zeros where there are fewer.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn square(source: Matrix<'_>, first: usize, pair: usize) -> [__m512i; WIDTH] {
    let (lanes, inner, stride) = (source.layout.rows, source.layout.columns, source.layout.row_stride);
    let mut square = [_mm512_setzero_si512(); WIDTH];
    if first + WIDTH <= lanes && 2 * (pair + WIDTH) <= inner {
        for (lane, into) in square.iter_mut().enumerate() {
            let values = source.line((first + lane) * stride + 2 * pair, 2 * WIDTH);
            // SAFETY: there are 32 values.
            *into = unsafe { rounded(_mm512_loadu_ps(values.as_ptr()), _mm512_loadu_ps(values[WIDTH..].as_ptr())) };
        }
    } else {
        for (lane, into) in (first..lanes).zip(&mut square) {
            *into = pairs_of(source.line(lane * stride, inner), 2 * pair);
        }
    }
    square
}

/// Rows of a square become its columns: first of pairs of 32 bits, then of 64, of 128 and of 256.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn turned(rows: [__m512i; WIDTH]) -> [__m512i; WIDTH] {
    let mut twos = rows;
    for at in (0..WIDTH).step_by(2) {
        twos[at] = _mm512_unpacklo_epi32(rows[at], rows[at + 1]);
        twos[at + 1] = _mm512_unpackhi_epi32(rows[at], rows[at + 1]);
    }
    // Vector 4 i + j of `fours`: in its quarter q, column 4 q + j of rows 4 i to 4 i + 3.
    let mut fours = twos;
    for at in (0..WIDTH).step_by(4) {
        fours[at] = _mm512_unpacklo_epi64(twos[at], twos[at + 2]);
        fours[at + 1] = _mm512_unpackhi_epi64(twos[at], twos[at + 2]);
        fours[at + 2] = _mm512_unpacklo_epi64(twos[at + 1], twos[at + 3]);
        fours[at + 3] = _mm512_unpackhi_epi64(twos[at + 1], twos[at + 3]);
    }
    let mut columns = fours;
    for j in 0..4 {
        let [a, b, c, d] = [fours[j], fours[4 + j], fours[8 + j], fours[12 + j]];
        // Quarters 0 and 2 of two vectors, and quarters 1 and 3.
        let (even_ab, odd_ab) = (_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0xdd>(a, b));
        let (even_cd, odd_cd) = (_mm512_shuffle_i32x4::<0x88>(c, d), _mm512_shuffle_i32x4::<0xdd>(c, d));
        columns[j] = _mm512_shuffle_i32x4::<0x88>(even_ab, even_cd);
        columns[4 + j] = _mm512_shuffle_i32x4::<0x88>(odd_ab, odd_cd);
        columns[8 + j] = _mm512_shuffle_i32x4::<0xdd>(even_ab, even_cd);
        columns[12 + j] = _mm512_shuffle_i32x4::<0xdd>(odd_ab, odd_cd);
    }
    columns
}

/// 16 pairs of neighbours from `at` on, with zeros after the end.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn pairs_of(values: &[f32], at: usize) -> __m512i {
    rounded(load(values, at), load(values, at + WIDTH))
}

/// 16 values from `at` on, with zeros after the end.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn load(values: &[f32], at: usize) -> __m512 {
    let rest = values.get(at..).unwrap_or_default();
    if rest.len() >= WIDTH {
        // SAFETY: the slice has 16 values.
        return unsafe { _mm512_loadu_ps(rest.as_ptr()) };
    }
    // Reading nothing at an address that is none is allowed, and takes the processor hundreds of cycles to find out.
    if rest.is_empty() {
        return _mm512_setzero_ps();
    }
    // SAFETY: the mask leaves out what is after the slice's end.
    unsafe { _mm512_maskz_loadu_ps((1 << rest.len()) - 1, rest.as_ptr()) }
}

/// 32 values as bfloat16, rounded to nearest even: those of `low` in the lower half.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn rounded(low: __m512, high: __m512) -> __m512i {
    // SAFETY: both are 64 bytes of plain numbers.
    unsafe { std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low)) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn store(vector: __m512i) -> Line {
    // SAFETY: both are 64 bytes of plain numbers.
    unsafe { std::mem::transmute::<__m512i, Line>(vector) }
}
