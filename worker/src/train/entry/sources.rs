//! States that come from no other worker: drawn from the seed, read from a checkpoint, or made out of another state.

use super::Trainer;
use crate::checkpoint::{self, Checkpoint};
use crate::model::{Encoder, Parameters, Shared};
use crate::random::{Purpose, stream};
use crate::train::TrainError;
use crate::train::holdings::State;
use crate::train::optimizer::Moments;
use medley_common::manifest::TrainingState;
use rand_distr::{Distribution, StandardNormal};
use std::path::Path;
use tch::{Kind, Tensor};

impl Trainer<'_> {
    pub(super) fn shared_length(&self) -> usize {
        let config = self.config;
        let all = Shared::specifications(&config.network, self.dataset.items, config.samples.max_length);
        all.iter().map(|specification| specification.len() as usize).sum()
    }

    pub(super) fn private_length(&self) -> usize {
        Encoder::specifications(&self.config.network).iter().map(|specification| specification.len() as usize).sum()
    }

    /// Whether states have parameters of a best validation beside those that they train.
    pub(in crate::train) fn has_best(&self, state: &TrainingState, step: u64) -> bool {
        self.config.train.patience > 0 && state.best_metric.is_some() && state.best_step != step
    }

    pub(super) fn fresh_shared(&self) -> State {
        let config = self.config;
        let shared =
            Shared::draw(&config.network, self.dataset.items, config.samples.max_length, config.seed, self.device);
        State::of(&shared.parameters, &Moments::new(&shared.parameters, &config.optimizer), None)
    }

    pub(super) fn fresh_peer(&self, peer: u32) -> State {
        let encoder = Encoder::draw(&self.config.network, self.config.seed, peer, self.device);
        State::of(&encoder.parameters, &Moments::new(&encoder.parameters, &self.config.optimizer), None)
    }

    pub(super) fn open(&self, directory: &Path) -> Result<Checkpoint, TrainError> {
        let checkpoint = Checkpoint::open(directory)?;
        if checkpoint.manifest().data_hash != self.dataset.hash {
            return Err(TrainError::Input(format!(
                "{}: the checkpoint was trained on other data than {}; resume with the data that it was trained on",
                directory.display(),
                self.config.data.path.display()
            )));
        }
        Ok(checkpoint)
    }

    pub(super) fn read_shared(&self, directory: &Path, state: &TrainingState) -> Result<State, TrainError> {
        let config = self.config;
        let values = Tensor::zeros([self.shared_length() as i64], (Kind::Float, self.device));
        let shared = Shared::over(&config.network, self.dataset.items, config.samples.max_length, values);
        self.read(directory, checkpoint::SHARED, checkpoint::SHARED_OPTIMIZER, &shared.parameters, state)
    }

    pub(super) fn read_peer(&self, peer: u32, directory: &Path, state: &TrainingState) -> Result<State, TrainError> {
        let values = Tensor::zeros([self.private_length() as i64], (Kind::Float, self.device));
        let encoder = Encoder::over(&self.config.network, values);
        let names = [checkpoint::peer_file(peer), checkpoint::peer_optimizer_file(peer)];
        self.read(directory, &names[0], &names[1], &encoder.parameters, state)
    }

    fn read(
        &self,
        directory: &Path,
        name: &str,
        optimizer: &str,
        parameters: &Parameters,
        state: &TrainingState,
    ) -> Result<State, TrainError> {
        let checkpoint = self.open(directory)?;
        let mut moments = Moments::new(parameters, &self.config.optimizer);
        checkpoint.read_moments(optimizer, parameters, &mut moments)?;
        let best = self.read_best(&checkpoint, name, parameters, state)?;
        checkpoint.read_parameters(name, parameters)?;
        Ok(State::of(parameters, &moments, best.as_ref()))
    }

    /// Parameters of the best validation, read into the place of others; nothing where there are none but those of the
    /// checkpoint's step.
    fn read_best(
        &self,
        checkpoint: &Checkpoint,
        name: &str,
        parameters: &Parameters,
        state: &TrainingState,
    ) -> Result<Option<Tensor>, TrainError> {
        let manifest = checkpoint.manifest();
        // Of a peer that was away at the best validation this is an older checkpoint: it has not changed since.
        if !self.has_best(state, manifest.step) || manifest.step < state.best_step {
            return Ok(None);
        }
        let beside = checkpoint::best_file(name);
        if manifest.state.best_step == state.best_step && manifest.names(&beside) {
            checkpoint.read_parameters(&beside, parameters)?;
            return Ok(Some(parameters.values().copy()));
        }
        // As earlier versions kept them: in the best step's own checkpoint, unless the peer was not there then.
        match checkpoint.sibling(state.best_step) {
            Ok(kept) if kept.manifest().names(name) => {
                kept.read_parameters(name, parameters)?;
                Ok(Some(parameters.values().copy()))
            }
            Ok(_) => Ok(None),
            // What the others go back to does not hang on a peer that came back.
            Err(error) if error.is_absent() && name != checkpoint::SHARED => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// A copy of a state that is not the same any more.
    pub(super) fn differing(&self, state: &State, noise: f64, peer: u32, step: u64) -> State {
        let mut random = stream(Purpose::CopyNoise, self.config.seed, u64::from(peer), step);
        let mut offset = 0;
        let parts: Vec<Tensor> = Encoder::specifications(&self.config.network)
            .iter()
            .map(|specification| {
                let part = state.values.narrow(0, offset, specification.len());
                offset += specification.len();
                let deviation = part.square().mean(Kind::Double).sqrt().double_value(&[]) * noise;
                let draws: Vec<f32> = (0..specification.len())
                    .map(|_| (Distribution::<f64>::sample(&StandardNormal, &mut random) * deviation) as f32)
                    .collect();
                part + Tensor::from_slice(&draws).to_device(self.device)
            })
            .collect();
        let values = Tensor::cat(&parts, 0);
        State { first: values.zeros_like(), second: values.zeros_like(), values, best: None }
    }
}
