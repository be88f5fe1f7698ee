//! What a kernel is given for one row, and the memory it works in.

use super::softmax::{SoftmaxRow, arg_max};
use super::sums::PeerLosses;
use crate::simd::lanes::Lanes;

/// Where the other peers' distributions come from.
pub(super) enum Others<'a> {
    /// From `own`, which holds every peer.
    Logits,
    /// From everybody's probabilities, `[peers]` rows of `[catalogue]`.
    Probabilities(Vec<&'a [f32]>),
}

/// One row of the batch.
pub(super) struct Row<'r, 'a> {
    /// T.
    pub peers: usize,
    /// Which peers `own` holds.
    pub own_peers: &'a [usize],
    /// The logits of each own peer, `[catalogue]`; in the end their gradients.
    pub own: &'r mut [&'a mut [f32]],
    pub others: Others<'a>,
    /// The positive class.
    pub target: usize,
    pub truncated: bool,
    /// The row's weight over the number of rows.
    pub scale: f64,
}

impl Row<'_, '_> {
    /// Whether some peers but not all put the target first. Asks `scratch` for the softmax of the own peers.
    #[inline(always)]
    pub(super) fn implicitly_hard<L: Lanes>(&self, scratch: &Scratch) -> bool {
        let mut right = 0;
        match &self.others {
            Others::Logits => {
                right = scratch.softmax.iter().filter(|softmax| softmax.largest == self.target).count();
            }
            Others::Probabilities(everyone) => {
                for row in everyone {
                    right += usize::from(arg_max::<L>(row) == self.target);
                }
            }
        }
        right > 0 && right < self.peers
    }
}

/// Working memory for rows, one after another: a few rows of the catalogue's length, and one a peer where the
/// loss needs every peer's row twice.
pub(super) struct Scratch {
    /// Σ over teachers of their weights, or S of mutual learning.
    pub sum: Vec<f32>,
    /// The weights of the second teacher, or G of mutual learning.
    pub second_sum: Vec<f32>,
    /// r of every class.
    pub terms: Vec<f32>,
    /// p^γ of every peer, or p of every own peer in mutual learning; empty where not needed.
    pub rows: Vec<Vec<f32>>,
    /// Of each own peer.
    pub softmax: Vec<SoftmaxRow>,
    /// w_M, summed over the teachers, of each own peer.
    pub largest_weight: Vec<f64>,
    /// What each own peer's loss came to.
    pub losses: Vec<PeerLosses>,
    /// Of every peer: larger where the target is less likely.
    pub difficulty: Vec<f64>,
    /// (1 - p_*)^γ of every peer.
    pub unlikelihood: Vec<f64>,
}

impl Scratch {
    /// For `own` of `peers`, over a catalogue, with `rows` rows for the peers and, if `shared`, those of the teachers.
    pub(super) fn new(own: usize, peers: usize, catalogue: usize, shared: bool, rows: usize) -> Self {
        let shared = if shared { catalogue } else { 0 };
        Self {
            sum: vec![0.0; shared],
            second_sum: vec![0.0; shared],
            terms: vec![0.0; shared],
            rows: vec![vec![0.0; catalogue]; rows],
            softmax: vec![SoftmaxRow::default(); own],
            largest_weight: vec![0.0; own],
            losses: vec![PeerLosses::default(); own],
            difficulty: vec![0.0; peers],
            unlikelihood: vec![0.0; peers],
        }
    }
}
