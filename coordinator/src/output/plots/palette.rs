//! Colours that people with any colour vision tell apart, on white as on black.

use plotters::style::RGBColor;

/// Text and axes: contrast 4.5 against white and 4.6 against black.
pub const GREY: RGBColor = RGBColor(0x76, 0x76, 0x76);

/// Okabe and Ito's palette ("Color Universal Design", 2008) without black, which dark mode swallows, and yellow,
/// which paper does.
const DISTINCT: [RGBColor; 6] = [
    RGBColor(0x00, 0x72, 0xb2),
    RGBColor(0xe6, 0x9f, 0x00),
    RGBColor(0x00, 0x9e, 0x73),
    RGBColor(0xcc, 0x79, 0xa7),
    RGBColor(0xd5, 0x5e, 0x00),
    RGBColor(0x56, 0xb4, 0xe9),
];

/// From blue to gold, which differ for every colour vision.
const RAMP: [(f64, f64, f64); 3] = [(62.0, 104.0, 196.0), (116.0, 150.0, 148.0), (226.0, 164.0, 16.0)];

/// Whether so many series have a colour of their own each, and not a place on a ramp.
pub fn is_distinct(count: usize) -> bool {
    count <= DISTINCT.len()
}

/// The colour of series number `at` of `count`.
pub fn colour(at: usize, count: usize) -> RGBColor {
    if is_distinct(count) {
        return DISTINCT[at % DISTINCT.len()];
    }
    ramp(at as f64 / (count - 1) as f64)
}

/// The ramp's colour at a share of its length.
pub fn ramp(share: f64) -> RGBColor {
    let place = share.clamp(0.0, 1.0) * (RAMP.len() - 1) as f64;
    let below = (place as usize).min(RAMP.len() - 2);
    let (from, to) = (RAMP[below], RAMP[below + 1]);
    let between = |from: f64, to: f64| (from + (to - from) * (place - below as f64)).round() as u8;
    RGBColor(between(from.0, to.0), between(from.1, to.1), between(from.2, to.2))
}
