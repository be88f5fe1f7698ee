//! Exponential and logarithms on vectors, by polynomials that need no table.
//!
//! Errors against the exact value, in units of the last place of the result (tested over the whole range):
//! [`exp`] 1, [`ln`] 1, [`neg_log1m_and_inverse`] 2 and 3. Of [`normal_share_and_density`] the absolute error counts.

use super::lanes::Lanes;

/// e^x. 0 below about -104, infinite above about 88.7, subnormal results where they belong, NaN for NaN.
///
/// Range reduction by the nearest multiple of ln 2, split in two as by Cody and Waite; coefficients of Moshier's Cephes.
#[inline(always)]
pub(crate) fn exp<L: Lanes>(x: L) -> L {
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Adding and taking away 1.5 * 2^23 rounds to the nearest integer.
    const ROUNDER: f32 = 12_582_912.0;

    // The constant comes first: minimum and maximum return their second operand, x, when it is not a number.
    let x = L::splat(89.0).min(L::splat(-104.0).max(x));
    let rounder = L::splat(ROUNDER);
    let power = x.mul_add(L::splat(std::f32::consts::LOG2_E), rounder).sub(rounder);
    let r = power.mul_add(L::splat(-LN2_HIGH), x);
    let r = power.mul_add(L::splat(-LN2_LOW), r);

    let mut series = L::splat(1.987_569_1e-4);
    for coefficient in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5] {
        series = series.mul_add(r, L::splat(coefficient));
    }
    series.mul(r).mul_add(r, r).add(L::splat(1.0)).times_power_of_two(power)
}

/// ln x of a positive finite number, subnormal ones included. 0 counts as 2^-152, so that 0 ln 0 = 0.
#[inline(always)]
pub(crate) fn ln<L: Lanes>(x: L) -> L {
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;

    let smallest_normal = L::splat(f32::MIN_POSITIVE);
    let normal = x.mul(L::splat(33_554_432.0)).where_less(x, smallest_normal, x);
    let shift = L::splat(-25.0).where_less(x, smallest_normal, L::splat(0.0));
    let (mantissa, exponent) = normal.mantissa_and_exponent();
    let exponent = exponent.add(shift);

    // ln m = 2 artanh(s) with s = (m-1)/(m+1), |s| <= 0.172.
    let f = mantissa.sub(L::splat(1.0));
    let s = f.div(f.add(L::splat(2.0)));
    let square = s.mul(s);
    let mut series = L::splat(2.0 / 11.0);
    for coefficient in [2.0 / 9.0, 2.0 / 7.0, 2.0 / 5.0, 2.0 / 3.0] {
        series = series.mul_add(square, L::splat(coefficient));
    }
    // 2s = f - s f exactly in real numbers, and f is exact.
    let tail = series.mul(square).sub(f).mul(s);
    let low = exponent.mul_add(L::splat(LN2_LOW), tail);
    exponent.mul_add(L::splat(LN2_HIGH), f.add(low))
}

/// `(-log(1 - p), 1 / (1 - p))` for p in [0, 1/2], with one division for both.
#[inline(always)]
pub(crate) fn neg_log1m_and_inverse<L: Lanes>(p: L) -> (L, L) {
    let one_minus = L::splat(1.0).sub(p);
    let two_minus = L::splat(2.0).sub(p);
    let inverse_of_both = L::splat(1.0).div(one_minus.mul(two_minus));
    let inverse = two_minus.mul(inverse_of_both);

    // -log(1-p) = 2 artanh(s) with s = p/(2-p) <= 1/3; the first term left out is s^15 2/15.
    let s = p.mul(one_minus).mul(inverse_of_both);
    let square = s.mul(s);
    let mut series = L::splat(2.0 / 13.0);
    for coefficient in [2.0 / 11.0, 2.0 / 9.0, 2.0 / 7.0, 2.0 / 5.0, 2.0 / 3.0] {
        series = series.mul_add(square, L::splat(coefficient));
    }
    // 2s = p + s p in real numbers, and p is exact.
    (series.mul_add(square, p).mul_add(s, p), inverse)
}

/// `(Φ(x), φ(x))`: the normal distribution's cumulative share and its density, with one exponential and one division for
/// both. The absolute error of Φ is below 3e-7 (formula 7.1.26 of Abramowitz and Stegun's Handbook).
#[inline(always)]
pub(crate) fn normal_share_and_density<L: Lanes>(x: L) -> (L, L) {
    const FRAC_1_SQRT_TAU: f32 = 0.398_942_3;
    let size = x.max(L::splat(0.0).sub(x));
    let bell = exp(x.mul(x).mul(L::splat(-0.5)));
    let scaled = L::splat(0.327_591_1 * std::f32::consts::FRAC_1_SQRT_2);
    let t = L::splat(1.0).div(scaled.mul_add(size, L::splat(1.0)));
    let mut series = L::splat(1.061_405_4);
    for coefficient in [-1.453_152, 1.421_413_8, -0.284_496_74, 0.254_829_6] {
        series = series.mul_add(t, L::splat(coefficient));
    }
    // The share beyond |x|, on one side.
    let tail = series.mul(t).mul(bell).mul(L::splat(0.5));
    let share = tail.where_less(x, L::splat(0.0), L::splat(1.0).sub(tail));
    (share, bell.mul(L::splat(FRAC_1_SQRT_TAU)))
}

#[cfg(test)]
mod tests {
    use super::super::lanes::{SimdLevel, Task, WIDEST, dispatch};
    use super::*;

    #[derive(Clone, Copy, Debug)]
    enum Function {
        Exp,
        Ln,
        NegLog1m,
        Inverse,
        Share,
        Density,
    }

