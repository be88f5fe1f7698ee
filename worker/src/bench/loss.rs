//! The cross-peer loss alone, against the three matrix products around it.

use super::products::{self, Measured, median};
use super::result::round;
use super::step::peak_rss_mb;
use super::{BenchError, Shape, StepSettings};
use crate::collective::{AbortHandle, LocalCollective};
use crate::exchange::{Exchange, Placement, Rows};
use crate::loss::{Exclusivity, LossSpec};
use crate::model::Shared;
use crate::random::{self, Purpose};
use crate::train::TrainError;
use medley_common::config::NetworkConfig;
use serde::{Deserialize, Serialize};
use std::time::Instant;
use tch::{Device, Kind, Tensor};

/// A measurement of the loss in one process that hosts all peers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LossSettings {
    /// R.
    pub rows: usize,
    /// V.
    pub items: usize,
    /// T, 2 or more.
    pub peers: usize,
    /// Threads.
    pub threads: usize,
    /// Measured repetitions.
    pub steps: usize,
}

/// What `bench loss` reports.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LossResult {
    /// R.
    pub rows: usize,
    /// V.
    pub items: usize,
    /// T.
    pub peers: usize,
    /// Threads.
    pub threads: usize,
    /// Median milliseconds from hidden rows to their gradients and those of the prediction layer.
    pub loss_ms: f64,
    /// Milliseconds of the three products alone: logits, and their gradient to rows and to weights.
    pub floor_ms: f64,
    /// `loss_ms / floor_ms`.
    pub times_floor: f64,
    /// By how much the process grew while it computed the loss, at most, in 2²⁰ bytes.
    pub grown_mb: f64,
}

impl LossSettings {
    /// Refuses what cannot be measured.
    ///
    /// # Errors
    /// One line that names the flag.
    pub fn check(&self) -> Result<(), BenchError> {
        let least = [("--peers", self.peers, 2), ("--rows", self.rows, 1), ("--items", self.items, 2)];
        match least.iter().chain(&[("--steps", self.steps, 1)]).find(|(_, value, least)| value < least) {
            Some((flag, value, least)) => Err(BenchError::Input(format!("{flag}: is {value}; use {least} or more"))),
            None => Ok(()),
        }
    }
}

/// Computes the loss again and again, then the products.
///
/// # Errors
/// Those of the exchange.
pub fn measure(settings: &LossSettings) -> Result<LossResult, BenchError> {
    let network = NetworkConfig::default();
    let d = network.dimension;
    let mut shared = Shared::draw(&network, settings.items, 1, 1, Device::Cpu);
    let hidden: Vec<Tensor> =
        (0..settings.peers).map(|_| Tensor::randn([settings.rows as i64, d], (Kind::Float, Device::Cpu))).collect();
    let mut random = random::stream(Purpose::Benchmark, 0, 1, 0);
    let targets: Vec<i64> = (0..settings.rows).map(|_| random::below(&mut random, settings.items) as i64).collect();
    let everybody = vec![(0..settings.peers as u32).collect()];
    let placement = Placement::new(everybody, 0).map_err(BenchError::Input)?;
    let collective = Box::new(LocalCollective::new(1, AbortHandle::new()));
    let config = StepSettings { peers: settings.peers, ..StepSettings::of(Shape::Ml1m) }.config()?;
    let mut exchange = Exchange::new(collective, placement, &config);
    let loss = LossSpec::Exclusivity(Exclusivity::hail(0.5, 1.0));
    let before = peak_rss_mb();
    let mut milliseconds = Vec::with_capacity(settings.steps);
    for repetition in 0..=settings.steps {
        let start = Instant::now();
        let rows = Rows { targets: &targets, loss, truncation: None, slots: settings.rows };
        exchange.gradients(&mut shared, &hidden, rows).map_err(TrainError::from)?;
        // The first one makes the memory that the others use.
        if repetition > 0 {
            milliseconds.push(1e3 * start.elapsed().as_secs_f64());
        }
    }
    let grown_mb = peak_rss_mb() - before;
    let _guard = tch::no_grad_guard();
    let mut floor = Measured::default();
    products::logits(settings.peers * settings.rows, d as usize, settings.items, &mut floor);
    let (loss_ms, floor_ms) = (median(&mut milliseconds), 1e3 * floor.seconds);
    Ok(LossResult {
        rows: settings.rows,
        items: settings.items,
        peers: settings.peers,
        threads: settings.threads,
        loss_ms: round(loss_ms, 3),
        floor_ms: round(floor_ms, 3),
        times_floor: round(loss_ms / floor_ms, 3),
        grown_mb: round(grown_mb, 1),
    })
}

impl LossResult {
    /// What a person reads.
    pub fn table(&self) -> String {
        format!(
            "{} rows, {} items, {} peers, {} thread(s)\n\n\
             loss       {:>10.2} ms   hidden rows to all gradients\n\
             products   {:>10.2} ms   its three matrix products alone\n\
             ratio      {:>10.2}\n\
             grown      {:>10.1} MB   memory of the process, at most\n",
            self.rows,
            self.items,
            self.peers,
            self.threads,
            self.loss_ms,
            self.floor_ms,
            self.times_floor,
            self.grown_mb,
        )
    }
}
