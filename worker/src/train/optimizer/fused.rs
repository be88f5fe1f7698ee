//! AdamW and the norm of a gradient as one pass over slices in main memory.
//!
//! Written with tensors, an update is some fifteen passes over vectors that no cache holds, most of them into a
//! temporary. Here each value is read, changed and written once. The arithmetic is that of the tensors, value by value
//! and in float32; the blocks of a sum are added in their order: neither depends on the number of threads.

use crate::model::Specification;
use rayon::prelude::*;

/// Values that a thread takes at once. Four vectors of it, 256 kB, stay in a core's second-level cache; and smaller
/// vectors, as of a small network, are not worth a second thread.
const BLOCK: usize = 16 * 1024;

/// Sums that are kept beside one another: several registers of float64 on every processor.
const LANES: usize = 16;

/// Neighbouring values with one weight decay.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Span {
    /// Where the span ends; it begins where the one before it ends.
    pub end: usize,
    /// λ.
    pub decay: f32,
}

/// The spans of some parameters, of which those that decay do so by `decay`.
pub fn spans(specifications: &[Specification], decays: impl Fn(&Specification) -> bool, decay: f64) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    let mut end = 0;
    for specification in specifications {
        end += specification.len() as usize;
        let decay = if decays(specification) { decay as f32 } else { 0.0 };
        match spans.last_mut() {
            Some(last) if last.decay == decay => last.end = end,
            _ => spans.push(Span { end, decay }),
        }
    }
    spans
}

/// The numbers of an update that are the same for all values.
#[derive(Debug, Clone, Copy)]
pub struct Coefficients {
    /// The gradient's factor, which clips it.
    pub clip: f32,
    /// β₁ and 1 - β₁.
    pub first: [f32; 2],
    /// β₂ and 1 - β₂.
    pub second: [f32; 2],
    /// What corrects the bias of the first moment, and of the second; 1 where nothing does.
    pub correction: [f32; 2],
    /// ε.
    pub epsilon: f32,
    /// Learning rate.
    pub learning_rate: f32,
}

/// The vectors of an update, all of one length.
pub struct Vectors<'a> {
    /// Parameters.
    pub values: &'a mut [f32],
    /// First moments.
    pub first: &'a mut [f32],
    /// Second moments.
    pub second: &'a mut [f32],
    /// Gradient.
    pub gradient: &'a [f32],
}

impl<'a> Vectors<'a> {
    /// Cuts off the first `count` values.
    fn split_at(self, count: usize) -> (Self, Self) {
        let (values, later_values) = self.values.split_at_mut(count);
        let (first, later_first) = self.first.split_at_mut(count);
        let (second, later_second) = self.second.split_at_mut(count);
        let (gradient, later_gradient) = self.gradient.split_at(count);
        (
            Self { values, first, second, gradient },
            Self { values: later_values, first: later_first, second: later_second, gradient: later_gradient },
        )
    }
}

/// One update on the threads of the current pool.
///
/// # Panics
/// If the vectors differ in length, or the spans end elsewhere.
pub fn update(vectors: Vectors<'_>, spans: &[Span], coefficients: &Coefficients) {
    let Vectors { values, first, second, gradient } = vectors;
    let length = values.len();
    assert!(
        first.len() == length && second.len() == length && gradient.len() == length,
        "moments and gradient are as long as the parameters"
    );
    assert_eq!(spans.last().map_or(0, |span| span.end), length, "every value has a weight decay");
    let blocks = values.par_chunks_mut(BLOCK).zip(first.par_chunks_mut(BLOCK)).zip(second.par_chunks_mut(BLOCK));
    blocks.zip(gradient.par_chunks(BLOCK)).enumerate().for_each(|(block, (((values, first), second), gradient))| {
        update_block(Vectors { values, first, second, gradient }, block * BLOCK, spans, coefficients);
    });
}

/// The block that begins at `start`, span by span.
fn update_block(mut block: Vectors<'_>, mut start: usize, spans: &[Span], coefficients: &Coefficients) {
    let touched = spans.partition_point(|span| span.end <= start);
    for span in &spans[touched..] {
        let count = block.values.len().min(span.end - start);
        let (now, later) = block.split_at(count);
        update_span(now, span.decay, coefficients);
        if later.values.is_empty() {
            return;
        }
        (block, start) = (later, start + count);
    }
}

