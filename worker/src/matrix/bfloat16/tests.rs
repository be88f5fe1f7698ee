//! The product against sums in float64 of factors that another function rounds.

use super::super::{Matrix, MatrixMut, Write, product};
use super::blocks::{BLOCK, DEPTH, WIDTH};
use super::is_supported;
use medley_common::config::Precision;
use proptest::prelude::*;
use rand::{Rng, SeedableRng};

/// Says so where there is nothing to test.
fn is_skipped() -> bool {
    if !is_supported() {
        println!("skipped: this processor has no AVX-512 BF16");
    }
    !is_supported()
}

/// The nearest bfloat16, by integer arithmetic: of two as near the one whose last bit is 0. Subnormal numbers are 0.
fn rounded(value: f32) -> f64 {
    if value.is_nan() {
        return f64::NAN;
    }
    if value.abs() < f32::MIN_POSITIVE {
        return 0.0;
    }
    let bits = value.to_bits();
    let (kept, rest) = (bits >> 16, bits & 0xffff);
    let up = rest > 0x8000 || (rest == 0x8000 && kept % 2 == 1);
    f64::from(f32::from_bits((kept + u32::from(up)) << 16))
}

/// Numbers of many sizes; those in the middle between two bfloat16 among them.
fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut random = rand::rngs::StdRng::seed_from_u64(seed);
    let number = |random: &mut rand::rngs::StdRng| {
        let value = random.random_range(-1.0_f32..1.0) * 2.0_f32.powi(random.random_range(-6..6));
        if random.random_range(0..4) == 0 { f32::from_bits(value.to_bits() & 0xffff_0000 | 0x8000) } else { value }
    };
    (0..count).map(|_| number(&mut random)).collect()
}

/// A factor, `[rows, columns]`, in memory as it is or transposed, its lines `gap` further apart than they must be.
struct Factor {
    values: Vec<f32>,
    rows: usize,
    columns: usize,
    gap: usize,
    flipped: bool,
}

impl Factor {
    fn new(rows: usize, columns: usize, gap: usize, flipped: bool, seed: u64) -> Self {
        let (lines, length) = if flipped { (columns, rows) } else { (rows, columns) };
        Self { values: numbers(lines * (length + gap), seed), rows, columns, gap, flipped }
    }

    fn view(&self) -> Matrix<'_> {
        if self.flipped {
            Matrix::strided(&self.values, self.columns, self.rows, self.rows + self.gap).transposed()
        } else {
            Matrix::strided(&self.values, self.rows, self.columns, self.columns + self.gap)
        }
    }

    fn at(&mut self, row: usize, column: usize) -> &mut f32 {
        let place =
            if self.flipped { column * (self.rows + self.gap) + row } else { row * (self.columns + self.gap) + column };
        &mut self.values[place]
    }
}

/// Multiplies, and compares with sums in float64. Rounding in float32 is all that may differ: an error of 2⁻²⁴ of all
/// that was summed at every addition.
fn check(left: &mut Factor, right: &mut Factor, gap: usize, write: Write) {
    let (rows, inner, columns) = (left.rows, left.columns, right.columns);
    let stride = columns + gap;
    let mut values = numbers(rows * stride, 3);
    let before = values.clone();
    let into = &mut MatrixMut::strided(&mut values, rows, columns, stride);
    product(Precision::Bfloat16, into, write, left.view(), right.view());
    for row in 0..rows {
        let of_left: Vec<f64> = (0..inner).map(|k| rounded(*left.at(row, k))).collect();
        for column in 0..columns {
            let start = if write == Write::Add { f64::from(before[row * stride + column]) } else { 0.0 };
            let (mut sum, mut size) = (start, start.abs());
            for (k, of_left) in of_left.iter().enumerate() {
                let term = of_left * rounded(*right.at(k, column));
                sum += term;
                size += term.abs();
            }
            let found = f64::from(values[row * stride + column]);
            let allowed = (inner + 2) as f64 * 2.0_f64.powi(-24) * size + 1e-35;
            assert!((found - sum).abs() <= allowed, "[{row}, {column}] is {found}, not {sum} ± {allowed}");
        }
        let after = row * stride + columns..(row + 1) * stride;
        assert_eq!(values[after.clone()], before[after], "the gap after row {row}");
    }
}

fn any_write() -> impl Strategy<Value = Write> {
    prop_oneof![Just(Write::Over), Just(Write::Add)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn products_of_all_layouts_are_those_of_rounded_factors(
        rows in 0_usize..40, inner in 0_usize..80, columns in 0_usize..140, gaps in (0_usize..5, 0_usize..5, 0_usize..5),
        flips: (bool, bool), write in any_write()
    ) {
        if !is_skipped() {
            let mut left = Factor::new(rows, inner, gaps.0, flips.0, 1);
            let mut right = Factor::new(inner, columns, gaps.1, flips.1, 2);
            check(&mut left, &mut right, gaps.2, write);
        }
    }
}

#[test]
fn products_of_many_blocks_are_those_of_rounded_factors() {
    if is_skipped() {
        return;
    }
    for flips in [(false, false), (false, true), (true, false), (true, true)] {
        for (rows, inner, columns) in [(7, 2 * DEPTH + 1, 70), (3, 5 * DEPTH + 3, 17)] {
            for write in [Write::Over, Write::Add] {
                let mut left = Factor::new(rows, inner, 0, flips.0, 1);
                check(&mut left, &mut Factor::new(inner, columns, 3, flips.1, 2), 1, write);
            }
        }
        let mut left = Factor::new(BLOCK / WIDTH + 13, 5, 0, flips.0, 1);
        check(&mut left, &mut Factor::new(5, 3, 0, flips.1, 2), 0, Write::Over);
    }
}

#[test]
fn what_is_not_a_number_or_infinite_stays_so_and_what_is_too_large_becomes_infinite() {
    if is_skipped() {
        return;
    }
    for (flip, (rows, inner, columns)) in
        [false, true].into_iter().flat_map(|flip| [(flip, (9, 21, 37)), (flip, (4, 3, 5))])
    {
        for (odd, expected) in [
            (f32::NAN, f32::NAN),
            (f32::from_bits(0x7f80_0001), f32::NAN),
            (f32::INFINITY, f32::INFINITY),
            (f32::MAX, f32::INFINITY),
            (-f32::MAX, f32::NEG_INFINITY),
        ] {
            let mut left = Factor::new(rows, inner, 0, flip, 1);
            let mut right = Factor::new(inner, columns, 0, flip, 2);
            *left.at(rows - 1, inner - 1) = odd;
            (0..columns).for_each(|column| *right.at(inner - 1, column) = 2.0);
            let mut values = vec![0.0; rows * columns];
            let into = &mut MatrixMut::new(&mut values, rows, columns);
            product(Precision::Bfloat16, into, Write::Over, left.view(), right.view());
            let (others, last) = values.split_at((rows - 1) * columns);
            assert!(others.iter().all(|value| value.is_finite()));
            let as_expected = |value: &f32| *value == expected || (value.is_nan() && expected.is_nan());
            assert!(last.iter().all(as_expected), "{odd} became {last:?}");
        }
    }
    // The largest number that is rounded down to a bfloat16, and what it is times one.
    let largest = f32::from_bits(0x7f7f_7fff);
    let mut value = [0.0];
    let into = &mut MatrixMut::new(&mut value, 1, 1);
    product(Precision::Bfloat16, into, Write::Over, Matrix::new(&[largest], 1, 1), Matrix::new(&[1.0], 1, 1));
    assert_eq!(f64::from(value[0]), rounded(largest));
}
