//! The networks of a worker: one copy of the shared parameters, the encoders of the peers that it hosts.

use super::packed::{self, Engine, Networks, Packed};
use super::{Encoder, Shared};
use crate::data::{Batch, Bucket};
use crate::exchange::floats;
use crate::random::{Purpose, seed_of};
use medley_common::config::{NetworkConfig, Precision, RunConfig};
use tch::{Device, Kind, Tensor};

/// The networks of a worker.
#[derive(Debug)]
pub struct Network {
    /// What all peers of the cohort share.
    pub shared: Shared,
    /// The ids of the peers hosted here, in the order of the placement.
    pub peers: Vec<u32>,
    /// Their encoders, in the same order.
    pub encoders: Vec<Encoder>,
    shape: NetworkConfig,
    seed: u64,
    precision: Precision,
    device: Device,
    pass: Pass,
}

/// How networks are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Computation {
    /// On the processor, without padding, in blocks that its caches hold.
    Packed,
    /// By libtorch's operations and its automatic differentiation, in buckets of similar length: on GPUs, and as what the other
    /// is tested against.
    Graph,
}

impl Computation {
    /// What suits a device.
    pub fn of(device: Device) -> Self {
        if device == Device::Cpu { Self::Packed } else { Self::Graph }
    }
}

/// What the last forward pass left for the way back.
#[derive(Debug)]
enum Pass {
    Packed { engine: Box<Engine>, step: u64 },
    Graph { hidden: Vec<Tensor> },
}

impl Network {
    /// Draws the shared parameters and the hosted peers' encoders; the same values wherever a peer is hosted.
    pub fn draw(config: &RunConfig, items: usize, peers: &[u32], device: Device) -> Self {
        Self::draw_for(Computation::of(device), config, items, peers, device)
    }

    /// The same, computed in a given way.
    pub fn draw_for(computation: Computation, config: &RunConfig, items: usize, peers: &[u32], device: Device) -> Self {
        let shape = config.network.clone();
        let shared = Shared::draw(&shape, items, config.samples.max_length, config.seed, device);
        let encoders = peers.iter().map(|peer| Encoder::draw(&shape, config.seed, *peer, device)).collect();
        Self::assemble(computation, config, shared, peers.to_vec(), encoders, device)
    }

    /// Networks of parameters that are there already, on their device.
    pub fn of(config: &RunConfig, shared: Shared, peers: Vec<u32>, encoders: Vec<Encoder>) -> Self {
        let device = shared.parameters.values().device();
        Self::assemble(Computation::of(device), config, shared, peers, encoders, device)
    }

    fn assemble(
        computation: Computation,
        config: &RunConfig,
        shared: Shared,
        peers: Vec<u32>,
        encoders: Vec<Encoder>,
        device: Device,
    ) -> Self {
        let pass = match computation {
            Computation::Packed => Pass::Packed { engine: Box::default(), step: 0 },
            Computation::Graph => Pass::Graph { hidden: Vec::new() },
        };
        let (shape, seed, precision) = (config.network.clone(), config.seed, config.train.precision);
        Self { shared, peers, encoders, shape, seed, precision, device, pass }
    }

    /// Where the tensors live.
    pub fn device(&self) -> Device {
        self.device
    }

    /// Hidden rows of every hosted peer, each `[R, d]`, free of a graph. [`Network::backward`] goes back from these.
    ///
    /// Dropout is keyed by seed and step for the embedding, whose mask all peers share (as in HAIL's released code), and
    /// by the peer too inside an encoder: not by the process, so that placement does not change a run.
    pub fn train_forward(&mut self, batch: &Batch, step: u64) -> Vec<Tensor> {
        let precision = self.precision;
        let hidden = match &mut self.pass {
            Pass::Packed { engine, step: last } => {
                *last = step;
                let peers = parameters(&self.peers, &self.encoders);
                let networks = Networks { shape: &self.shape, peers: &peers, seed: self.seed, step, precision };
                let hidden = engine.forward(networks, &self.shared.embedding(), Packed::new(batch, &self.shape));
                let shape = [-1, self.shape.dimension];
                return hidden.iter().map(|rows| Tensor::from_slice(rows).view(shape)).collect();
            }
            Pass::Graph { .. } => self.graph_forward(batch, step),
        };
        let free = hidden.iter().map(Tensor::detach).collect();
        self.pass = Pass::Graph { hidden };
        free
    }

