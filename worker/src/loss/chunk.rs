//! Many rows at once: on all threads, for the best instruction set at hand.

use super::row::{self, RowInput, Scratch};
use super::spec::LossSpec;
use super::sums::{LossSums, PeerSums};
use rayon::prelude::*;
use std::sync::OnceLock;

/// A few rows of a batch.
#[derive(Debug, Clone)]
pub struct Chunk<'a> {
    /// The class that stands at each row, `[rows]`, each in `0..catalogue`.
    pub targets: &'a [i64],
    /// Rows taken for noise, `[rows]`.
    pub truncated: &'a [bool],
    /// What gradients are multiplied by: 1 over the rows of the whole batch.
    pub scale: f64,
    /// T.
    pub peers: usize,
    /// V.
    pub catalogue: usize,
}

/// An instruction set that the loss is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Whatever the target of the build has.
    Portable,
    /// AVX2 with fused multiply-add.
    Avx2,
    /// AVX-512 (F, DQ, BW, VL).
    Avx512,
}

/// Rows that a thread takes at a time.
const ROWS_PER_TASK: usize = 8;

/// The instruction sets that this processor has, best first.
pub fn levels() -> Vec<Level> {
    let mut levels = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        let has_avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        let has_avx512 = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl");
        if has_avx2 && has_avx512 {
            levels.push(Level::Avx512);
        }
        if has_avx2 {
            levels.push(Level::Avx2);
        }
    }
    levels.push(Level::Portable);
    levels
}

fn best() -> Level {
    static BEST: OnceLock<Level> = OnceLock::new();
    *BEST.get_or_init(|| levels()[0])
}

/// Losses of all peers on some rows, added to `sums`. `logits` `[T, rows, V]` become the gradients, times the chunk's scale,
/// of the sum over peers of their total losses.
///
/// # Panics
/// If the lengths do not fit one another or a target is outside the catalogue.
pub fn losses_and_gradients(spec: &LossSpec, chunk: &Chunk<'_>, logits: &mut [f32], sums: &mut LossSums) {
    losses_and_gradients_at(best(), spec, chunk, logits, sums);
}

/// [`losses_and_gradients`] at a level among [`levels`].
///
/// # Panics
/// As [`losses_and_gradients`].
pub fn losses_and_gradients_at(
    level: Level,
    spec: &LossSpec,
    chunk: &Chunk<'_>,
    logits: &mut [f32],
    sums: &mut LossSums,
) {
    let everybody: Vec<usize> = (0..chunk.peers).collect();
    work(level, spec, chunk, &everybody, logits, None, sums);
}

/// Losses of the peers `own` on some rows, where the others are known by their probabilities: `everyone` is `[T, rows, V]`,
/// `logits` `[own, rows, V]` become the gradients.
///
/// # Panics
/// As [`losses_and_gradients`].
pub fn own_losses_and_gradients(
    spec: &LossSpec,
    chunk: &Chunk<'_>,
    own: &[usize],
    logits: &mut [f32],
    everyone: &[f32],
    sums: &mut LossSums,
) {
    own_losses_and_gradients_at(best(), spec, chunk, own, logits, everyone, sums);
}

/// [`own_losses_and_gradients`] at a level among [`levels`].
///
/// # Panics
/// As [`losses_and_gradients`].
pub fn own_losses_and_gradients_at(
    level: Level,
    spec: &LossSpec,
    chunk: &Chunk<'_>,
    own: &[usize],
    logits: &mut [f32],
    everyone: &[f32],
    sums: &mut LossSums,
) {
    assert_eq!(everyone.len(), chunk.peers * chunk.targets.len() * chunk.catalogue, "probabilities are [T, rows, V]");
    work(level, spec, chunk, own, logits, Some(everyone), sums);
}

/// Rows are shared out in fixed tasks and their sums added in the order of rows, so that the number of threads does not
/// change a bit.
fn work(
    level: Level,
    spec: &LossSpec,
    chunk: &Chunk<'_>,
    own: &[usize],
    logits: &mut [f32],
    everyone: Option<&[f32]>,
    sums: &mut LossSums,
) {
    let (rows, catalogue) = (chunk.targets.len(), chunk.catalogue);
    assert_eq!(chunk.truncated.len(), rows, "every row has a target and a mark");
    assert_eq!(logits.len(), own.len() * rows * catalogue, "logits are [peers, rows, V]");
    assert!(chunk.targets.iter().all(|target| (0..catalogue as i64).contains(target)), "targets are classes");
    if rows == 0 || own.is_empty() {
        return;
    }
    let mut by_row: Vec<Vec<&mut [f32]>> = (0..rows).map(|_| Vec::with_capacity(own.len())).collect();
    for (place, row) in logits.chunks_exact_mut(catalogue).enumerate() {
        by_row[place % rows].push(row);
    }
    let mut results = vec![PeerSums::default(); own.len() * rows];
    by_row
        .par_chunks_mut(ROWS_PER_TASK)
        .zip(results.par_chunks_mut(ROWS_PER_TASK * own.len()))
        .enumerate()
        .for_each_init(
            || Scratch::new(chunk.peers, catalogue),
            |scratch, (number, (rows, results))| {
                let task = Task { spec, chunk, own, everyone, first: number * ROWS_PER_TASK };
                run(level, &task, rows, scratch, results);
            },
        );
    for row in results.chunks_exact(own.len()) {
        for (peer, result) in own.iter().zip(row) {
            sums.peers[*peer].add(result);
        }
    }
}

