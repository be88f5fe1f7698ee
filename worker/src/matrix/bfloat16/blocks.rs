//! A product in blocks that the caches hold.

use super::super::{Matrix, MatrixMut, Write};
use super::{kernel, pack};
use std::cell::RefCell;

/// Pairs of a vector, and columns of one.
pub const WIDTH: usize = 16;

/// A vector of pairs, or of one pair's columns; on a cache line of its own, so that no load crosses two.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct Line(pub [u32; WIDTH]);

/// Columns of a panel: as many as four vectors hold.
const PANEL: usize = 4 * WIDTH;

/// Most pairs of a block along the inner dimension: a panel of so many is 64 KiB.
pub const DEPTH: usize = 256;

/// Pairs of a block of the left factor: 512 KiB.
pub const BLOCK: usize = 1 << 17;

/// A thread's packed block and panel.
#[derive(Default)]
struct Buffers {
    left: Vec<Line>,
    right: Vec<Line>,
}

thread_local! {
    static BUFFERS: RefCell<Buffers> = RefCell::default();
}

/// The product of matrices whose shapes agree.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub fn product(into: &mut MatrixMut<'_>, write: Write, left: Matrix<'_>, right: Matrix<'_>) {
    // Taken and given back, as a closure's body need not be compiled for these instructions.
    let mut buffers = BUFFERS.take();
    in_blocks(&mut buffers, into, write, left, right);
    BUFFERS.set(buffers);
}

#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn in_blocks(buffers: &mut Buffers, into: &mut MatrixMut<'_>, write: Write, left: Matrix<'_>, right: Matrix<'_>) {
    let (rows, inner, columns) = (into.layout.rows, left.layout.columns, into.layout.columns);
    // Blocks of about equal depth; one of depth 0 where there is nothing to add up, as zeros must be written all the
    // same.
    let pairs = inner.div_ceil(2);
    let count = pairs.div_ceil(DEPTH).max(1);
    let depth = 2 * pairs.div_ceil(count).next_multiple_of(WIDTH).max(WIDTH);
    let block_rows = BLOCK / (depth / 2);
    for number in 0..count {
        let inside = depth * number..inner.min(depth * (number + 1));
        let write = if number == 0 { write } else { Write::Add };
        for start in (0..rows).step_by(block_rows) {
            let of_rows = start..rows.min(start + block_rows);
            let block = pack::left(left.part(of_rows.clone(), inside.clone()), &mut buffers.left);
            for column in (0..columns).step_by(PANEL) {
                let of_columns = column..columns.min(column + PANEL);
                let panel = pack::right(right.part(inside.clone(), of_columns.clone()), &mut buffers.right);
                let part = &mut into.part(of_rows.clone(), of_columns.clone());
                // As many rows as registers hold, which are 32: sums, a panel's line, a pair.
                match of_columns.len().div_ceil(WIDTH) {
                    1 => kernel::tiles::<12, 1>(part, write, block, panel),
                    2 => kernel::tiles::<12, 2>(part, write, block, panel),
                    3 => kernel::tiles::<8, 3>(part, write, block, panel),
                    _ => kernel::tiles::<6, 4>(part, write, block, panel),
                }
            }
        }
    }
}
