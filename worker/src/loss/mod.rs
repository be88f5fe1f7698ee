//! The losses by which peers learn from one another, row by row, with their gradients in closed form.
//!
//! A row is one masked position; what meets here are the logits of all peers on a few rows. Each row is worked on by
//! itself, so nothing larger than a few rows of logits ever exists. Read in this order: [`spec`] (which losses there
//! are), [`truncation`] (which rows count as noise), [`row`] (the mathematics of one row), [`elementary`]
//! (exponentials and logarithms that vectorise), [`chunk`] (many rows, on all threads, for the best instruction set at
//! hand).
//!
//! Gradients are those of the sum of all peers' losses; what a peer hears from the others is a constant
//! (HAIL eqs 5-12, PeerRec eqs 5-10).

mod chunk;
mod elementary;
mod row;
mod spec;
mod sums;
mod truncation;

pub use chunk::{
    Chunk, Level, cross_entropies, levels, losses_and_gradients, losses_and_gradients_at, own_losses_and_gradients,
    own_losses_and_gradients_at, softmax_rows,
};
pub use spec::{LossSpec, Teacher};
pub use sums::{LossSums, PeerSums};
pub use truncation::{RankBase, RankOver, Truncation, truncated_rows};
