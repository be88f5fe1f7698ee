//! Products whose factors are rounded to bfloat16: a float32 with 8 bits of significand in the place of 24, so that an
//! instruction multiplies two of them where it multiplies one float32.
//!
//! Factors are rounded to nearest even while they are packed; what is not a number stays so, and what is larger than any
//! bfloat16 becomes infinite. Products of two are exact in float32, in which sums are taken. Subnormal numbers count as zero,
//! as the instruction has it.
//!
//! The instruction is VDPBF16PS of AVX-512 BF16: to each of 16 sums it adds the product of two pairs. So both factors are packed
//! as pairs of neighbours along the inner dimension, a pair in 32 bits:
//!
//! 1. [`pack`]: the left factor, of which a pair is multiplied with a vector, row by row or pair by pair, whichever way it lies;
//!    the right one in panels of 64 columns, each pair's columns side by side.
//! 2. [`kernel`]: tiles of the product, up to 24 vectors of sums at a time, which stay in registers.
//!
//! This file cuts a product into blocks: of the left factor what half a second-level cache holds, of the right one a panel.
//! Processors with AMX have AVX-512 BF16 too and take this path; AMX's tiles themselves are not used.

#[cfg(target_arch = "x86_64")]
mod kernel;
#[cfg(target_arch = "x86_64")]
mod pack;
#[cfg(test)]
mod tests;

use super::{Matrix, MatrixMut, Write};

/// Whether this processor multiplies bfloat16.
#[cfg(target_arch = "x86_64")]
pub fn is_supported() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512bf16")
}

/// Whether this processor multiplies bfloat16: no other than x86 has a kernel.
#[cfg(not(target_arch = "x86_64"))]
pub fn is_supported() -> bool {
    false
}

/// The product of matrices whose shapes agree.
///
/// # Panics
/// If this processor does not multiply bfloat16.
#[cfg(target_arch = "x86_64")]
pub fn product(into: &mut MatrixMut<'_>, write: Write, left: Matrix<'_>, right: Matrix<'_>) {
    assert!(is_supported(), "{UNSUPPORTED}");
    BUFFERS.with_borrow_mut(|buffers| {
        // SAFETY: the assertion has found the instructions on this machine.
        unsafe { blocks(buffers, into, write, left, right) }
    });
}

/// There is no kernel for this architecture.
///
/// # Panics
/// Always.
#[cfg(not(target_arch = "x86_64"))]
pub fn product(_: &mut MatrixMut<'_>, _: Write, _: Matrix<'_>, _: Matrix<'_>) {
    panic!("{UNSUPPORTED}");
}

const UNSUPPORTED: &str = "bfloat16 is refused at the start where the processor lacks it";

/// Pairs of a vector, and columns of one.
#[cfg(target_arch = "x86_64")]
const WIDTH: usize = 16;

/// A vector of pairs, or of one pair's columns; on a cache line of its own, so that no load crosses two.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u32; WIDTH]);

/// Columns of a panel: as many as four vectors hold.
#[cfg(target_arch = "x86_64")]
const PANEL: usize = 4 * WIDTH;

/// Most pairs of a block along the inner dimension: a panel of so many is 64 KiB.
#[cfg(target_arch = "x86_64")]
const DEPTH: usize = 256;

/// Pairs of a block of the left factor: 512 KiB.
#[cfg(target_arch = "x86_64")]
const BLOCK: usize = 1 << 17;

/// A thread's packed block and panel.
#[cfg(target_arch = "x86_64")]
#[derive(Default)]
struct Buffers {
    left: Vec<Line>,
    right: Vec<Line>,
}

#[cfg(target_arch = "x86_64")]
thread_local! {
    static BUFFERS: std::cell::RefCell<Buffers> = std::cell::RefCell::default();
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn blocks(buffers: &mut Buffers, into: &mut MatrixMut<'_>, write: Write, left: Matrix<'_>, right: Matrix<'_>) {
    let (rows, inner, columns) = (into.layout.rows, left.layout.columns, into.layout.columns);
    // Blocks of about equal depth; one of depth 0 where there is nothing to add up, as zeros must be written all the same.
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
