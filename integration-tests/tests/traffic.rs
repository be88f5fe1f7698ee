//! What the exchange moves on the ML-1M shape (V = 3416, sequences of 200, up to 40 masks), by the counters of real
//! sockets. One layer and no dropout: neither changes a byte.

use medley_integration_tests::{Bench, summary};

const SHAPE: [&str; 10] = [
    "samples.max_length=200",
    "samples.copies=1",
    "samples.last_item_copy=false",
    "network.dimension=64",
    "network.layers=1",
    "network.feed_forward=64",
    "network.dropout=0.0",
    "train.batch_size=256",
    "train.steps=1",
    "train.threads=1",
];

fn bytes_per_step(bench: &Bench, peers: usize, mode: &str) -> f64 {
    let (peers, mode) = (format!("cohort.peers={peers}"), format!("exchange.mode={mode}"));
    let workers = peers.replace("peers", "workers");
    let mut settings = SHAPE.to_vec();
    settings.extend([
        peers.as_str(),
        workers.as_str(),
        mode.as_str(),
        "evaluation.validation_users=1",
        "evaluation.baselines=[]",
    ]);
    let run = bench.run(&format!("{peers}-{mode}"), &settings);
    summary(&run).bytes_exchanged_per_step
}

#[test]
fn hidden_rows_cost_a_fortieth_of_distributions_and_do_not_grow_with_the_cohort() {
    let bench = Bench::new(300, 3416, 260);
    let four = bytes_per_step(&bench, 4, "hidden");
    let eight = bytes_per_step(&bench, 8, "hidden");
    let literal = bytes_per_step(&bench, 4, "distributions");
    println!("bytes a worker sends in a step: hidden T=4 {four}, T=8 {eight}; distributions T=4 {literal}");
    assert!(literal / four >= 40.0, "distributions {literal}, hidden {four}: 1/{:.1}", literal / four);
    // Each worker sends the share (T-1)/T of 2 R d floats and of two passes over the shared gradient: a bound that does
    // not depend on T, of which three quarters are sent at T = 4 and seven eighths at T = 8.
    assert!(eight * 8.0 / 7.0 <= four * 4.0 / 3.0 * 1.01, "T=4 {four}, T=8 {eight}");
}
