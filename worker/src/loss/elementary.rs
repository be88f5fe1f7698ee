//! Exponentials and logarithms without branches or calls, so that loops over them vectorise.

/// `e^x` for `x` at most 88, within two units in the last place; 0 below -87, where the result would be denormal; not a
/// number stays what it is. Argument reduction by Cody and Waite, Taylor series on [-ln 2 / 2, ln 2 / 2].
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // Adding and taking away 1.5·2^23 rounds to the nearest whole number.
    const ROUND: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let clamped = if x < -87.0 { -87.0 } else { x };
    let whole = (clamped * std::f32::consts::LOG2_E + ROUND) - ROUND;
    let rest = (clamped - whole * LN_2_HIGH) - whole * LN_2_LOW;
    let mut series = 1.0 / 5040.0;
    for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        series = series * rest + coefficient;
    }
    // SAFETY of the cast: `whole` lies in [-126, 127] for the arguments allowed; the conversion saturates otherwise.
    let power = f32::from_bits((((whole as i32) + 127) << 23) as u32);
    if x < -87.0 { 0.0 } else { series * power }
}

/// `-log(1 - p)` for `p` in [0, 1/2], within four units in the last place: `2 artanh(p / (2 - p))` as a series.
#[inline(always)]
pub fn minus_log_one_minus(p: f32) -> f32 {
    let s = p / (2.0 - p);
    let square = s * s;
    let mut series = 1.0 / 17.0;
    for coefficient in [1.0 / 15.0, 1.0 / 13.0, 1.0 / 11.0, 1.0 / 9.0, 1.0 / 7.0, 0.2, 1.0 / 3.0, 1.0] {
        series = series * square + coefficient;
    }
    2.0 * s * series
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_accurate_over_its_range() {
        let mut x = -86.9f32;
        while x < 60.0 {
            let expected = f64::from(x).exp();
            let error = (f64::from(exp(x)) - expected).abs() / expected;
            assert!(error < 2.4e-7, "exp({x}): relative error {error:e}");
            x += 0.0137;
        }
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-88.0), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn the_logarithm_is_accurate_down_to_nothing() {
        for step in 0..=20_000 {
            let p = 0.5f32 * (-(step as f32) / 500.0).exp();
            let expected = -(-f64::from(p)).ln_1p();
            let error = (f64::from(minus_log_one_minus(p)) - expected).abs() / expected;
            assert!(error < 5e-7, "{p}: relative error {error:e}");
        }
        assert_eq!(minus_log_one_minus(0.0), 0.0);
    }
}
