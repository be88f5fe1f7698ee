//! What is measured: a shape, a cohort, and how often.

use super::BenchError;
use crate::device;
use medley_common::config::{self, ExchangeMode, Precision, RunConfig};
use medley_common::method::MethodName;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use tch::Device;

/// The catalogue and the sequences of a data set, as the papers' experiments cut them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Shape {
    /// 3416 items, 200 long, 40 masks.
    #[value(name = "ml-1m")]
    #[serde(rename = "ml-1m")]
    Ml1m,
    /// 11924 items, 50 long, 10 masks.
    Toys,
    /// 246 items, 200 long, 40 masks.
    #[value(name = "chi-18")]
    #[serde(rename = "chi-18")]
    Chi18,
    /// 440 items, 200 long, 40 masks.
    #[value(name = "nyc-16")]
    #[serde(rename = "nyc-16")]
    Nyc16,
    /// 3646 items, 200 long, 40 masks.
    Lastfm,
}

impl Shape {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Ml1m, Self::Toys, Self::Chi18, Self::Nyc16, Self::Lastfm];

    /// As the command line spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ml1m => "ml-1m",
            Self::Toys => "toys",
            Self::Chi18 => "chi-18",
            Self::Nyc16 => "nyc-16",
            Self::Lastfm => "lastfm",
        }
    }

    /// V, the items of the catalogue.
    pub fn items(self) -> usize {
        match self {
            Self::Ml1m => 3416,
            Self::Toys => 11924,
            Self::Chi18 => 246,
            Self::Nyc16 => 440,
            Self::Lastfm => 3646,
        }
    }

    /// Items of the longest sequence.
    pub fn length(self) -> usize {
        if self == Self::Toys { 50 } else { 200 }
    }

    /// Most masks of a sequence.
    pub fn masks(self) -> usize {
        if self == Self::Toys { 10 } else { 40 }
    }
}

/// A measurement of steps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepSettings {
    /// The shape that the sizes below come from.
    pub shape: Shape,
    /// Sequences of this file in the place of synthetic ones.
    pub data: Option<PathBuf>,
    /// T.
    pub peers: usize,
    /// W, worker processes; every one hosts T/W peers or one more.
    pub workers: usize,
    /// Threads of each worker.
    pub threads: usize,
    /// What crosses the wire.
    pub exchange: ExchangeMode,
    /// How peers learn; with one peer always by itself.
    pub method: MethodName,
    /// Measured steps.
    pub steps: usize,
    /// Steps before them that are not measured.
    pub warmup: usize,
    /// V; with a file: its own.
    pub items: usize,
    /// Items of the longest sequence.
    pub length: usize,
    /// Most masks of a sequence.
    pub masks: usize,
    /// Sequences of a batch.
    pub batch: usize,
    /// Dropout in embeddings and encoders.
    pub dropout: f64,
    /// Of matrix products.
    pub precision: Precision,
}

/// Share of rows that count as noise, as in the eager program: truncation costs a pass, so it must be measured.
const BETA: f64 = 0.02;

/// Longest wait of a worker for another: a step of many peers on one thread takes a while.
const DEADLINE_SECONDS: f64 = 600.0;

impl StepSettings {
    /// A measurement of a shape with the defaults of the command line.
    pub fn of(shape: Shape) -> Self {
        Self {
            shape,
            data: None,
            peers: 2,
            workers: 1,
            threads: 1,
            exchange: ExchangeMode::Hidden,
            method: MethodName::Hail,
            steps: 10,
            warmup: 3,
            items: shape.items(),
            length: shape.length(),
            masks: shape.masks(),
            batch: 256,
            dropout: 0.2,
            precision: Precision::Float32,
        }
    }

    /// Refuses what cannot be measured.
    ///
    /// # Errors
    /// One line that names the flag.
    pub fn check(&self) -> Result<(), BenchError> {
        let refuse = |line: String| Err(BenchError::Input(line));
        if self.workers > self.peers {
            return refuse(format!(
                "--workers: is {}, but there are only {} peers to host; lower it or raise --peers",
                self.workers, self.peers
            ));
        }
        let positive = [
            ("--peers", self.peers),
            ("--workers", self.workers),
            ("--steps", self.steps),
            ("--batch", self.batch),
            ("--length", self.length),
            ("--masks", self.masks),
        ];
        if let Some((flag, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return refuse(format!("{flag}: is 0; use 1 or more"));
        }
        if self.items < 2 {
            return refuse(format!("--items: is {}; a catalogue has 2 items or more", self.items));
        }
        if self.masks > self.length {
            return refuse(format!("--masks: is {}, more than --length {}", self.masks, self.length));
        }
        if self.batch < self.peers {
            return refuse(format!(
                "--batch: is {}; every peer needs a row, so use {} or more",
                self.batch, self.peers
            ));
        }
        if let Err(error) = device::check_precision(self.precision, Device::Cpu) {
            return refuse(format!("--precision: {error}"));
        }
        let is_measured = [MethodName::Hail, MethodName::Peerrec, MethodName::Dml, MethodName::Single];
        if !is_measured.contains(&self.method) {
            return refuse(format!("--method: {} is not trained by a cohort; use hail, peerrec or dml", self.method));
        }
        if self.method == MethodName::Single && self.peers > 1 {
            return refuse(format!("--method: single has one peer, --peers is {}", self.peers));
        }
        Ok(())
    }

    /// The configuration of a job of this kind.
    ///
    /// # Errors
    /// What the configuration itself refuses.
    pub fn config(&self) -> Result<RunConfig, BenchError> {
        let method = if self.peers == 1 { MethodName::Single } else { self.method };
        let beta = if matches!(method, MethodName::Hail | MethodName::Peerrec) { BETA } else { 0.0 };
        let mode = match self.exchange {
            ExchangeMode::Hidden => "hidden",
            ExchangeMode::Logits => "logits",
            ExchangeMode::Distributions => "distributions",
        };
        let text = format!(
            "name = \"bench\"\n\
             [data]\npath = \"bench\"\n\
             [samples]\nmax_length = {}\nmax_masks = {}\n\
             [network]\ndropout = {:?}\n\
             [cohort]\npeers = {}\nworkers = {}\n\
             [method]\nname = \"{method}\"\nbeta = {beta:?}\nstage_1_share = 0.0\n\
             [train]\nsteps = {}\nbatch_size = {}\nprecision = \"{}\"\n\
             [exchange]\nmode = \"{mode}\"\ndeadline_seconds = {DEADLINE_SECONDS:?}\n\
             [launch]\njoin_ms = 1_200_000\n[recovery]\nreform_ms = 900_000\n",
            self.length,
            self.masks,
            self.dropout,
            self.peers,
            self.workers,
            self.warmup + self.steps,
            self.batch,
            self.precision.as_str(),
        );
        config::parse(&text, "the measurement", &[]).map_err(|error| BenchError::Input(error.to_string()))
    }
}
