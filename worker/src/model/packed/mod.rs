//! The networks of a worker on the processor: forward and backward without a graph, in blocks that stay in a core's cache.
//!
//! What the libtorch path of [`super::Encoder`] computes with an operation over the whole batch at a time, each through main
//! memory, is done here block by block: the products of a few sequences, and one pass over the rows between two products.
//! Padding is never computed; the last layer computes the positions to predict alone; dropout costs a hash in
//! passing. The two agree to float tolerance where dropout is off (`tests.rs`).
//!
//! 1. [`blocks`]: [`Packed`], a batch without padding, cut into blocks.
//! 2. This file: [`Engine`], all hosted peers over all blocks, on all threads.
//! 3. [`embedding`], [`encoder`], [`layer`] with its [`sublayers`], [`attention`] and [`norm`]: one block.
//! 4. [`passes`]: what happens between products.
//!
//! Work is dealt out by block and by peer, so that T hosted peers keep as many cores busy as one does, and share the
//! embedding and the batch. Sums over blocks run in a fixed order: a run repeats to the bit on as many threads.

mod attention;
mod blocks;
mod embedding;
mod encoder;
mod layer;
mod norm;
mod parameters;
pub(crate) mod passes;
mod sublayers;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

pub use blocks::Packed;
pub use embedding::Parts as EmbeddingParts;

use crate::random::{Purpose, seed_of};
use crate::simd::keep::Keep;
use attention::sized;
use embedding::Embedded;
use encoder::{BlockTape, Encoder, Scratch};
use medley_common::config::{NetworkConfig, Precision};
use passes::{Add, run};
use rayon::prelude::*;
use std::cell::RefCell;

/// Added to the variance in every layer normalisation.
const EPSILON: f32 = super::NORM_EPSILON as f32;

/// Runs of blocks a thread: more than one, so that a thread which others hold up does not hold up all.
const LANES_PER_THREAD: usize = 2;

/// Values of a vector that a thread sums at a time.
const SUMMED_AT_ONCE: usize = 16 * 1024;

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
    /// `[peers, N, d]`.
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
        let gradients = self.through_encoders(networks, hidden_gradients);
        let (packed, d) = (&self.packed, networks.width());
        let lanes = packed.lanes(LANES_PER_THREAD * rayon::current_num_threads());
        let (total, others) = self.embedded_gradient.split_at_mut(packed.tokens.len() * d);
        let tasks: Vec<_> = lanes.iter().cloned().zip(packed.split(&lanes, total, d)).collect();
        let (all, keep) = (&self.embedded, networks.embedding_keep());
        let sums: Vec<[Vec<f32>; 2]> = tasks
            .into_par_iter()
            .map(|(lane, gradient)| {
                let mut sums = [vec![0.0; d], vec![0.0; d]];
                let first = packed.blocks[lane.start].tokens.start;
                for number in lane {
                    let (block, [gain, bias]) = (&packed.blocks[number], &mut sums);
                    let gradient = &mut gradient[(block.tokens.start - first) * d..(block.tokens.end - first) * d];
                    for other in others.chunks_exact(packed.tokens.len() * d) {
                        run(Add { into: gradient, addend: &other[block.tokens.start * d..block.tokens.end * d] });
                    }
                    embedding.backward(block, keep, &all[number], gradient, gain, bias);
                }
                sums
            })
            .collect();
        let EmbeddingParts { items, positions, gain, bias } = embedding_gradients;
        embedding::scatter(&packed.tokens, &packed.blocks, total, items, positions, d);
        for [lane_gain, lane_bias] in &sums {
            run(Add { into: gain, addend: lane_gain });
            run(Add { into: bias, addend: lane_bias });
        }
        gradients
    }

    /// Each hosted encoder's gradient, flat; leaves those of the embedded tokens in `embedded_gradient`, `[peers, N, d]`.
    ///
    /// Every thread has some runs of blocks of some peers to do, each with sums of its own: the more peers, the fewer runs
    /// each is cut into, so that memory grows with threads or peers, not with both.
    fn through_encoders(&mut self, networks: Networks<'_>, hidden_gradients: &[&[f32]]) -> Vec<Vec<f32>> {
        let (packed, d, peers) = (&self.packed, networks.width(), networks.peers.len());
        let encoders: Vec<Encoder<'_>> = (0..peers).map(|place| networks.encoder(place)).collect();
        let lanes = packed.lanes((LANES_PER_THREAD * rayon::current_num_threads()).div_ceil(peers));
        let size = packed.tokens.len() * d;
        if size == 0 {
            return networks.peers.iter().map(|(_, parameters)| vec![0.0; parameters.len()]).collect();
        }
        sized(&mut self.embedded_gradient, peers * size);
        self.embedded_gradient.truncate(peers * size);
        let mut tasks = Vec::with_capacity(peers * lanes.len());
        for (place, into) in self.embedded_gradient.chunks_exact_mut(size).enumerate() {
            tasks.extend(
                lanes.iter().cloned().zip(packed.split(&lanes, into, d)).map(|(lane, into)| (place, lane, into)),
            );
        }
        let (tapes, embedded) = (&self.tapes, &self.embedded);
        let sums: Vec<Vec<f32>> = tasks
            .into_par_iter()
            .map(|(place, lane, into)| {
                let mut sums = vec![0.0; networks.peers[place].1.len()];
                let first = packed.blocks[lane.start].tokens.start;
                for number in lane {
                    let (block, embedded) = (&packed.blocks[number], &embedded[number].values);
                    let hidden = &hidden_gradients[place][block.rows.start * d..block.rows.end * d];
                    let into = &mut into[(block.tokens.start - first) * d..(block.tokens.end - first) * d];
                    let (encoder, tape) = (&encoders[place], &tapes[place][number]);
                    SCRATCH.with_borrow_mut(|scratch| {
                        encoder.backward(embedded, block, tape, hidden, &mut sums, into, scratch);
                    });
                }
                sums
            })
            .collect();
        let mut sums = sums.into_iter();
        (0..peers).map(|_| sum_in_order(sums.by_ref().take(lanes.len()).collect())).collect()
    }
}

/// The sum of vectors of one length, added up in their order; the work is shared out by ranges of them.
pub(crate) fn sum_in_order(vectors: Vec<Vec<f32>>) -> Vec<f32> {
    let mut vectors = vectors.into_iter();
    let mut total = vectors.next().unwrap_or_default();
    let rest: Vec<Vec<f32>> = vectors.collect();
    total.par_chunks_mut(SUMMED_AT_ONCE).enumerate().for_each(|(number, into)| {
        let range = number * SUMMED_AT_ONCE..number * SUMMED_AT_ONCE + into.len();
        rest.iter().for_each(|vector| run(Add { into, addend: &vector[range.clone()] }));
    });
    total
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
