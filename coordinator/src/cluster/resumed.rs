//! A cluster that goes on with an earlier one's training, with workers of its own.

use super::{Cluster, Settings};
use std::collections::BTreeMap;

impl Cluster {
    /// Like [`Cluster::new`], of a cohort that some peers have left: each with the checkpoint that holds it.
    pub fn resumed(settings: Settings, parked: BTreeMap<u32, String>) -> Self {
        Self { parked, ..Self::new(settings) }
    }
}
