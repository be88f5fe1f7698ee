//! Layer normalisation, forward and back, with what the way back needs.

use super::attention::sized;
use super::passes::{Affine, Normalize, NormalizeBackward, run};

#[derive(Default)]
pub struct Normalized {
    pub values: Vec<f32>,
    pub inverse: Vec<f32>,
}

/// `into = norm(rows)`; the tape gets what the way back needs.
pub fn forward(rows: &[f32], gain: &[f32], bias: &[f32], tape: &mut Normalized, into: &mut [f32]) {
    let d = gain.len();
    let values = sized(&mut tape.values, rows.len());
    values.copy_from_slice(rows);
    let inverse = sized(&mut tape.inverse, rows.len() / d);
    run(Normalize { rows: values, inverse, gain, bias, into, into_width: d });
}

/// What [`forward`] wrote, once more; `into` says how many rows.
pub fn again(tape: &Normalized, gain: &[f32], bias: &[f32], into: &mut [f32]) {
    run(Affine { normalized: &tape.values[..into.len()], gain, bias, into });
}

/// Back through [`forward`], in place; adds to the gradients of gain and bias.
pub fn backward(
    gradient: &mut [f32],
    tape: &Normalized,
    gain: &[f32],
    gain_gradient: &mut [f32],
    bias_gradient: &mut [f32],
) {
    let (normalized, inverse) = (&tape.values[..gradient.len()], &tape.inverse[..gradient.len() / gain.len()]);
    run(NormalizeBackward { gradient, normalized, inverse, gain, gain_gradient, bias_gradient });
}
