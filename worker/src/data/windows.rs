//! Slices of a training sequence that is longer than a network's input.

use std::ops::Range;

/// Windows of at most `length` items of a sequence, from its end to its start as HAIL's released code does:
/// the last window ends with the sequence, each earlier one begins `stride` = max(1, floor(`length` · (1 − `overlap`)))
/// items before, and one at 0 covers what is left at the start, where it may overlap more.
///
/// # Panics
/// If `length` is 0, which configurations refuse.
pub fn windows(sequence_length: usize, length: usize, overlap: f64) -> Vec<Range<usize>> {
    assert!(length >= 1, "a window holds something");
    if sequence_length == 0 {
        return Vec::new();
    }
    let length = length.min(sequence_length);
    (1..=sequence_length - length)
        .rev()
        .step_by(stride(length, overlap))
        .chain([0])
        .map(|start| start..start + length)
        .collect()
}

fn stride(length: usize, overlap: f64) -> usize {
    // 200 · (1 − 0.9) is 19.999... in floating point; the nudge keeps such products whole.
    ((length as f64 * (1.0 - overlap) + 1e-9).floor() as usize).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn slices_from_the_right_with_one_at_the_start() {
        let once = |window: Range<usize>| Vec::from_iter([window]);
        assert_eq!(windows(10, 4, 0.5), [6..10, 4..8, 2..6, 0..4]);
        assert_eq!(windows(9, 4, 0.5), [5..9, 3..7, 1..5, 0..4]);
        assert_eq!(windows(9, 4, 0.0), [5..9, 1..5, 0..4]);
        assert_eq!(windows(4, 4, 0.5), once(0..4));
        assert_eq!(windows(3, 4, 0.5), once(0..3));
        assert_eq!(windows(1, 4, 0.5), once(0..1));
        assert!(windows(0, 4, 0.5).is_empty());
        assert_eq!(stride(200, 0.5), 100);
        assert_eq!(stride(200, 0.9), 20);
        assert_eq!(stride(2, 0.9), 1);
    }

    proptest! {
        #[test]
        fn cover_every_item_and_never_repeat(
            sequence in 1_usize..700, length in 1_usize..90, overlap in 0.0_f64..0.99
        ) {
            let windows = windows(sequence, length, overlap);
            let mut covered = vec![false; sequence];
            for window in &windows {
                prop_assert_eq!(window.len(), length.min(sequence));
                covered[window.clone()].fill(true);
            }
            prop_assert!(covered.iter().all(|&c| c));
            prop_assert_eq!(windows[0].end, sequence);
            prop_assert!(windows.is_sorted_by(|a, b| a.start > b.start));
        }
    }
}
