//! What a worker holds of the training's state: in its learner, and beside it what takes no part at present.

use super::optimizer::Moments;
use super::step::{Copied, Learner};
use crate::exchange::floats;
use crate::model::Parameters;
use tch::{Device, Tensor};

/// Parameters and moments as flat vectors, each `[len]`.
#[derive(Debug)]
pub struct State {
    /// Parameters.
    pub values: Tensor,
    /// First moments.
    pub first: Tensor,
    /// Second moments.
    pub second: Tensor,
    /// Parameters at the best validation, where training may stop early and there was one before this step.
    pub best: Option<Tensor>,
}

impl State {
    /// The same memory as parameters and moments that are in use.
    pub fn of(parameters: &Parameters, moments: &Moments, best: Option<&Tensor>) -> Self {
        Self {
            values: parameters.values().shallow_clone(),
            first: moments.first.shallow_clone(),
            second: moments.second.shallow_clone(),
            best: best.map(Tensor::shallow_clone),
        }
    }

    /// Another handle of the same memory.
    pub fn handle(&self) -> Self {
        let Self { values, first, second, best } = self;
        let best = best.as_ref().map(Tensor::shallow_clone);
        Self { values: values.shallow_clone(), first: first.shallow_clone(), second: second.shallow_clone(), best }
    }

    /// Floats that a state of `length` parameters has on the wire.
    pub fn floats(length: usize, with_best: bool) -> usize {
        length * if with_best { 4 } else { 3 }
    }

    /// The state for the wire. One without a best validation of its own goes with the parameters that it has.
    pub fn to_floats(&self, with_best: bool) -> Vec<f32> {
        let best = with_best.then(|| self.best.as_ref().unwrap_or(&self.values));
        [Some(&self.values), Some(&self.first), Some(&self.second), best]
            .into_iter()
            .flatten()
            .flat_map(floats::to_vec)
            .collect()
    }

    /// The inverse of [`State::to_floats`].
    pub fn from_floats(floats: &[f32], with_best: bool, device: Device) -> Self {
        let length = floats.len() / Self::floats(1, with_best);
        let mut vectors = floats.chunks_exact(length.max(1)).map(|part| Tensor::from_slice(part).to_device(device));
        let mut next = || vectors.next().unwrap_or_else(|| Tensor::from_slice::<f32>(&[]).to_device(device));
        Self { values: next(), first: next(), second: next(), best: with_best.then(next) }
    }

    /// A checksum over parameters and moments.
    pub fn checksum(&self) -> u32 {
        let mut bytes = Vec::with_capacity(4 * CHECKED_AT_ONCE);
        [&self.values, &self.first, &self.second].into_iter().fold(0, |sum, vector| {
            floats::to_vec(vector).chunks(CHECKED_AT_ONCE).fold(sum, |sum, part| {
                bytes.clear();
                bytes.extend(part.iter().flat_map(|value| value.to_le_bytes()));
                crc32c::crc32c_append(sum, &bytes)
            })
        })
    }
}

/// Floats that become bytes at once for a checksum: a first-level cache holds them.
const CHECKED_AT_ONCE: usize = 4096;

/// A peer's state that a worker holds.
#[derive(Debug)]
pub struct Held {
    /// Whose.
    pub peer: u32,
    /// Steps that it has taken.
    pub step: u64,
    /// The state.
    pub state: State,
}

/// Parameters of the best validation, where training may stop early.
#[derive(Debug)]
pub struct Snapshot {
    /// Of the shared parameters.
    pub shared: Tensor,
    /// Of the hosted peers, in their order.
    pub encoders: Vec<Tensor>,
    /// Of the copies, in their order.
    pub copies: Vec<Tensor>,
}

impl Learner {
    /// The parameters as they are now.
    pub fn snapshot(&self) -> Snapshot {
        let copy = |parameters: &Parameters| parameters.values().copy();
        Snapshot {
            shared: copy(&self.network.shared.parameters),
            encoders: self.network.encoders.iter().map(|encoder| copy(&encoder.parameters)).collect(),
            copies: self.copies.iter().map(|kept| copy(&kept.parameters)).collect(),
        }
    }

    /// Puts a snapshot's values in the place of the hosted parameters.
    pub fn take(&self, snapshot: &Snapshot) {
        let _guard = tch::no_grad_guard();
        let network = &self.network;
        network.shared.parameters.values().shallow_clone().copy_(&snapshot.shared);
        for (encoder, values) in network.encoders.iter().zip(&snapshot.encoders) {
            encoder.parameters.values().shallow_clone().copy_(values);
        }
    }

    /// The shared state.
    pub fn shared_state(&self, best: Option<&Snapshot>) -> State {
        State::of(&self.network.shared.parameters, &self.shared_moments, best.map(|best| &best.shared))
    }

    /// The states of hosted peers and of copies, after `step` steps.
    pub fn held(&self, step: u64, best: Option<&Snapshot>) -> Vec<Held> {
        let network = &self.network;
        let hosted = network.peers.iter().zip(&network.encoders).zip(&self.peer_moments).enumerate();
        let hosted = hosted.map(|(place, ((peer, encoder), moments))| Held {
            peer: *peer,
            step,
            state: State::of(&encoder.parameters, moments, best.map(|best| &best.encoders[place])),
        });
        let copies = self.copies.iter().enumerate().map(|(place, Copied { peer, parameters, moments })| Held {
            peer: *peer,
            step,
            state: State::of(parameters, moments, best.map(|best| &best.copies[place])),
        });
        hosted.chain(copies).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn state(best: Option<[f32; 2]>) -> State {
        let of = |values: [f32; 2]| Tensor::from_slice(&values);
        State { values: of([1.0, 2.0]), first: of([3.0, 4.0]), second: of([5.0, 6.0]), best: best.map(of) }
    }

    #[test]
    fn states_come_back_from_the_wire() {
        let sent = state(Some([7.0, 8.0]));
        let floats = sent.to_floats(true);
        assert_eq!(floats, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
        let back = State::from_floats(&floats, true, Device::Cpu);
        assert_eq!((back.to_floats(true), back.checksum()), (floats, sent.checksum()));
        assert!(State::from_floats(&sent.to_floats(false), false, Device::Cpu).best.is_none());
        assert_eq!(state(None).to_floats(true)[6..], [1.0, 2.0], "without a best of its own: what it has");
    }

    #[test]
    fn every_value_of_a_state_is_in_its_checksum() {
        let checksum = state(None).checksum();
        for place in 0..6 {
            let mut floats = state(None).to_floats(false);
            floats[place] += 1.0;
            assert_ne!(State::from_floats(&floats, false, Device::Cpu).checksum(), checksum);
        }
    }
}
