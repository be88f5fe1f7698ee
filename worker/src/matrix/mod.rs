//! Matrix products on slices, on the calling thread.
//!
//! Here are the views that make products safe, and [`product`]. In float32 it is the `gemm` crate's, which picks the
//! machine's instructions at run time; [`bfloat16`] has our own, of factors that are rounded. Threads are the caller's
//! business: what runs in parallel are blocks of sequences and chunks of rows, each small enough for a core's cache,
//! not the inside of a product.

mod bfloat16;

pub use bfloat16::is_supported as has_bfloat16;

use medley_common::config::Precision;
#[cfg(target_arch = "x86_64")]
use std::ops::Range;

/// A matrix of `f32` in a slice, of any strides.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    values: &'a [f32],
    layout: Layout,
}

/// A matrix to write to, row by row.
#[derive(Debug)]
pub struct MatrixMut<'a> {
    values: &'a mut [f32],
    layout: Layout,
}

/// What becomes of what was there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// It is overwritten, and not read.
    Over,
    /// The product is added to it.
    Add,
}

#[derive(Clone, Copy, Debug)]
struct Layout {
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl Layout {
    fn row_major(rows: usize, columns: usize, row_stride: usize, length: usize) -> Self {
        assert!(columns <= row_stride || rows <= 1, "rows of {columns} columns overlap at stride {row_stride}");
        let layout = Self { rows, columns, row_stride, column_stride: 1 };
        assert!(layout.last() <= length, "{rows} x {columns} at stride {row_stride} do not fit {length} values");
        layout
    }

    /// One past the last value.
    fn last(&self) -> usize {
        match (self.rows, self.columns) {
            (0, _) | (_, 0) => 0,
            (rows, columns) => (rows - 1) * self.row_stride + (columns - 1) * self.column_stride + 1,
        }
    }

    /// Where some of its rows and columns begin, and how they lie.
    #[cfg(target_arch = "x86_64")]
    fn part(&self, rows: Range<usize>, columns: Range<usize>) -> (usize, Self) {
        let first = rows.start * self.row_stride + columns.start * self.column_stride;
        (first, Self { rows: rows.len(), columns: columns.len(), ..*self })
    }
}

impl<'a> Matrix<'a> {
    /// Rows that lie one after the other.
    ///
    /// # Panics
    /// If the slice is too short.
    pub fn new(values: &'a [f32], rows: usize, columns: usize) -> Self {
        Self::strided(values, rows, columns, columns)
    }

    /// Rows that begin `row_stride` values apart.
    ///
    /// # Panics
    /// If the slice is too short.
    pub fn strided(values: &'a [f32], rows: usize, columns: usize, row_stride: usize) -> Self {
        Self { values, layout: Layout::row_major(rows, columns, row_stride, values.len()) }
    }

    /// The transposed matrix, in the same memory.
    pub fn transposed(self) -> Self {
        let Layout { rows, columns, row_stride, column_stride } = self.layout;
        let layout = Layout { rows: columns, columns: rows, row_stride: column_stride, column_stride: row_stride };
        Self { values: self.values, layout }
    }

    /// Some of its rows and columns.
    #[cfg(target_arch = "x86_64")]
    fn part(self, rows: Range<usize>, columns: Range<usize>) -> Self {
        let (first, layout) = self.layout.part(rows, columns);
        Self { values: self.values.get(first..).unwrap_or_default(), layout }
    }

    /// `length` values that lie one after the other.
    #[cfg(target_arch = "x86_64")]
    fn line(self, first: usize, length: usize) -> &'a [f32] {
        &self.values[first..first + length]
    }
}

impl<'a> MatrixMut<'a> {
    /// Rows that lie one after the other.
    ///
    /// # Panics
    /// If the slice is too short.
    pub fn new(values: &'a mut [f32], rows: usize, columns: usize) -> Self {
        Self::strided(values, rows, columns, columns)
    }

    /// Rows that begin `row_stride` values apart.
    ///
    /// # Panics
    /// If the slice is too short.
    pub fn strided(values: &'a mut [f32], rows: usize, columns: usize, row_stride: usize) -> Self {
        let layout = Layout::row_major(rows, columns, row_stride, values.len());
        Self { values, layout }
    }

