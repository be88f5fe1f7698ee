//! Cross-peer losses: how T peers learn from one another, row by row, with gradients in closed form.
//!
//! Pure Rust on slices of `f32`, between the matrix products of the prediction layer and those of its gradients. All
//! peers' logits for a chunk of rows come in, and d(Σ of the peers' losses) / d(logits) is written in their place;
//! nothing larger than a few rows of the catalogue is allocated. In the order to read:
//!
//! 1. `spec`: [`LossSpec`], which loss.
//! 2. `truncation`: [`truncated_rows`], which rows every peer takes for noise. Needs all cross-entropies first.
//! 3. `chunk`: [`LossKernel`], the entries: gradients with all logits at hand, with other peers' probabilities only,
//!    cross-entropies, softmax; instruction sets and threads.
//! 4. `sums`: [`LossSums`], what is added up on the way.
//! 5. `range`, `row`, `softmax`, `teachers`, `exclusivity`, `mutual`: some rows, one row.
//!
//! Vectors and elementary functions on them are in [`crate::simd`].
//!
//! Invariants: other peers are constants to a peer. Results depend on the rows, the order of the peers and the instruction
//! set, never on the number of threads or on how rows are cut into chunks. Cost is O(T V) a row. A number that is
//! not finite among the logits shows in losses and gradients as such; it is never hidden.

mod chunk;
mod exclusivity;
mod mutual;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod properties;
mod range;
mod row;
mod softmax;
mod spec;
mod sums;
mod teachers;
mod truncation;

pub use crate::simd::lanes::SimdLevel;
pub use chunk::{ChunkRows, LossError, LossKernel};
pub use spec::{Exclusivity, LossSpec, Teacher};
pub use sums::{LossSums, PeerLosses, RowLosses};
pub use teachers::minimum_groups;
pub use truncation::{RankBase, RankOver, RankRule, Truncation, count_hardest, truncated_rows};
