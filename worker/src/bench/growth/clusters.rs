//! Clusters of GPUs: constants that are stated here and were not measured, to see which part of a step grows into a limit.

use super::model::{Cohort, Constants, Prediction};
use crate::bench::Shape;
use crate::bench::work::Work;
use medley_common::config::{ExchangeMode, NetworkConfig};

/// A network between GPUs, one peer each.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cluster {
    /// Its name.
    pub name: &'static str,
    /// Bytes a second that a GPU sends, while all do.
    pub bytes_per_s: f64,
    /// Seconds of a call with nothing in it, launch and wake-up included.
    pub call_s: f64,
    /// Seconds that each message to another GPU adds.
    pub message_s: f64,
}

/// The networks: what the hardware is sold as, four fifths of which a large message reaches; latencies as commonly seen
/// with NCCL between GPUs of a node, over InfiniBand, and over TCP.
pub const CLUSTERS: [Cluster; 3] = [
    Cluster { name: "NVLink", bytes_per_s: 0.8 * 450e9, call_s: 10e-6, message_s: 0.3e-6 },
    Cluster { name: "400 Gb/s", bytes_per_s: 0.8 * 50e9, call_s: 20e-6, message_s: 1e-6 },
    Cluster { name: "25 Gb/s", bytes_per_s: 0.8 * 3.125e9, call_s: 60e-6, message_s: 5e-6 },
];

/// Operations a second that the products of the encoder's layers reach on a GPU of the H100's kind: its 67·10¹² of
/// single precision at three tenths, as products with a side of 64 wait for memory.
const LINEAR_PER_S: f64 = 0.3 * 67e12;

/// Those of attention, whose heads are 32 wide.
const ATTENTION_PER_S: f64 = 0.15 * 67e12;

/// Those of the prediction layer fused with the loss, which computes an exponential and a few more for each logit.
const PREDICTION_PER_S: f64 = 0.2 * 67e12;

/// Seconds of a step beside all that grows: a few hundred kernels of some microseconds.
const FIXED_S: f64 = 1e-3;

/// Bytes of a process with CUDA's context.
const PROCESS_BYTES: f64 = 0.6e9;

/// Activations of two layers per token: about 30 arrays of the width 64, in single precision.
const TOKEN_BYTES: f64 = 30.0 * 64.0 * 4.0;

impl Cluster {
    /// The constants of a GPU in this network.
    pub fn constants(&self) -> Constants {
        Constants {
            fixed_s: FIXED_S,
            linear_s: 1.0 / LINEAR_PER_S,
            attention_s: 1.0 / ATTENTION_PER_S,
            prediction_s: 1.0 / PREDICTION_PER_S,
            byte_s: 1.0 / self.bytes_per_s,
            call_s: self.call_s,
            message_s: self.message_s,
            process_bytes: PROCESS_BYTES,
            token_bytes: TOKEN_BYTES,
            // Attention weights are not kept by fused attention.
        }
    }

    /// A step of a shape with one peer on each of so many GPUs.
    pub fn predict(&self, shape: Shape, gpus: usize, mode: ExchangeMode) -> Prediction {
        let work = Work::full(&NetworkConfig::default(), shape.items(), 256, shape.length(), shape.masks());
        let cohort =
            Cohort { work, length: shape.length(), peers: gpus, workers: gpus, cores: gpus, truncates: gpus > 1 };
        self.constants().predict(&cohort, mode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ExchangeMode::{Distributions, Hidden, Logits};

    #[test]
    fn hidden_rows_scale_and_distributions_do_not() {
        for cluster in CLUSTERS {
            let seconds = |gpus, mode| cluster.predict(Shape::Ml1m, gpus, mode).seconds;
            assert!(seconds(64, Hidden) < 2.0 * seconds(2, Hidden), "{}", cluster.name);
            assert!(seconds(64, Hidden) < seconds(64, Logits), "{}", cluster.name);
            assert!(seconds(64, Logits) < seconds(64, Distributions), "{}", cluster.name);
        }
        let slow = CLUSTERS[2].predict(Shape::Ml1m, 64, Distributions);
        assert!(slow.exchange_seconds > 0.9 * slow.seconds);
    }
}