    /// From the gradients of the last forward pass's hidden rows, each `[R, d]`, to the flat ones of every hosted encoder.
    /// Those of the shared parameters, as far as the networks' input reaches them, are added to `shared`, `[|θ|]`.
    pub fn backward(&mut self, gradients: &[Tensor], shared: &mut Tensor) -> Vec<Tensor> {
        let precision = self.precision;
        match &mut self.pass {
            Pass::Packed { engine, step } => {
                let peers = parameters(&self.peers, &self.encoders);
                let networks = Networks { shape: &self.shape, peers: &peers, seed: self.seed, step: *step, precision };
                let gradients: Vec<Tensor> = gradients.iter().map(Tensor::contiguous).collect();
                let slices: Vec<&[f32]> = gradients.iter().map(floats::slice).collect();
                let into = self.shared.embedding_of(floats::slice_mut(shared));
                let private = engine.backward(networks, &self.shared.embedding(), &slices, into);
                private.iter().map(|flat| Tensor::from_slice(flat)).collect()
            }
            Pass::Graph { hidden } => {
                // The gradient of Σ h · stopgrad(dh) is that of the loss.
                let product = |(h, dh): (&Tensor, &Tensor)| (h * dh).sum(Kind::Float);
                let products: Vec<Tensor> = hidden.iter().zip(gradients).map(product).collect();
                Tensor::stack(&products, 0).sum(Kind::Float).backward();
                hidden.clear();
                let _ = shared.g_add_(&self.shared.parameters.take_gradients());
                self.encoders.iter_mut().map(|encoder| encoder.parameters.take_gradients()).collect()
            }
        }
    }

    fn graph_forward(&self, batch: &Batch, step: u64) -> Vec<Tensor> {
        set_seed(seed_of(Purpose::EmbeddingDropout, self.seed, 0, step));
        let embedded: Vec<Tensor> = batch.buckets.iter().map(|bucket| self.embed(bucket, true)).collect();
        let rows: Vec<Tensor> = batch.buckets.iter().map(|bucket| self.row_index(bucket)).collect();
        let masks: Vec<Option<Tensor>> = batch.buckets.iter().map(|bucket| self.mask(bucket)).collect();
        self.peers
            .iter()
            .zip(&self.encoders)
            .map(|(peer, encoder)| {
                set_seed(seed_of(Purpose::EncoderDropout, self.seed, u64::from(*peer), step));
                let parts: Vec<Tensor> = embedded
                    .iter()
                    .zip(&rows)
                    .zip(&masks)
                    .map(|((x, rows), mask)| self.rows(&encoder.forward(x, mask.as_ref(), true), rows))
                    .collect();
                Tensor::cat(&parts, 0)
            })
            .collect()
    }

    /// Hidden rows of one hosted peer, `[R, d]`, without dropout or graph.
    pub fn evaluate_rows(&self, encoder: &Encoder, batch: &Batch) -> Tensor {
        if let Pass::Packed { .. } = self.pass {
            let packed = Packed::new(batch, &self.shape);
            let rows = packed::evaluate(&self.shape, encoder.parameters.slice(), &self.shared.embedding(), &packed);
            return Tensor::from_slice(&rows).view([-1, self.shape.dimension]);
        }
        let _guard = tch::no_grad_guard();
        let parts: Vec<Tensor> = batch
            .buckets
            .iter()
            .map(|bucket| {
                let x = self.embed(bucket, false);
                let encoded = encoder.forward(&x, self.mask(bucket).as_ref(), false);
                self.rows(&encoded, &self.row_index(bucket))
            })
            .collect();
        Tensor::cat(&parts, 0)
    }

    fn embed(&self, bucket: &Bucket, train: bool) -> Tensor {
        let shape = [bucket.sequences as i64, bucket.length as i64];
        let tokens = Tensor::from_slice(&bucket.tokens).view(shape).to_device(self.device);
        self.shared.embed(&tokens).dropout(self.shape.dropout, train)
    }

    fn mask(&self, bucket: &Bucket) -> Option<Tensor> {
        Encoder::mask(self.shape.kind, &bucket.lengths, bucket.length, self.device)
    }

    fn row_index(&self, bucket: &Bucket) -> Tensor {
        Tensor::from_slice(&bucket.row_positions).to_device(self.device)
    }

    fn rows(&self, encoded: &Tensor, index: &Tensor) -> Tensor {
        encoded.reshape([-1, self.shape.dimension]).index_select(0, index)
    }
}

/// Each hosted peer with its encoder's parameters.
fn parameters<'a>(peers: &[u32], encoders: &'a [Encoder]) -> Vec<(u32, &'a [f32])> {
    peers.iter().zip(encoders).map(|(peer, encoder)| (*peer, encoder.parameters.slice())).collect()
}

/// Seeds libtorch's default generator, whose Mersenne Twister takes the lower 32 bits on a CPU.
fn set_seed(seed: u64) {
    tch::manual_seed(seed as i64);
}
