//! The fused prediction layer against libtorch's graph, part by part.

use crate::collective::{AbortHandle, LocalCollective};
use crate::exchange::{Exchange, Gradients, Placement, Rows};
use crate::loss::{RankBase, RankOver, RankRule, Truncation};
use crate::model::Shared;
use crate::random::{Purpose, stream};
use crate::train::schedule::Plan;
use medley_common::config::{self, RunConfig};
use rand_distr::{Distribution, StandardNormal};
use tch::{Device, Tensor};

const ITEMS: usize = 57;
const PEERS: usize = 3;

fn configuration(method: &str, chunk_rows: usize) -> RunConfig {
    let text = format!(
        "[data]\npath = \"none\"\n[network]\ndimension = 20\nheads = 2\ninitialization = \"xavier\"\n[cohort]\npeers = {PEERS}\n\
         [method]\n{method}\n[exchange]\nchunk_rows = {chunk_rows}\n"
    );
    config::parse(&text, "test", &[]).unwrap()
}

fn normal(count: usize, seed: u64) -> Tensor {
    let mut random = stream(Purpose::SyntheticItems, seed, 0, 0);
    let values: Vec<f32> = (0..count).map(|_| StandardNormal.sample(&mut random)).collect();
    Tensor::from_slice(&values)
}

fn gradients(config: &RunConfig, rows: usize, beta: f64, fused: bool) -> Gradients {
    let mut shared = Shared::draw(&config.network, ITEMS, 5, 1, Device::Cpu);
    {
        // Biases and norms are drawn as zeros and ones, which would hide their parts.
        let _guard = tch::no_grad_guard();
        let noise = normal(shared.parameters.len() as usize, 2) * 0.3;
        let _ = shared.parameters.values().shallow_clone().g_add_(&noise);
    }
    let d = config.network.dimension;
    let hidden: Vec<Tensor> =
        (0..PEERS).map(|peer| normal(rows * d as usize, 10 + peer as u64).view([rows as i64, d])).collect();
    let targets: Vec<i64> = (0..rows).map(|row| (row * 5 % ITEMS) as i64).collect();
    let everybody = Placement::new(vec![(0..PEERS as u32).collect()], 0).unwrap();
    let collective = Box::new(LocalCollective::new(1, AbortHandle::new()));
    let mut exchange = Exchange::new(collective, everybody, config);
    exchange.fuses_losses = fused;
    let rule = RankRule::Descending { base: RankBase::Zero, over: RankOver::Rows };
    let truncation = (beta > 0.0).then_some(Truncation { beta, rule });
    let loss = Plan::new(config, 1).loss(0);
    let rows = Rows { targets: &targets, loss, truncation, slots: rows };
    exchange.gradients(&mut shared, &hidden, rows).unwrap()
}

/// The largest difference over the largest value.
fn error(ours: &Tensor, theirs: &Tensor) -> f64 {
    (ours - theirs).abs().max().double_value(&[]) / theirs.abs().max().double_value(&[]).max(1e-30)
}

#[test]
fn every_part_of_the_gradient_is_that_of_automatic_differentiation() {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
    let methods = [
        "name = \"hail\"",
        "name = \"hail\"\ngamma = 2.0",
        "name = \"dml\"",
        "name = \"peerrec\"\nstage_1_share = 0.0",
    ];
    for method in methods {
        // A row alone; fewer rows than threads; several chunks on every thread, and most rows noise.
        for (rows, chunk_rows, beta) in [(1, 0, 0.0), (2, 1, 0.0), (40, 4, 0.0), (40, 4, 0.7), (40, 0, 0.7)] {
            let config = configuration(method, chunk_rows);
            let fused = pool.install(|| gradients(&config, rows, beta, true));
            let graph = gradients(&config, rows, beta, false);
            let what = format!("{method:?}, {rows} rows in chunks of {chunk_rows}, beta {beta}");
            assert_eq!(fused.truncated_rows, graph.truncated_rows, "{what}");
            assert!(beta == 0.0 || fused.truncated_rows > 4, "{what}: {} rows are noise", fused.truncated_rows);
            for (ours, theirs) in fused.hidden.iter().zip(&graph.hidden) {
                assert!(error(ours, theirs) < 1e-5, "{what}: hidden rows by {}", error(ours, theirs));
            }
            let mut start = 0;
            for specification in Shared::specifications(&config.network, ITEMS, 5) {
                let part = |gradients: &Gradients| gradients.shared.narrow(0, start, specification.len());
                let error = error(&part(&fused), &part(&graph));
                assert!(error < 1e-5, "{what}: {} by {error}", specification.name);
                start += specification.len();
            }
            for (ours, theirs) in fused.losses.peers.iter().zip(&graph.losses.peers) {
                assert!((ours.total / theirs.total - 1.0).abs() < 1e-5, "{what}: {ours:?} {theirs:?}");
            }
        }
    }
}