/// Consecutive rows for one thread.
struct Task<'a> {
    spec: &'a LossSpec,
    chunk: &'a Chunk<'a>,
    own: &'a [usize],
    everyone: Option<&'a [f32]>,
    first: usize,
}

#[inline(always)]
fn task_body(task: &Task<'_>, rows: &mut [Vec<&mut [f32]>], scratch: &mut Scratch, results: &mut [PeerSums]) {
    let (chunk, count) = (task.chunk, task.chunk.targets.len());
    for (place, (logits, sums)) in rows.iter_mut().zip(results.chunks_exact_mut(task.own.len())).enumerate() {
        let row = task.first + place;
        let input = RowInput {
            target: chunk.targets[row] as usize,
            truncated: chunk.truncated[row],
            scale: chunk.scale as f32,
        };
        match task.everyone {
            None => row::all_peers(task.spec, input, logits, scratch, sums),
            Some(everyone) => {
                let of_peer = |peer: usize| &everyone[(peer * count + row) * chunk.catalogue..][..chunk.catalogue];
                let everyone: Vec<&[f32]> = (0..chunk.peers).map(of_peer).collect();
                row::own_peers(task.spec, input, task.own, logits, &everyone, scratch, sums);
            }
        }
    }
}

fn run(level: Level, task: &Task<'_>, rows: &mut [Vec<&mut [f32]>], scratch: &mut Scratch, results: &mut [PeerSums]) {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2,fma")]
        fn avx2(task: &Task<'_>, rows: &mut [Vec<&mut [f32]>], scratch: &mut Scratch, results: &mut [PeerSums]) {
            task_body(task, rows, scratch, results);
        }
        #[target_feature(enable = "avx2,fma,avx512f,avx512dq,avx512bw,avx512vl")]
        fn avx512(task: &Task<'_>, rows: &mut [Vec<&mut [f32]>], scratch: &mut Scratch, results: &mut [PeerSums]) {
            task_body(task, rows, scratch, results);
        }
        match level {
            // SAFETY: `levels` lists this one only where the processor has its features.
            Level::Avx512 => return unsafe { avx512(task, rows, scratch, results) },
            // SAFETY: as above.
            Level::Avx2 => return unsafe { avx2(task, rows, scratch, results) },
            Level::Portable => {}
        }
    }
    let _ = level;
    task_body(task, rows, scratch, results);
}

/// `-log p_*` of all peers on some rows, `[T, rows]`, from logits `[T, rows, V]`: what truncation needs first.
pub fn cross_entropies(logits: &[f32], targets: &[i64], peers: usize, catalogue: usize) -> Vec<f32> {
    assert_eq!(logits.len(), peers * targets.len() * catalogue, "logits are [T, rows, V]");
    let level = best();
    let rows = logits.par_chunks_exact(catalogue).enumerate();
    rows.map(|(place, row)| entropy_of(level, row, targets[place % targets.len()] as usize)).collect()
}

fn entropy_of(level: Level, row: &[f32], target: usize) -> f32 {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2,fma")]
        fn avx2(row: &[f32], target: usize) -> f32 {
            row::cross_entropy(row, target)
        }
        #[target_feature(enable = "avx2,fma,avx512f,avx512dq,avx512bw,avx512vl")]
        fn avx512(row: &[f32], target: usize) -> f32 {
            row::cross_entropy(row, target)
        }
        match level {
            // SAFETY: `levels` lists this one only where the processor has its features.
            Level::Avx512 => return unsafe { avx512(row, target) },
            // SAFETY: as above.
            Level::Avx2 => return unsafe { avx2(row, target) },
            Level::Portable => {}
        }
    }
    let _ = level;
    row::cross_entropy(row, target)
}

/// Replaces rows of logits, `[n, V]`, by their softmax.
pub fn softmax_rows(logits: &mut [f32], catalogue: usize) {
    let level = best();
    logits.par_chunks_exact_mut(catalogue).for_each(|row| softmax_of(level, row));
}

fn softmax_of(level: Level, row: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2,fma")]
        fn avx2(row: &mut [f32]) {
            row::softmax(row);
        }
        #[target_feature(enable = "avx2,fma,avx512f,avx512dq,avx512bw,avx512vl")]
        fn avx512(row: &mut [f32]) {
            row::softmax(row);
        }
        match level {
            // SAFETY: `levels` lists this one only where the processor has its features.
            Level::Avx512 => return unsafe { avx512(row) },
            // SAFETY: as above.
            Level::Avx2 => return unsafe { avx2(row) },
            Level::Portable => {}
        }
    }
    let _ = level;
    row::softmax(row);
}
