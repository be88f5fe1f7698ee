//! The networks of a worker: one copy of the shared parameters, the encoders of the peers that it hosts.

use super::{Encoder, Shared};
use crate::data::{Batch, Bucket};
use crate::random::{Purpose, seed_of};
use medley_common::config::{NetworkConfig, RunConfig};
use tch::{Device, Tensor};

/// The networks of a worker.
#[derive(Debug)]
pub struct Network {
    /// What all peers of the cohort share.
    pub shared: Shared,
    /// The peers hosted here, ascending.
    pub peers: Vec<u32>,
    /// Their encoders, in the same order.
    pub encoders: Vec<Encoder>,
    shape: NetworkConfig,
    seed: u64,
    device: Device,
}

impl Network {
    /// Draws the shared parameters and the hosted peers' encoders; the same values wherever a peer is hosted.
    pub fn draw(config: &RunConfig, items: usize, peers: &[u32], device: Device) -> Self {
        let shape = config.network.clone();
        let shared = Shared::draw(&shape, items, config.samples.max_length, config.seed, device);
        let encoders = peers.iter().map(|peer| Encoder::draw(&shape, config.seed, *peer, device)).collect();
        Self { shared, peers: peers.to_vec(), encoders, shape, seed: config.seed, device }
    }

    /// Where the tensors live.
    pub fn device(&self) -> Device {
        self.device
    }

    /// Hidden rows of every hosted peer, each `[R, d]`, with the graph back to the parameters.
    ///
    /// Dropout is keyed by seed and step for the embedding, whose mask all peers share (as in HAIL's released code), and
    /// by the peer too inside an encoder: not by the process, so that placement does not change a run.
    pub fn train_forward(&self, batch: &Batch, step: u64) -> Vec<Tensor> {
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

/// Seeds libtorch's default generator, whose Mersenne Twister takes the lower 32 bits on a CPU.
fn set_seed(seed: u64) {
    tch::manual_seed(seed as i64);
}
