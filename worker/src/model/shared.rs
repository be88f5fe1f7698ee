//! What all peers share: the embedding of items and positions, and the prediction layer (HAIL section 3.1).

use super::packed::EmbeddingParts;
use super::{NORM_EPSILON, Parameters, Specification};
use crate::exchange::{PredictionParts, floats};
use crate::random::{Purpose, seed_of};
use medley_common::config::NetworkConfig;
use tch::{Device, Kind, Tensor};

/// Shared parameters. The prediction layer is tied to the item table: `z = LN(GELU(h W_P + b_P)) Uᵀ + b_U`.
#[derive(Debug)]
pub struct Shared {
    /// The values.
    pub parameters: Parameters,
    items: i64,
    dimension: i64,
}

// Places in the specifications.
const ITEM_TABLE: usize = 0;
const POSITION_TABLE: usize = 1;
const EMBEDDING_GAIN: usize = 2;
const EMBEDDING_BIAS: usize = 3;
const TRANSFORM: usize = 4;
const TRANSFORM_BIAS: usize = 5;
const TRANSFORM_GAIN: usize = 6;
const TRANSFORM_NORM_BIAS: usize = 7;
const OUTPUT_BIAS: usize = 8;

impl Shared {
    /// Draws the shared parameters of a catalogue of `items`.
    pub fn draw(network: &NetworkConfig, items: usize, max_length: usize, seed: u64, device: Device) -> Self {
        let specifications = Self::specifications(network, items, max_length);
        let seed = seed_of(Purpose::SharedParameters, seed, 0, 0);
        let parameters = Parameters::draw(specifications, network.initialization, seed, device);
        Self { parameters, items: items as i64, dimension: network.dimension }
    }

    /// Shared parameters over a flat vector, which is not copied.
    pub fn over(network: &NetworkConfig, items: usize, max_length: usize, values: Tensor) -> Self {
        let parameters = Parameters::over(Self::specifications(network, items, max_length), values);
        Self { parameters, items: items as i64, dimension: network.dimension }
    }

    /// What the shared parameters are. The item table has a row for padding, one for each item, one for the mask.
    pub fn specifications(network: &NetworkConfig, items: usize, max_length: usize) -> Vec<Specification> {
        let (d, items) = (network.dimension, items as i64);
        let mut all = vec![
            Specification::matrix("item_table", items + 2, d),
            Specification::matrix("position_table", max_length as i64, d),
        ];
        all.extend(Specification::norm("embedding_norm", d));
        all.push(Specification::matrix("transform.weight", d, d));
        all.push(Specification::bias("transform.bias", d));
        all.extend(Specification::norm("transform_norm", d));
        all.push(Specification::bias("output_bias", items));
        all
    }

    /// Items of the catalogue, V.
    pub fn items(&self) -> i64 {
        self.items
    }

    /// Embeds tokens `[b, L]` as `[b, L, d]`: item plus position, normalised; dropout is the caller's.
    pub fn embed(&self, tokens: &Tensor) -> Tensor {
        let p = &self.parameters;
        let items = Tensor::embedding(p.get(ITEM_TABLE), tokens, -1, false, false);
        let positions = p.get(POSITION_TABLE).narrow(0, 0, tokens.size()[1]);
        let sum = items + positions;
        sum.layer_norm([self.dimension], Some(p.get(EMBEDDING_GAIN)), Some(p.get(EMBEDDING_BIAS)), NORM_EPSILON, false)
    }

    /// The embedding's parameters in main memory.
    pub(super) fn embedding(&self) -> EmbeddingParts<&[f32]> {
        let of = |index| self.parameters.slice_of(index);
        EmbeddingParts {
            items: of(ITEM_TABLE),
            positions: of(POSITION_TABLE),
            gain: of(EMBEDDING_GAIN),
            bias: of(EMBEDDING_BIAS),
        }
    }

