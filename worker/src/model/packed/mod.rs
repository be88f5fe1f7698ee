//! The networks of a worker on the processor: forward and backward without a graph, in blocks that stay in a core's cache.
//!
//! What the libtorch path of [`super::Encoder`] computes with an operation over the whole batch at a time, each through main
//! memory, is done here block by block: the products of a few sequences, and one pass over the rows between two products.
//! Padding is never computed; the last layer computes the positions to predict alone; dropout costs a hash in
//! passing. The two agree to float tolerance where dropout is off (`tests.rs`).
//!
//! 1. [`blocks`]: [`Packed`], a batch without padding, cut into blocks.
//! 2. This file: [`Engine`], all hosted peers over all blocks, on all threads.
//! 3. [`embedding`], [`encoder`], [`layer`], [`attention`]: one block.
//! 4. [`passes`]: what happens between products.
//!
//! Work is dealt out by block and by peer, so that T hosted peers keep as many cores busy as one does, and share the
//! embedding and the batch. Sums over blocks run in a fixed order: a run repeats to the bit on as many threads.

mod attention;
mod blocks;
mod embedding;
mod encoder;
mod layer;
pub(crate) mod passes;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

pub use blocks::Packed;
pub use embedding::Parts as EmbeddingParts;

use crate::random::{Purpose, seed_of};
use crate::simd::keep::Keep;
use embedding::Embedded;
use encoder::{BlockTape, Encoder, Scratch};
use medley_common::config::{NetworkConfig, Precision};
use rayon::prelude::*;
use std::cell::RefCell;
use std::ops::Range;

/// Added to the variance in every layer normalisation.
const EPSILON: f32 = super::NORM_EPSILON as f32;

/// Runs of blocks a thread: more than one, so that a thread which others hold up does not hold up all.
const LANES_PER_THREAD: usize = 2;

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Forward and backward passes of all hosted peers, with buffers that live from step to step.
#[derive(Default)]
pub struct Engine {
    packed: Packed,
    embedded: Vec<Embedded>,
    /// `[peers][blocks]`.
    tapes: Vec<Vec<BlockTape>>,
    embedded_gradient: Vec<f32>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("blocks", &self.packed.blocks.len()).finish_non_exhaustive()
    }
}

/// What the passes read: parameters of all hosted peers, and what names their dropout.
#[derive(Clone, Copy)]
pub struct Networks<'a> {
    /// Layers, widths and dropout.
    pub shape: &'a NetworkConfig,
    /// Of each hosted peer: its number and its encoder's parameters, flat.
    pub peers: &'a [(u32, &'a [f32])],
    /// The job's seed.
    pub seed: u64,
    /// The step.
    pub step: u64,
    /// Of the products.
    pub precision: Precision,
}

impl Networks<'_> {
    fn width(&self) -> usize {
        self.shape.dimension as usize
    }

    /// The same mask for all peers, as in HAIL's released code.
    fn embedding_keep(&self) -> Keep {
        Keep::new(self.shape.dropout, seed_of(Purpose::EmbeddingDropout, self.seed, 0, self.step))
    }

    fn encoder(&self, place: usize) -> Encoder<'_> {
        let (peer, parameters) = self.peers[place];
        let key = seed_of(Purpose::EncoderDropout, self.seed, u64::from(peer), self.step);
        Encoder::new(self.shape, parameters, Keep::new(self.shape.dropout, key), self.precision)
    }
}

impl Engine {
    /// Hidden rows of all hosted peers, each `[R, d]`, with dropout; the next [`Engine::backward`] goes back from these.
    pub fn forward(
        &mut self,
        networks: Networks<'_>,
        embedding: &EmbeddingParts<&[f32]>,
        packed: Packed,
    ) -> Vec<Vec<f32>> {
        self.packed = packed;
        let (packed, d) = (&self.packed, networks.width());
        self.embedded.resize_with(packed.blocks.len().max(self.embedded.len()), Embedded::default);
        let keep = networks.embedding_keep();
        packed.blocks.par_iter().zip(&mut self.embedded).for_each(|(block, into)| {
            embedding.forward(&packed.tokens[block.tokens.clone()], block, keep, into);
        });

        let encoders: Vec<Encoder<'_>> = (0..networks.peers.len()).map(|place| networks.encoder(place)).collect();
        self.tapes.resize_with(encoders.len(), Vec::new);
        let mut hidden = vec![vec![0.0; packed.rows * d]; encoders.len()];
        let mut tasks = Vec::with_capacity(encoders.len() * packed.blocks.len());
        for ((encoder, tapes), hidden) in encoders.iter().zip(&mut self.tapes).zip(&mut hidden) {
            tapes.resize_with(packed.blocks.len().max(tapes.len()), BlockTape::default);
            let mut rest = &mut hidden[..];
            for ((block, tape), embedded) in packed.blocks.iter().zip(tapes).zip(&self.embedded) {
                let (rows, after) = std::mem::take(&mut rest).split_at_mut(block.rows.len() * d);
                rest = after;
                tasks.push((encoder, block, tape, embedded, rows));
            }
        }
        tasks.par_iter_mut().for_each(|(encoder, block, tape, embedded, rows)| {
            SCRATCH.with_borrow_mut(|scratch| encoder.forward(&embedded.values, block, rows, tape, scratch));
        });
        hidden
    }

