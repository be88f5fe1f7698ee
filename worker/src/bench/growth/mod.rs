//! How a step's time, bytes and memory grow with the cohort: measured, modelled, and carried over to clusters.
//!
//! Read in this order:
//! - [`model`]: work, bytes and messages of a cohort's step by formula, and the constants that turn them into time and
//!   memory ([`model::Constants`]);
//! - [`fit`]: those constants from measurements of small cohorts;
//! - [`clusters`]: constants of machines with GPUs, stated and not measured;
//! - [`report`]: the table of predictions against measurements, as Markdown; [`plot`]: the same as SVG.
//!
//! Constants are fitted to T = 1 and 2 alone, and everything larger is a prediction, so that the errors that are
//! printed say something.

pub mod clusters;
pub mod fit;
pub mod model;
pub mod plot;
pub mod report;

use super::{Shape, StepResult, StepSettings};

/// A cohort that was measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// What was measured.
    pub settings: StepSettings,
    /// What was found; `None` where it would not have fitted the memory.
    pub found: Option<StepResult>,
}

impl Point {
    /// The cohort, as the model sees it.
    pub fn cohort(&self, cores: usize) -> model::Cohort {
        let settings = &self.settings;
        let network = medley_common::config::NetworkConfig::default();
        let (items, batch, length) = (settings.items, settings.batch, settings.length);
        let work = super::work::Work::full(&network, items, batch, length, settings.masks);
        let cores = cores.min(settings.workers * settings.threads);
        model::Cohort {
            work,
            length,
            peers: settings.peers,
            workers: settings.workers,
            cores,
            truncates: settings.peers > 1,
        }
    }
}

/// Cohorts of each size and shape, one peer a worker, as on a cluster; workers share the cores.
pub fn plan(shapes: &[Shape], peers: &[usize], steps: usize, cores: usize) -> Vec<StepSettings> {
    let of = |(shape, peers): (Shape, usize)| StepSettings {
        peers,
        workers: peers,
        threads: (cores / peers).max(1),
        steps,
        warmup: 1,
        ..StepSettings::of(shape)
    };
    shapes.iter().flat_map(|shape| peers.iter().map(move |peers| (*shape, *peers))).map(of).collect()
}