    /// Some of its rows and columns.
    #[cfg(target_arch = "x86_64")]
    fn part(&mut self, rows: Range<usize>, columns: Range<usize>) -> MatrixMut<'_> {
        let (first, layout) = self.layout.part(rows, columns);
        MatrixMut { values: self.values.get_mut(first..).unwrap_or_default(), layout }
    }
}

/// `into = left right`, or `into += left right`.
///
/// In [`Precision::Bfloat16`] both factors are rounded to it; sums and result are float32.
///
/// # Panics
/// If the shapes disagree, or if the processor lacks the precision ([`has_bfloat16`]), which configurations are checked
/// for.
pub fn product(precision: Precision, into: &mut MatrixMut<'_>, write: Write, left: Matrix<'_>, right: Matrix<'_>) {
    let (to, a, b) = (into.layout, left.layout, right.layout);
    assert!(
        to.rows == a.rows && to.columns == b.columns && a.columns == b.rows,
        "[{}, {}] is not the shape of [{}, {}] by [{}, {}]",
        to.rows,
        to.columns,
        a.rows,
        a.columns,
        b.rows,
        b.columns
    );
    match precision {
        Precision::Float32 => float32(into, write, left, right),
        Precision::Bfloat16 => bfloat16::product(into, write, left, right),
    }
}

/// The product of matrices whose shapes agree.
fn float32(into: &mut MatrixMut<'_>, write: Write, left: Matrix<'_>, right: Matrix<'_>) {
    let (to, a, b) = (into.layout, left.layout, right.layout);
    let adds = write == Write::Add;
    // SAFETY: every layout was checked against its slice when it was made (transposing keeps its last value), so all
    // reads and writes lie within the three slices; `into` is borrowed mutably and so overlaps neither of the others,
    // and its rows do not overlap one another. Strides fit isize because a slice's length does.
    unsafe {
        gemm::gemm(
            to.rows,
            to.columns,
            a.columns,
            into.values.as_mut_ptr(),
            to.column_stride as isize,
            to.row_stride as isize,
            adds,
            left.values.as_ptr(),
            a.column_stride as isize,
            a.row_stride as isize,
            right.values.as_ptr(),
            b.column_stride as isize,
            b.row_stride as isize,
            if adds { 1.0 } else { 0.0 },
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Small whole numbers, whose products are exact.
    fn numbers(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 7 + seed * 13) % 11) as f32 - 5.0).collect()
    }

    proptest! {
        #[test]
        fn products_of_all_layouts_are_exact(
            rows in 0_usize..40, inner in 0_usize..40, columns in 0_usize..40, gap in 0_usize..5,
            flip_left: bool, flip_right: bool, adds: bool
        ) {
            let (left, right) = (numbers(rows * inner, 1), numbers(inner * columns, 2));
            let mut values = numbers(rows * (columns + gap), 3);
            let before = values.clone();
            let left_view = if flip_left { Matrix::new(&left, inner, rows).transposed() } else { Matrix::new(&left, rows, inner) };
            let right_view =
                if flip_right { Matrix::new(&right, columns, inner).transposed() } else { Matrix::new(&right, inner, columns) };
            let write = if adds { Write::Add } else { Write::Over };
            let into = &mut MatrixMut::strided(&mut values, rows, columns, columns + gap);
            product(Precision::Float32, into, write, left_view, right_view);
            for r in 0..rows {
                for c in 0..columns + gap {
                    let at = r * (columns + gap) + c;
                    if c >= columns {
                        prop_assert_eq!(values[at], before[at]);
                        continue;
                    }
                    let of_left = |k: usize| if flip_left { left[k * rows + r] } else { left[r * inner + k] };
                    let of_right = |k: usize| if flip_right { right[c * inner + k] } else { right[k * columns + c] };
                    let sum: f32 = (0..inner).map(|k| of_left(k) * of_right(k)).sum();
                    prop_assert_eq!(values[at], if adds { before[at] + sum } else { sum });
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "do not fit")]
    fn a_slice_that_is_too_short_is_refused() {
        let _ = Matrix::new(&[0.0; 5], 2, 3);
    }

    #[test]
    #[should_panic(expected = "is not the shape")]
    fn shapes_that_disagree_are_refused() {
        product(
            Precision::Float32,
            &mut MatrixMut::new(&mut [0.0; 4], 2, 2),
            Write::Over,
            Matrix::new(&[0.0; 6], 2, 3),
            Matrix::new(&[0.0; 4], 2, 2),
        );
    }
}