    /// From the gradients of the last [`Engine::forward`]'s hidden rows, each `[R, d]`, to those of the parameters: returns
    /// each hosted encoder's, flat, and adds the embedding's to `embedding_gradients`.
    pub fn backward(
        &mut self,
        networks: Networks<'_>,
        embedding: &EmbeddingParts<&[f32]>,
        hidden_gradients: &[&[f32]],
        embedding_gradients: EmbeddingParts<&mut [f32]>,
    ) -> Vec<Vec<f32>> {
        let (packed, d) = (&self.packed, networks.width());
        let encoders: Vec<Encoder<'_>> = (0..networks.peers.len()).map(|place| networks.encoder(place)).collect();
        let lanes = packed.lanes(LANES_PER_THREAD * rayon::current_num_threads());
        self.embedded_gradient.clear();
        self.embedded_gradient.resize(packed.tokens.len() * d, 0.0);
        let mut rest = &mut self.embedded_gradient[..];
        let tasks: Vec<(Range<usize>, &mut [f32])> = lanes
            .into_iter()
            .map(|lane| {
                let tokens: usize = packed.blocks[lane.clone()].iter().map(|block| block.tokens.len()).sum();
                let (mine, after) = std::mem::take(&mut rest).split_at_mut(tokens * d);
                rest = after;
                (lane, mine)
            })
            .collect();
        let (tapes, embedded, keep) = (&self.tapes, &self.embedded, networks.embedding_keep());
        let sums: Vec<LaneSums> = tasks
            .into_par_iter()
            .map(|(lane, embedded_gradient)| {
                let mut sums = LaneSums::new(networks.peers, d);
                let first = packed.blocks[lane.start].tokens.start;
                for (place, encoder) in encoders.iter().enumerate() {
                    for number in lane.clone() {
                        let (block, embedded) = (&packed.blocks[number], &embedded[number]);
                        let hidden = &hidden_gradients[place][block.rows.start * d..block.rows.end * d];
                        let into =
                            &mut embedded_gradient[(block.tokens.start - first) * d..(block.tokens.end - first) * d];
                        let (tape, sums) = (&tapes[place][number], &mut sums.peers[place]);
                        SCRATCH.with_borrow_mut(|scratch| {
                            encoder.backward(&embedded.values, block, tape, hidden, sums, into, scratch);
                        });
                    }
                }
                for number in lane {
                    let (block, embedded) = (&packed.blocks[number], &embedded[number]);
                    let gradient =
                        &mut embedded_gradient[(block.tokens.start - first) * d..(block.tokens.end - first) * d];
                    embedding.backward(block, keep, embedded, gradient, &mut sums.gain, &mut sums.bias);
                }
                sums
            })
            .collect();
        let sums = LaneSums::total(sums, networks.peers, d);
        let EmbeddingParts { items, positions, gain, bias } = embedding_gradients;
        embedding::scatter(&packed.tokens, &packed.blocks, &self.embedded_gradient, items, positions, d);
        passes::run(passes::Add { into: gain, addend: &sums.gain });
        passes::run(passes::Add { into: bias, addend: &sums.bias });
        sums.peers
    }
}

/// Hidden rows of one encoder, `[R, d]`, without dropout and without a way back; in float32 whatever training computes
/// in, so that metrics are of the parameters alone.
pub fn evaluate(
    shape: &NetworkConfig,
    parameters: &[f32],
    embedding: &EmbeddingParts<&[f32]>,
    packed: &Packed,
) -> Vec<f32> {
    let d = shape.dimension as usize;
    let encoder = Encoder::new(shape, parameters, Keep::new(0.0, 0), Precision::Float32);
    let mut hidden = vec![0.0; packed.rows * d];
    let mut rest = &mut hidden[..];
    let mut tasks = Vec::with_capacity(packed.blocks.len());
    for block in &packed.blocks {
        let (rows, after) = std::mem::take(&mut rest).split_at_mut(block.rows.len() * d);
        rest = after;
        tasks.push((block, rows));
    }
    tasks.into_par_iter().for_each_init(
        || (Embedded::default(), BlockTape::default()),
        |(embedded, tape), (block, rows)| {
            embedding.forward(&packed.tokens[block.tokens.clone()], block, Keep::new(0.0, 0), embedded);
            SCRATCH.with_borrow_mut(|scratch| encoder.forward(&embedded.values, block, rows, tape, scratch));
        },
    );
    hidden
}

/// What a lane adds up.
struct LaneSums {
    peers: Vec<Vec<f32>>,
    gain: Vec<f32>,
    bias: Vec<f32>,
}

impl LaneSums {
    fn new(peers: &[(u32, &[f32])], d: usize) -> Self {
        let peers = peers.iter().map(|(_, parameters)| vec![0.0; parameters.len()]).collect();
        Self { peers, gain: vec![0.0; d], bias: vec![0.0; d] }
    }

    /// Lane after lane.
    fn total(lanes: Vec<Self>, peers: &[(u32, &[f32])], d: usize) -> Self {
        let mut lanes = lanes.into_iter();
        let mut total = lanes.next().unwrap_or_else(|| Self::new(peers, d));
        for lane in lanes {
            let parts = total.peers.iter_mut().chain([&mut total.gain, &mut total.bias]);
            for (into, addend) in parts.zip(lane.peers.iter().chain([&lane.gain, &lane.bias])) {
                passes::run(passes::Add { into, addend });
            }
        }
        total
    }
}