    /// The embedding's part of a flat vector of all shared parameters, `[len]`.
    pub(super) fn embedding_of<'v>(&self, flat: &'v mut [f32]) -> EmbeddingParts<&'v mut [f32]> {
        let length = |index| self.parameters.range(index).1 as usize;
        // The embedding's parameters come first.
        let (items, rest) = flat.split_at_mut(length(ITEM_TABLE));
        let (positions, rest) = rest.split_at_mut(length(POSITION_TABLE));
        let (gain, rest) = rest.split_at_mut(length(EMBEDDING_GAIN));
        EmbeddingParts { items, positions, gain, bias: &mut rest[..length(EMBEDDING_BIAS)] }
    }

    /// The prediction layer's parameters in main memory.
    pub fn prediction(&self) -> PredictionParts<&[f32]> {
        let of = |index| self.parameters.slice_of(index);
        let d = self.dimension as usize;
        PredictionParts {
            transform: of(TRANSFORM),
            transform_bias: of(TRANSFORM_BIAS),
            gain: of(TRANSFORM_GAIN),
            bias: of(TRANSFORM_NORM_BIAS),
            output: &of(ITEM_TABLE)[d..d * (self.items as usize + 1)],
            output_bias: of(OUTPUT_BIAS),
        }
    }

    /// Gradients of the prediction layer as a flat gradient of all shared parameters, `[len]`.
    pub fn from_prediction(&self, gradients: &PredictionParts<Vec<f32>>) -> Tensor {
        let mut result = Tensor::zeros([self.parameters.len()], (Kind::Float, Device::Cpu));
        let flat = floats::slice_mut(&mut result);
        let mut put = |index, skip: usize, values: &[f32]| {
            let start = self.parameters.range(index).0 as usize + skip;
            flat[start..start + values.len()].copy_from_slice(values);
        };
        put(ITEM_TABLE, self.dimension as usize, &gradients.output);
        put(TRANSFORM, 0, &gradients.transform);
        put(TRANSFORM_BIAS, 0, &gradients.transform_bias);
        put(TRANSFORM_GAIN, 0, &gradients.gain);
        put(TRANSFORM_NORM_BIAS, 0, &gradients.bias);
        put(OUTPUT_BIAS, 0, &gradients.output_bias);
        result
    }

    /// The prediction layer's transform of hidden rows `[n, d]`, before the product with the item table.
    pub fn transform(&self, hidden: &Tensor) -> Tensor {
        let p = &self.parameters;
        hidden.linear(p.get(TRANSFORM), Some(p.get(TRANSFORM_BIAS))).gelu("none").layer_norm(
            [self.dimension],
            Some(p.get(TRANSFORM_GAIN)),
            Some(p.get(TRANSFORM_NORM_BIAS)),
            NORM_EPSILON,
            false,
        )
    }

    /// The output weights U, `[V, d]`: the item table without padding and mask. A view, detached from the graph.
    pub fn output_weights(&self) -> Tensor {
        self.parameters.get(ITEM_TABLE).detach().narrow(0, 1, self.items)
    }

    /// The output bias b_U, `[V]`, detached from the graph.
    pub fn output_bias(&self) -> Tensor {
        self.parameters.get(OUTPUT_BIAS).detach()
    }

    /// Adds gradients of U `[V, d]` and b_U `[V]` to a flat gradient of all shared parameters.
    pub fn add_output_gradients(&self, flat: &Tensor, weights: &Tensor, bias: &Tensor) {
        let (start, _) = self.parameters.range(ITEM_TABLE);
        let _ = flat.narrow(0, start + self.dimension, self.items * self.dimension).g_add_(&weights.reshape([-1]));
        let (start, length) = self.parameters.range(OUTPUT_BIAS);
        let _ = flat.narrow(0, start, length).g_add_(bias);
    }

    /// Logits of hidden rows `[n, d]` over the catalogue, `[n, V]`; for evaluation.
    pub fn logits(&self, hidden: &Tensor) -> Tensor {
        self.transform(hidden).linear(&self.output_weights(), Some(self.output_bias()))
    }
}
