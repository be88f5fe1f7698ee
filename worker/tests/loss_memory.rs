//! The memory of the loss: what the account says, and nothing near R×V.
//!
//! A test binary of its own, because it counts every allocation of the process.

#![allow(clippy::unwrap_used)]

use medley_common::config::Precision;
use medley_worker::exchange::{Prediction, PredictionParts};
use medley_worker::loss::{Exclusivity, LossSpec, PeerLosses};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

/// Bytes that are allocated now, and the most there were.
static NOW: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: every call is the system allocator's; counting changes neither layout nor pointer.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        MOST.fetch_max(NOW.fetch_add(layout.size(), SeqCst) + layout.size(), SeqCst);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), SeqCst);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const WIDTH: usize = 64;

/// A batch's loss.
struct Case {
    rows: usize,
    catalogue: usize,
    peers: usize,
    threads: usize,
    loss: LossSpec,
    /// Every so many rows one is noise.
    noise: usize,
}

impl Case {
    /// The bytes that the account names, and those that were allocated at most meanwhile.
    fn measure(&self) -> (usize, usize) {
        let Self { rows, catalogue, peers, threads, loss, noise } = *self;
        let numbers =
            |count: usize| -> Vec<f32> { (0..count).map(|i| ((i * 37 % 101) as f32 - 50.0) / 100.0).collect() };
        let (weights, square, vector) = (numbers(catalogue * WIDTH), numbers(WIDTH * WIDTH), numbers(WIDTH));
        let bias = numbers(catalogue);
        let parts = PredictionParts {
            transform: &square[..],
            transform_bias: &vector,
            gain: &vector,
            bias: &vector,
            output: &weights,
            output_bias: &bias,
        };
        let hidden = numbers(peers * rows * WIDTH);
        let targets: Vec<i64> = (0..rows as i64).map(|row| row * 7 % catalogue as i64).collect();
        let noise: Vec<usize> = (0..rows).step_by(noise).collect();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let run = || {
                let prediction = Prediction::new(parts, peers, 0, Precision::Float32, loss, 1.0 / rows as f64);
                let mut computed = prediction.compute(&hidden, &targets);
                prediction.truncate(&mut computed, &hidden, &targets, &noise);
                prediction.bytes(threads)
            };
            // On every thread before, so that the product library's own buffers, which stay, are there.
            rayon::broadcast(|_| run());
            let before = NOW.load(SeqCst);
            MOST.store(before, SeqCst);
            (run(), MOST.load(SeqCst) - before)
        })
    }

    /// Bytes that grow with the rows, in vectors that at most double when they grow: gradients of hidden rows and losses of each
    /// row, once whole and once in the parts of threads; and as much of the noise, with its hidden rows.
    fn by_rows(&self) -> usize {
        let a_row = self.peers * (4 * WIDTH + 2 * size_of::<PeerLosses>()) + 128;
        2 * a_row * self.rows + 3 * a_row * self.rows.div_ceil(self.noise)
    }
}

#[test]
fn the_loss_holds_what_its_account_says_and_never_a_matrix_of_rows_by_items() {
    let hail = |gamma| LossSpec::Exclusivity(Exclusivity::hail(0.5, gamma));
    let cases = [
        Case { rows: 6000, catalogue: 3416, peers: 2, threads: 2, loss: hail(1.0), noise: 50 },
        Case { rows: 1000, catalogue: 3416, peers: 8, threads: 2, loss: hail(2.0), noise: 50 },
        Case { rows: 1000, catalogue: 11_924, peers: 4, threads: 1, loss: hail(1.0), noise: 3 },
        Case { rows: 600, catalogue: 11_924, peers: 2, threads: 3, loss: LossSpec::Mutual { alpha: None }, noise: 4 },
    ];
    for case in cases {
        let Case { rows, catalogue, peers, .. } = case;
        let (account, most) = case.measure();
        println!("R={rows} V={catalogue} T={peers}: {most} bytes, account {account}, by rows {}", case.by_rows());
        assert!(most <= account + case.by_rows(), "{most} bytes instead of {account} and {}", case.by_rows());
        assert!(most > account / 2, "the account of {account} bytes promises too little: {most}");
        let twice = Case { rows: 2 * rows, ..case };
        let grown = twice.measure().1.saturating_sub(most);
        let allowed = twice.by_rows() - case.by_rows() + account / 8;
        assert!(grown <= allowed, "twice the rows take {grown} bytes more, not {allowed}");
        let logits = 4 * peers * rows * catalogue;
        assert!(grown < logits / 4, "{grown} bytes more are near the {logits} of as many rows' logits");
    }
}
