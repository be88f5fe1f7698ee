//! Dropout without a generator's state: whether a value is kept is a pure function of a key and a place.
//!
//! The backward pass draws the very mask of the forward pass again instead of storing it, and a mask does not depend on how a
//! batch is cut into blocks, on the width of vectors, or on the process that hosts a peer.

use super::lanes::Lanes;

/// The dropout of one site of a network in one step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keep {
    key: u64,
    /// Values whose hash is below are dropped.
    threshold: u32,
    /// What kept values are multiplied by.
    scale: f32,
}

/// The dropout of one row of a site.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeepRow {
    pub(super) keys: [u32; 2],
    pub(super) threshold: u32,
    pub(super) scale: f32,
}

impl Keep {
    /// Dropout that zeroes a share `rate` in [0, 1) of the values and scales the others by 1 / (1 - rate).
    pub(crate) fn new(rate: f64, key: u64) -> Self {
        Self { key, threshold: (rate * 2.0_f64.powi(32)) as u32, scale: (1.0 / (1.0 - rate)) as f32 }
    }

    /// The same dropout at another site.
    pub(crate) fn site(self, number: u64) -> Self {
        Self { key: mix(self.key ^ mix(number)), ..self }
    }

    /// Whether any value is dropped.
    pub(crate) fn is_active(self) -> bool {
        self.threshold > 0
    }

    /// The dropout of a row, which two numbers name.
    #[inline(always)]
    pub(crate) fn row(self, first: u32, second: u32) -> KeepRow {
        let key = mix(self.key ^ (u64::from(first) << 32 | u64::from(second)));
        KeepRow { keys: [key as u32, (key >> 32) as u32], threshold: self.threshold, scale: self.scale }
    }
}

impl KeepRow {
    /// The factors of the values at `at` and after it: 0, or the scale of what is kept.
    #[inline(always)]
    pub(crate) fn factors<L: Lanes>(&self, at: usize) -> L {
        L::keep_factors(self, at as u32)
    }

    /// What sets its mask apart from others.
    #[cfg(test)]
    pub(crate) fn name(&self) -> [u32; 2] {
        self.keys
    }

    /// The hash of a place, as every vector computes it: Wellons' low-bias integer permutation, keyed before and within.
    #[inline(always)]
    pub(super) fn hash(&self, place: u32) -> u32 {
        let x = place ^ self.keys[0];
        let x = (x ^ x >> 16).wrapping_mul(FIRST_FACTOR);
        let x = (x ^ x >> 15).wrapping_add(self.keys[1]).wrapping_mul(SECOND_FACTOR);
        x ^ x >> 16
    }
}

pub(super) const FIRST_FACTOR: u32 = 0x7feb_352d;
pub(super) const SECOND_FACTOR: u32 = 0x846c_a68b;

/// A permutation of the 64-bit numbers that spreads every bit (Stafford's variant 13 of the murmur finaliser).
#[inline(always)]
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

#[cfg(test)]
mod tests {
    use super::super::lanes::{SimdLevel, Task, WIDEST, dispatch};
    use super::*;

    struct Draw<'a> {
        row: KeepRow,
        into: &'a mut [f32],
    }

    impl Task for Draw<'_> {
        #[inline(always)]
        fn run<L: Lanes>(self) {
            for at in (0..self.into.len()).step_by(L::WIDTH) {
                self.row.factors::<L>(at).store(&mut self.into[at..]);
            }
        }
    }

    fn draw(level: SimdLevel, row: KeepRow, length: usize) -> Vec<f32> {
        let mut into = vec![0.0; length];
        dispatch(level, Draw { row, into: &mut into });
        into
    }

    #[test]
    fn masks_are_the_same_on_every_instruction_set_and_follow_the_hash() {
        let row = Keep::new(0.2, 77).site(3).row(5, 9);
        let expected: Vec<f32> =
            (0..256).map(|place| if row.hash(place) < row.threshold { 0.0 } else { row.scale }).collect();
        for &level in SimdLevel::available() {
            assert_eq!(draw(level, row, 256), expected, "{level:?}");
        }
    }

    /// Shares of dropped values, and of neighbours dropped together: in a row and down a column.
    #[test]
    fn masks_drop_the_share_asked_for_independently() {
        let keep = Keep::new(0.2, 1);
        let rows: Vec<Vec<bool>> = (0..512)
            .map(|n| draw(SimdLevel::best(), keep.row(3, n), 20 * WIDEST).iter().map(|factor| *factor == 0.0).collect())
            .collect();
        let share = |pairs: &mut dyn Iterator<Item = (bool, bool)>| {
            let (mut one, mut both, mut all) = (0.0, 0.0, 0.0);
            pairs.for_each(|(a, b)| {
                one += f64::from(u8::from(a));
                both += f64::from(u8::from(a && b));
                all += 1.0;
            });
            (one / all, both / all)
        };
        let in_row = share(&mut rows.iter().flat_map(|row| row.iter().copied().zip(row[1..].iter().copied())));
        let down = share(&mut rows.windows(2).flat_map(|two| two[0].iter().copied().zip(two[1].iter().copied())));
        for (one, both) in [in_row, down] {
            // Four deviations of 164,000 draws.
            assert!((one - 0.2).abs() < 0.004, "{one}");
            assert!((both - 0.04).abs() < 0.002, "{both}");
        }
    }

    #[test]
    fn every_part_of_the_key_matters_and_rate_zero_keeps_all() {
        let keep = Keep::new(0.5, 1);
        let base = draw(SimdLevel::best(), keep.site(1).row(2, 3), 64);
        for other in [
            Keep::new(0.5, 2).site(1).row(2, 3),
            keep.site(2).row(2, 3),
            keep.site(1).row(3, 3),
            keep.site(1).row(2, 4),
        ] {
            assert_ne!(base, draw(SimdLevel::best(), other, 64));
        }
        assert!(!Keep::new(0.0, 1).is_active());
        assert!(draw(SimdLevel::best(), Keep::new(0.0, 1).row(0, 0), 64).iter().all(|factor| *factor == 1.0));
    }
}