/// The loop of it all, without a branch, so that the compiler makes vectors of it.
fn update_span(span: Vectors<'_>, decay: f32, coefficients: &Coefficients) {
    let Coefficients { clip, first: [beta_1, rest_1], second: [beta_2, rest_2], .. } = *coefficients;
    let Coefficients { correction: [correct_1, correct_2], epsilon, learning_rate, .. } = *coefficients;
    let moments = span.first.iter_mut().zip(span.second);
    for ((value, (first, second)), gradient) in span.values.iter_mut().zip(moments).zip(span.gradient) {
        let gradient = gradient * clip;
        *first = *first * beta_1 + gradient * rest_1;
        *second = *second * beta_2 + gradient * gradient * rest_2;
        let root = (*second * correct_2).sqrt() + epsilon;
        *value -= (*first * correct_1 / root + decay * *value) * learning_rate;
    }
}

/// Sum of squares in float64, on the threads of the current pool.
pub fn squared_norm(values: &[f32]) -> f64 {
    let blocks: Vec<f64> = values.par_chunks(BLOCK).map(squared_norm_of_block).collect();
    blocks.iter().sum()
}

fn squared_norm_of_block(block: &[f32]) -> f64 {
    let (groups, rest) = block.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for group in groups {
        sums.iter_mut().zip(group).for_each(|(sum, value)| *sum += f64::from(*value) * f64::from(*value));
    }
    sums.iter().sum::<f64>() + rest.iter().map(|value| f64::from(*value) * f64::from(*value)).sum::<f64>()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const COEFFICIENTS: Coefficients = Coefficients {
        clip: 0.5,
        first: [0.9, 0.1],
        second: [0.999, 0.001],
        correction: [2.0, 3.0],
        epsilon: 1e-6,
        learning_rate: 0.01,
    };

    /// Numbers of both signs and many sizes.
    fn numbers(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|i| (((i * 7919 + seed * 104_729) % 2003) as f32 - 1001.0) * 1e-3).collect()
    }

    fn updated(length: usize, spans: &[Span]) -> [Vec<f32>; 3] {
        let [mut values, mut first] = [1, 2].map(|seed| numbers(length, seed));
        let mut second: Vec<f32> = numbers(length, 3).iter().map(|number| number.abs()).collect();
        let gradient = numbers(length, 4);
        let vectors = Vectors { values: &mut values, first: &mut first, second: &mut second, gradient: &gradient };
        update(vectors, spans, &COEFFICIENTS);
        [values, first, second]
    }

    #[test]
    fn parameters_of_one_kind_share_a_span() {
        let all = [
            Specification::matrix("a", 2, 3),
            Specification::matrix("b", 1, 4),
            Specification::bias("c", 5),
            Specification::bias("d", 1),
            Specification::matrix("e", 1, 1),
        ];
        let found = spans(&all, |specification| specification.decays, 0.25);
        assert_eq!(found, [(10, 0.25), (16, 0.0), (17, 0.25)].map(|(end, decay)| Span { end, decay }));
        assert!(spans(&[], |_| true, 1.0).is_empty());
    }

    #[test]
    fn every_value_decays_by_its_own_span_wherever_blocks_end() {
        let length = 2 * BLOCK + 77;
        // Spans that end inside a block, with a block, and with the vector; one is longer than a block.
        let ends = [(5, 0.5), (BLOCK, 0.0), (2 * BLOCK + 3, 0.25), (length, 0.0)];
        let found = updated(length, &ends.map(|(end, decay)| Span { end, decay }));
        for (end, decay) in [(5, 0.5), (BLOCK, 0.0), (2 * BLOCK + 3, 0.25), (length, 0.0)] {
            let alone = updated(length, &[Span { end: length, decay }]);
            let start = if end == 5 { 0 } else { end - 60 };
            for (found, alone) in found.iter().zip(alone) {
                assert_eq!(found[start..end], alone[start..end], "up to {end}");
            }
        }
    }

    #[test]
    fn the_number_of_threads_changes_no_bit() {
        let length = 5 * BLOCK + 1;
        let results = [1, 3].map(|threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| (updated(length, &[Span { end: length, decay: 0.1 }]), squared_norm(&numbers(length, 5))))
        });
        assert!(results[0] == results[1]);
    }

    #[test]
    fn the_norm_is_that_of_float64() {
        for length in [0, 1, LANES + 3, 2 * BLOCK + LANES + 5] {
            let values = numbers(length, 6);
            let expected: f64 = values.iter().map(|value| f64::from(*value).powi(2)).sum();
            assert!((squared_norm(&values) - expected).abs() <= 1e-12 * expected, "{length}");
        }
        assert!(squared_norm(&[1.0, f32::NAN]).is_nan());
    }
}
