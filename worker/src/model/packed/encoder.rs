//! A peer's encoder on one block: layer after layer while the block is in the cache.

use super::attention::sized;
use super::blocks::Block;
use super::layer::{self, Layer, Queries, Tape};
use super::norm::{self, Normalized};
use super::parameters::{Gradients, Parts, Weights};
use crate::simd::keep::Keep;
use medley_common::config::{NetworkConfig, NetworkKind, NormPlacement, Precision};

/// The encoder of a peer, in some step.
pub struct Encoder<'a> {
    shape: &'a NetworkConfig,
    layers: Vec<Weights<'a>>,
    /// Gain and bias after all layers, where norms stand before sublayers.
    last_norm: [&'a [f32]; 2],
    keep: Keep,
    precision: Precision,
}

/// What the backward pass needs of a block's forward pass.
#[derive(Default)]
pub struct BlockTape {
    layers: Vec<Tape>,
    last_norm: Normalized,
}

/// Buffers of a thread.
#[derive(Default)]
pub struct Scratch {
    layer: layer::Scratch,
    x: Vec<f32>,
    next: Vec<f32>,
    gradient: Vec<f32>,
    next_gradient: Vec<f32>,
}

impl<'a> Encoder<'a> {
    /// The encoder of some parameters, flat.
    pub fn new(shape: &'a NetworkConfig, parameters: &'a [f32], keep: Keep, precision: Precision) -> Self {
        let mut rest = parameters;
        let mut next = |count| {
            let (part, after) = rest.split_at(count);
            rest = after;
            part
        };
        let d = shape.dimension as usize;
        let layers = (0..shape.layers).map(|_| Parts::take(d, shape.feed_forward as usize, &mut next)).collect();
        let last_norm = match shape.norm {
            NormPlacement::Post => [&[][..]; 2],
            NormPlacement::Pre => [next(d), next(d)],
        };
        Self { shape, layers, last_norm, keep, precision }
    }

    /// Hidden rows `[q, d]` of a block from its embedded tokens, `[n, d]`.
    pub fn forward(
        &self,
        embedded: &[f32],
        block: &Block,
        hidden: &mut [f32],
        tape: &mut BlockTape,
        scratch: &mut Scratch,
    ) {
        let (d, n) = (self.shape.dimension as usize, block.token_places.len());
        tape.layers.resize_with(self.layers.len(), Tape::default);
        let mut inside = false;
        for (number, tape) in tape.layers.iter_mut().enumerate() {
            let x = if inside { &scratch.x[..n * d] } else { embedded };
            let last = number + 1 == self.layers.len();
            if last && self.shape.norm == NormPlacement::Post {
                self.layer(number).forward(x, block, hidden, tape, &mut scratch.layer);
            } else {
                let count = if last { block.row_places.len() } else { n };
                self.layer(number).forward(x, block, sized(&mut scratch.next, count * d), tape, &mut scratch.layer);
                std::mem::swap(&mut scratch.x, &mut scratch.next);
                inside = true;
            }
        }
        if self.shape.norm == NormPlacement::Pre {
            let [gain, bias] = self.last_norm;
            norm::forward(&scratch.x[..hidden.len()], gain, bias, &mut tape.last_norm, hidden);
        }
    }

    /// Takes the gradient of hidden rows, `[q, d]`, back to that of the embedded tokens, `[n, d]`, which is written to
    /// `embedded_gradient`; gradients of the parameters are added to `gradients`, flat.
    #[allow(clippy::too_many_arguments)]
    pub fn backward(
        &self,
        embedded: &[f32],
        block: &Block,
        tape: &BlockTape,
        hidden_gradient: &[f32],
        gradients: &mut [f32],
        embedded_gradient: &mut [f32],
        scratch: &mut Scratch,
    ) {
        let (d, n) = (self.shape.dimension as usize, block.token_places.len());
        let (mut layers, last_norm) = self.split_gradients(gradients);
        let gradient = sized(&mut scratch.gradient, n.max(block.row_places.len()) * d);
        gradient[..hidden_gradient.len()].copy_from_slice(hidden_gradient);
        if let Some([gain, bias]) = last_norm {
            norm::backward(&mut gradient[..hidden_gradient.len()], &tape.last_norm, self.last_norm[0], gain, bias);
        }
        let mut length = hidden_gradient.len();
        for number in (0..self.layers.len()).rev() {
            let x = match number.checked_sub(1) {
                None => embedded,
                Some(before) if self.shape.norm == NormPlacement::Post => {
                    let x = sized(&mut scratch.x, n * d);
                    tape.layers[before].output(&self.layers[before], x);
                    x
                }
                // The tape has what a layer with the norm before its sublayers projects.
                Some(_) => &[],
            };
            let gradient = &mut scratch.gradient[..length];
            let next = sized(&mut scratch.next_gradient, n * d);
            self.layer(number).backward(
                x,
                block,
                &tape.layers[number],
                gradient,
                &mut layers[number],
                next,
                &mut scratch.layer,
            );
            std::mem::swap(&mut scratch.gradient, &mut scratch.next_gradient);
            length = n * d;
        }
        embedded_gradient.copy_from_slice(&scratch.gradient[..n * d]);
    }

    fn layer(&self, number: usize) -> Layer<'_> {
        Layer {
            weights: self.layers[number],
            dimension: self.shape.dimension as usize,
            heads: self.shape.heads as usize,
            causal: self.shape.kind == NetworkKind::Causal,
            norm: self.shape.norm,
            keep: self.keep.site(number as u64),
            precision: self.precision,
            queries: if number + 1 == self.layers.len() { Queries::Rows } else { Queries::Tokens },
        }
    }

    fn split_gradients<'g>(&self, gradients: &'g mut [f32]) -> (Vec<Gradients<'g>>, Option<[&'g mut [f32]; 2]>) {
        let mut rest = gradients;
        let mut next = |count| {
            let (part, after) = std::mem::take(&mut rest).split_at_mut(count);
            rest = after;
            part
        };
        let (d, inner) = (self.shape.dimension as usize, self.shape.feed_forward as usize);
        let layers = (0..self.shape.layers).map(|_| Parts::take(d, inner, &mut next)).collect();
        let last_norm = (self.shape.norm == NormPlacement::Pre).then(|| [next(d), next(d)]);
        (layers, last_norm)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A mask that two places share would tie what they drop.
    #[test]
    fn every_site_of_an_encoder_has_masks_of_its_own() {
        let shape = NetworkConfig { layers: 3, ..NetworkConfig::default() };
        let length: i64 =
            crate::model::Encoder::specifications(&shape).iter().map(crate::model::Specification::len).sum();
        let parameters = vec![0.0; length as usize];
        let root = Keep::new(0.2, 99);
        let encoder = Encoder::new(&shape, &parameters, root, Precision::Float32);
        let mut keys = vec![root.row(0, 0).name()];
        for number in 0..3 {
            for keep in encoder.layer(number).sites() {
                keys.extend([keep.row(0, 0).name(), keep.row(0, 1).name(), keep.row(1, 0).name()]);
            }
        }
        // The weights of two heads and the outputs of two sublayers in each of three layers, each in three rows.
        assert_eq!(keys.len(), 1 + 3 * 4 * 3);
        keys.sort_unstable();
        assert!(keys.windows(2).all(|pair| pair[0] != pair[1]));
    }
}
