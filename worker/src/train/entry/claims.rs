//! What each rank of a generation holds of the shared parameters, and where the training stands.

use super::{Entry, Origin, assignment};
use crate::exchange::Exchange;
use crate::train::TrainError;
use crate::train::trainer::Trainer;
use medley_common::manifest::TrainingState;

/// What one rank holds of the shared parameters when it enters.
pub struct Claim {
    /// Nothing where it holds none of the generation's step.
    pub checksum: Option<u32>,
    pub state: Option<TrainingState>,
}

/// Bytes that a training's state has as JSON, at most; it travels as a float a byte, filled up with spaces.
const STATE_BYTES: usize = 2048;

impl Trainer<'_> {
    /// What every rank holds of the shared parameters.
    pub(super) fn claims(&self, exchange: &mut Exchange, step: u64) -> Result<Vec<Claim>, TrainError> {
        let mut mine = vec![0.0; 3 + STATE_BYTES];
        if let Some(learner) = self.learner.as_ref().filter(|_| self.step == step) {
            let checksum = learner.shared_state(None).checksum();
            // Sixteen bits are a float without loss.
            mine[..3].copy_from_slice(&[1.0, (checksum >> 16) as f32, (checksum & 0xffff) as f32]);
            let text = serde_json::to_string(&self.state).map_err(|error| assignment(error.to_string()))?;
            assert!(text.len() <= STATE_BYTES, "a training's state is a dozen numbers");
            mine[3..].fill(f32::from(b' '));
            mine[3..].iter_mut().zip(text.bytes()).for_each(|(float, byte)| *float = f32::from(byte));
        }
        let mut received = vec![vec![0.0; mine.len()]; exchange.placement().world_size()];
        let mut parts: Vec<&mut [f32]> = received.iter_mut().map(Vec::as_mut_slice).collect();
        exchange.collective().all_gather(&mine, &mut parts)?;
        let claim = |floats: &Vec<f32>| {
            if floats[0] == 0.0 {
                return Ok(Claim { checksum: None, state: None });
            }
            let text: Vec<u8> = floats[3..].iter().map(|float| *float as u8).collect();
            let state = serde_json::from_slice(&text).map_err(|error| assignment(error.to_string()))?;
            let checksum = (floats[1] as u32) << 16 | floats[2] as u32;
            Ok(Claim { checksum: Some(checksum), state: Some(state) })
        };
        received.iter().map(claim).collect()
    }

    /// Where the training stands, the same on all ranks.
    pub(super) fn training_state(
        &self,
        entry: &Entry,
        source: Option<usize>,
        claims: &[Claim],
    ) -> Result<TrainingState, TrainError> {
        if let Some(source) = source {
            let right = claims[source].checksum;
            let holders = claims.iter().filter(|claim| right.is_some() && claim.checksum == right);
            let furthest = holders.filter_map(|claim| claim.state.as_ref()).max_by_key(|state| state.validated_step);
            let step = entry.step;
            return furthest.cloned().ok_or_else(|| {
                assignment(format!(
                    "rank {source} was to give the shared parameters of step {step}, but does not hold them"
                ))
            });
        }
        if let Origin::Checkpoint(directory) = &entry.shared {
            let checkpoint = self.open(directory)?;
            let manifest = checkpoint.manifest();
            if manifest.step != entry.step {
                return Err(assignment(format!(
                    "{}: the checkpoint is of step {}, training was to begin at {}",
                    directory.display(),
                    manifest.step,
                    entry.step
                )));
            }
            let validated_step = manifest.state.validated_step.or(Some(manifest.step));
            return Ok(TrainingState { validated_step, ..manifest.state.clone() });
        }
        Ok(TrainingState { items: self.dataset.items as u64, ..TrainingState::default() })
    }
}
