//! The memory of the loss: what the account says, and nothing near R×V.
//!
//! A test binary of its own, because it counts every allocation of the process.

#![allow(clippy::unwrap_used)]

use medley_worker::exchange::{Prediction, PredictionParts};
use medley_worker::loss::{Exclusivity, LossSpec};
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

/// Runs the loss of a batch; returns the bytes that its account names, and those that were allocated at most meanwhile,
/// beside what it takes and returns.
fn measure(rows: usize, catalogue: usize, peers: usize, threads: usize) -> (usize, usize) {
    let numbers = |count: usize| -> Vec<f32> { (0..count).map(|i| ((i * 37 % 101) as f32 - 50.0) / 100.0).collect() };
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
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| {
        let run = || {
            let loss = LossSpec::Exclusivity(Exclusivity::hail(0.5, 1.0));
            let prediction = Prediction::new(parts, peers, 0, loss, 1.0 / rows as f64);
            let mut computed = prediction.compute(&hidden, &targets);
            prediction.truncate(&mut computed, &hidden, &targets, &[1, rows / 2, rows - 1]);
            prediction.bytes(threads)
        };
        // Once before, so that the product library's own buffers, which stay, are there.
        run();
        let before = NOW.load(SeqCst);
        MOST.store(before, SeqCst);
        let account = run();
        (account, MOST.load(SeqCst) - before)
    })
}

#[test]
fn the_loss_holds_what_its_account_says_and_never_a_matrix_of_rows_by_items() {
    for (rows, catalogue, peers, threads) in [(10_240, 3416, 2, 2), (2560, 3416, 8, 2), (2560, 11_924, 4, 1)] {
        let (account, most) = measure(rows, catalogue, peers, threads);
        // Returned: gradients of hidden rows and the losses of each row, once whole and once in parts of the threads.
        let returned = 2 * peers * rows * (4 * WIDTH + 8 * 6) + 64 * rows;
        println!("R={rows} V={catalogue} T={peers}: {most} bytes, account {account}, returned {returned}");
        assert!(most <= account + returned, "{most} bytes instead of {account} and {returned}");
        assert!(most > account / 2, "the account of {account} bytes promises too little: {most}");
        let whole = 4 * peers * rows * catalogue;
        assert!(account < whole / 8, "{account} bytes are near the {whole} of all logits");
    }
    // Twice the rows: the same.
    assert_eq!(measure(1000, 3416, 4, 2).0, measure(2000, 3416, 4, 2).0);
}
