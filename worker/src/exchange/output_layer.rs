//! The products with the item table on both sides of the loss, for a chunk of rows at a time.

use super::floats;
use crate::model::Shared;
use tch::{Device, Kind, Tensor};

/// Bytes of logits worked on at once where the configuration leaves the choice: about what a core's second-level cache
/// holds.
const CHUNK_BYTES: usize = 2 << 20;

/// Fewest rows of a chunk: smaller products waste the processor's registers.
const MIN_CHUNK_ROWS: usize = 8;

/// Output weights and bias with their growing gradients, and the one buffer of logits.
pub struct OutputLayer {
    weights: Tensor,
    transposed: Tensor,
    bias: Tensor,
    /// Of weights and bias, from the first chunk on.
    gradients: Option<[Tensor; 2]>,
    buffer: Tensor,
    chunk_rows: usize,
    peers: usize,
}

impl OutputLayer {
    pub fn new(shared: &Shared, chunk_rows: usize, peers: usize) -> Self {
        let weights = shared.output_weights();
        let bias = shared.output_bias();
        let catalogue = shared.items() as usize;
        let automatic = (CHUNK_BYTES / (4 * catalogue * peers)).max(MIN_CHUNK_ROWS);
        let chunk_rows = if chunk_rows == 0 { automatic } else { chunk_rows };
        Self {
            transposed: weights.transpose(0, 1),
            gradients: None,
            buffer: Tensor::zeros([0], (Kind::Float, weights.device())),
            weights,
            bias,
            chunk_rows,
            peers,
        }
    }

    /// Rows of the batch worked on at once. With T peers the buffer holds T times as many rows of logits.
    pub fn chunk_rows(&self) -> usize {
        self.chunk_rows
    }

    /// V.
    pub fn catalogue(&self) -> usize {
        self.bias.numel()
    }

    /// Logits `[n, V]` of transformed rows `[n, d]`, in the one buffer: they last until the next call.
    pub fn logits(&mut self, transformed: &Tensor) -> Tensor {
        let (n, v) = (transformed.size()[0], self.catalogue() as i64);
        if (self.buffer.numel() as i64) < n * v {
            let room = n.max((self.chunk_rows * self.peers) as i64);
            self.buffer = Tensor::empty([room * v], (Kind::Float, self.bias.device()));
        }
        let out = self.buffer.narrow(0, 0, n * v).view([n, v]);
        self.bias.addmm_out(&out, transformed, &self.transposed)
    }

    /// Takes the gradient of logits `[n, V]` back to the transformed rows `[n, d]`, and adds to the weights' own.
    pub fn backward(&mut self, transformed: &Tensor, gradient: &Tensor) -> Tensor {
        let (weights, bias) = (&self.weights, &self.bias);
        let [weights_gradient, bias_gradient] =
            self.gradients.get_or_insert_with(|| [weights.zeros_like(), bias.zeros_like()]);
        let _ = weights_gradient.addmm_(&gradient.transpose(0, 1), transformed);
        let _ = bias_gradient.g_add_(&gradient.sum_dim_intlist(0i64, false, Kind::Float));
        gradient.matmul(weights)
    }

    /// The gradients of weights `[V, d]` and bias `[V]`; `None` where there were no rows.
    pub fn gradients(&self) -> Option<&[Tensor; 2]> {
        self.gradients.as_ref()
    }
}

/// Runs the prediction layer's transform with a graph: hidden rows and their transforms.
pub struct Transformed {
    hidden: Tensor,
    /// `[..., d]`, without a graph.
    pub rows: Tensor,
    with_graph: Tensor,
}

impl Transformed {
    /// Transforms hidden rows `[..., d]`.
    pub fn of(shared: &Shared, hidden: &Tensor) -> Self {
        let hidden = hidden.set_requires_grad(true);
        let with_graph = shared.transform(&hidden);
        Self { rows: with_graph.detach(), hidden, with_graph }
    }

    /// From the gradient of the transforms to that of the hidden rows; the transform's own parameters collect theirs in
    /// their views.
    pub fn backward(self, gradient: &Tensor) -> Tensor {
        (self.with_graph * gradient).sum(Kind::Float).backward();
        self.hidden.grad()
    }
}

/// A chunk of logits as a slice for the loss, on which `work` writes their gradients; those of a GPU come to main memory
/// and go back.
pub fn on_slice<T>(logits: &mut Tensor, work: impl FnOnce(&mut [f32]) -> T) -> T {
    if logits.device() == Device::Cpu {
        return work(floats::slice_mut(logits));
    }
    let mut copy = logits.to_device(Device::Cpu);
    let result = work(floats::slice_mut(&mut copy));
    logits.copy_(&copy);
    result
}