    struct Apply<'a> {
        function: Function,
        numbers: &'a mut [f32],
    }

    impl Task for Apply<'_> {
        #[inline(always)]
        fn run<L: Lanes>(self) {
            for chunk in self.numbers.chunks_exact_mut(L::WIDTH) {
                let x = L::load(chunk);
                let y = match self.function {
                    Function::Exp => exp(x),
                    Function::Ln => ln(x),
                    Function::NegLog1m => neg_log1m_and_inverse(x).0,
                    Function::Inverse => neg_log1m_and_inverse(x).1,
                    Function::Share => normal_share_and_density(x).0,
                    Function::Density => normal_share_and_density(x).1,
                };
                y.store(chunk);
            }
        }
    }

    /// The worst error in units of the last place over every 1009th number from `first` to `last`, both positive or both
    /// negative, on every instruction set.
    fn worst(function: Function, exact: fn(f64) -> f64, first: f32, last: f32) -> f64 {
        let mut inputs: Vec<f32> = (first.to_bits()..=last.to_bits()).step_by(1009).map(f32::from_bits).collect();
        inputs.resize(inputs.len().next_multiple_of(WIDEST), last);
        let mut worst = 0.0_f64;
        for &level in SimdLevel::available() {
            let mut outputs = inputs.clone();
            dispatch(level, Apply { function, numbers: &mut outputs });
            for (&x, &y) in inputs.iter().zip(&outputs) {
                let exact = exact(f64::from(x));
                let nearest = exact as f32;
                if nearest == y {
                    continue;
                }
                let ulp = f64::from(nearest.abs().next_up()) - f64::from(nearest.abs());
                let error = (f64::from(y) - exact).abs() / ulp;
                assert!(error.is_finite(), "{function:?}({x:e}) = {y:e} instead of {nearest:e}, {level:?}");
                worst = worst.max(error);
            }
        }
        println!("{function:?} from {first:e} to {last:e}: {worst:.2} ulp");
        worst
    }

    #[test]
    fn the_exponential_is_accurate_from_underflow_to_overflow() {
        assert!(worst(Function::Exp, f64::exp, 0.0, 88.7) <= 1.0);
        assert!(worst(Function::Exp, f64::exp, -0.0, -200.0) <= 1.0);
    }

    #[test]
    fn the_logarithm_is_accurate_down_to_subnormal_numbers() {
        assert!(worst(Function::Ln, f64::ln, f32::from_bits(1), f32::MAX) <= 1.0);
    }

    #[test]
    fn the_logarithm_of_one_minus_p_and_the_inverse_are_accurate_up_to_a_half() {
        assert!(worst(Function::NegLog1m, |p| -(-p).ln_1p(), 0.0, 0.5) <= 2.0);
        assert!(worst(Function::Inverse, |p| 1.0 / (1.0 - p), 0.0, 0.5) <= 3.0);
    }

    /// Φ by integrating its density from 0 with Simpson's rule, in steps of 1/1000.
    fn share(x: f64) -> f64 {
        let steps = 2 * ((x.abs() * 500.0).ceil() as usize).max(1);
        let width = x / steps as f64;
        let weight = |n: usize| if n == 0 || n == steps { 1.0 } else { 2.0 + 2.0 * (n % 2) as f64 };
        let sum: f64 = (0..=steps).map(|n| weight(n) * density(n as f64 * width)).sum();
        0.5 + sum * width / 3.0
    }

    fn density(x: f64) -> f64 {
        (-0.5 * x * x).exp() / std::f64::consts::TAU.sqrt()
    }

    #[test]
    fn the_normal_share_and_density_are_accurate_on_both_sides() {
        let inputs: Vec<f32> = (-10_000..=10_000).step_by(7).map(|n| n as f32 / 1000.0).collect();
        let mut padded = inputs.clone();
        padded.resize(inputs.len().next_multiple_of(WIDEST), 0.0);
        for &level in SimdLevel::available() {
            let (mut shares, mut densities) = (padded.clone(), padded.clone());
            dispatch(level, Apply { function: Function::Share, numbers: &mut shares });
            dispatch(level, Apply { function: Function::Density, numbers: &mut densities });
            for ((&x, &y), &bell) in inputs.iter().zip(&shares).zip(&densities) {
                let error = (f64::from(y) - share(f64::from(x))).abs();
                assert!(error < 3e-7, "{level:?}: share({x}) = {y} is off by {error:e}");
                let relative = (f64::from(bell) / density(f64::from(x)) - 1.0).abs();
                assert!(relative < 5e-6, "{level:?}: density({x}) = {bell} is off by {relative:e}");
            }
        }
    }

    #[test]
    fn what_is_not_finite_goes_where_it_belongs() {
        for &level in SimdLevel::available() {
            let mut numbers = [f32::NEG_INFINITY; WIDEST];
            numbers[1] = f32::INFINITY;
            numbers[2] = f32::NAN;
            numbers[3] = 89.5;
            numbers[4] = -104.5;
            dispatch(level, Apply { function: Function::Exp, numbers: &mut numbers });
            assert_eq!(numbers[0], 0.0, "{level:?}");
            assert_eq!(numbers[1], f32::INFINITY, "{level:?}");
            assert!(numbers[2].is_nan(), "{level:?}");
            assert_eq!(numbers[3], f32::INFINITY, "{level:?}");
            assert_eq!(numbers[4], 0.0, "{level:?}");

            let mut zero = [0.0; WIDEST];
            dispatch(level, Apply { function: Function::Ln, numbers: &mut zero });
            assert!(zero.iter().all(|&y| (-106.0..-105.0).contains(&y)), "{level:?}: {zero:?}");
        }
    }
}
