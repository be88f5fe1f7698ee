//! A peer's own parameters: a Transformer encoder (HAIL section 3.1, eqs 1-4; layout of the released code).

use super::{NORM_EPSILON, Parameters, Specification};
use crate::random::{Purpose, seed_of};
use medley_common::config::{NetworkConfig, NetworkKind, NormPlacement};
use tch::{Device, Kind, Tensor};

/// The encoder of one peer.
#[derive(Debug)]
pub struct Encoder {
    /// The values.
    pub parameters: Parameters,
    shape: NetworkConfig,
}

/// Parameters of a layer, in the order in which they lie.
const PER_LAYER: usize = 12;

impl Encoder {
    /// Draws the encoder of a peer.
    pub fn draw(network: &NetworkConfig, seed: u64, peer: u32, device: Device) -> Self {
        let seed = seed_of(Purpose::PeerParameters, seed, u64::from(peer), 0);
        let parameters = Parameters::draw(Self::specifications(network), network.initialization, seed, device);
        Self { parameters, shape: network.clone() }
    }

    /// An encoder over a flat vector of its parameters, which is not copied.
    pub fn over(network: &NetworkConfig, values: Tensor) -> Self {
        Self { parameters: Parameters::over(Self::specifications(network), values), shape: network.clone() }
    }

    /// What a peer's own parameters are.
    pub fn specifications(network: &NetworkConfig) -> Vec<Specification> {
        let (d, inner) = (network.dimension, network.feed_forward);
        let mut all = Vec::new();
        for layer in 0..network.layers {
            let name = |part: &str| format!("layer_{layer}.{part}");
            all.push(Specification::matrix(name("query_key_value.weight"), 3 * d, d));
            all.push(Specification::bias(name("query_key_value.bias"), 3 * d));
            all.push(Specification::matrix(name("attention_output.weight"), d, d));
            all.push(Specification::bias(name("attention_output.bias"), d));
            all.extend(Specification::norm(&name("attention_norm"), d));
            all.push(Specification::matrix(name("feed_forward_in.weight"), inner, d));
            all.push(Specification::bias(name("feed_forward_in.bias"), inner));
            all.push(Specification::matrix(name("feed_forward_out.weight"), d, inner));
            all.push(Specification::bias(name("feed_forward_out.bias"), d));
            all.extend(Specification::norm(&name("feed_forward_norm"), d));
        }
        if network.norm == NormPlacement::Pre {
            all.extend(Specification::norm("final_norm", d));
        }
        all
    }

    /// Encodes `[b, L, d]` as `[b, L, d]`. `keys` is the attention mask of [`Encoder::mask`].
    pub fn forward(&self, embedded: &Tensor, keys: Option<&Tensor>, train: bool) -> Tensor {
        let mut x = embedded.shallow_clone();
        for layer in 0..self.shape.layers {
            x = self.layer(layer * PER_LAYER, &x, keys, train);
        }
        match self.shape.norm {
            NormPlacement::Post => x,
            NormPlacement::Pre => self.normalize(self.shape.layers * PER_LAYER, &x),
        }
    }

    /// The attention mask of a bucket: true where a key is real, `[b, 1, 1, L]`; `None` where nothing needs masking. A
    /// causal network needs none: right padding comes after every real position.
    pub fn mask(kind: NetworkKind, lengths: &[usize], length: usize, device: Device) -> Option<Tensor> {
        if kind == NetworkKind::Causal || lengths.iter().all(|l| *l == length) {
            return None;
        }
        let lengths: Vec<i64> = lengths.iter().map(|l| *l as i64).collect();
        let positions = Tensor::arange(length as i64, (Kind::Int64, device));
        let mask = positions.unsqueeze(0).lt_tensor(&Tensor::from_slice(&lengths).to_device(device).unsqueeze(1));
        Some(mask.unsqueeze(1).unsqueeze(1))
    }

    fn layer(&self, first: usize, x: &Tensor, keys: Option<&Tensor>, train: bool) -> Tensor {
        match self.shape.norm {
            NormPlacement::Post => {
                let x = self.normalize(first + 4, &(x + self.attention(first, x, keys, train)));
                self.normalize(first + 10, &(&x + self.feed_forward(first + 6, &x, train)))
            }
            NormPlacement::Pre => {
                let x = x + self.attention(first, &self.normalize(first + 4, x), keys, train);
                &x + self.feed_forward(first + 6, &self.normalize(first + 10, &x), train)
            }
        }
    }

    /// Multi-head scaled dot-product attention; scores are scaled by the root of a head's width, as in the released code
    /// (the papers print other scales).
    fn attention(&self, first: usize, x: &Tensor, keys: Option<&Tensor>, train: bool) -> Tensor {
        let p = &self.parameters;
        let (b, l, d) = x.size3().expect("the encoder's input is [sequences, length, dimension]");
        let heads = self.shape.heads;
        let projected = x.linear(p.get(first), Some(p.get(first + 1)));
        // [3, b, heads, L, d / heads]
        let parts = projected.view([b, l, 3, heads, d / heads]).permute([2, 0, 3, 1, 4]);
        let (q, k, v) = (parts.get(0), parts.get(1), parts.get(2));
        let dropout = if train { self.shape.dropout } else { 0.0 };
        let causal = self.shape.kind == NetworkKind::Causal;
        let mixed = Tensor::scaled_dot_product_attention(&q, &k, &v, keys, dropout, causal, None, false);
        let joined = mixed.transpose(1, 2).reshape([b, l, d]);
        joined.linear(p.get(first + 2), Some(p.get(first + 3))).dropout(self.shape.dropout, train)
    }

    fn feed_forward(&self, first: usize, x: &Tensor, train: bool) -> Tensor {
        let p = &self.parameters;
        x.linear(p.get(first), Some(p.get(first + 1)))
            .gelu("none")
            .linear(p.get(first + 2), Some(p.get(first + 3)))
            .dropout(self.shape.dropout, train)
    }

    fn normalize(&self, first: usize, x: &Tensor) -> Tensor {
        let (gain, bias) = (self.parameters.get(first), self.parameters.get(first + 1));
        x.layer_norm([self.shape.dimension], Some(gain), Some(bias), NORM_EPSILON, false)
    }
}
