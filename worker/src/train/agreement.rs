//! What all workers tell one another before a step is committed: norms, losses, wishes, and to the buddy the private
//! gradients of the hosted peers.

use super::TrainError;
use crate::exchange::{Exchange, Placement, floats};
use crate::loss::LossSums;
use std::ops::BitOr;
use tch::{Device, Tensor};

/// What a worker was asked to do after the step. All workers do what any of them was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wishes(u8);

impl Wishes {
    /// Nothing but the next step.
    pub const NONE: Self = Self(0);
    /// End the training with a checkpoint.
    pub const STOP: Self = Self(1);
    /// Leave the generation.
    pub const PAUSE: Self = Self(2);
    /// Leave the generation with a checkpoint.
    pub const PAUSE_WITH_CHECKPOINT: Self = Self(2 | 4);

    /// Whether all of `wishes` is asked for.
    pub fn contain(self, wishes: Self) -> bool {
        self.0 & wishes.0 == wishes.0
    }
}

impl BitOr for Wishes {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Numbers that report a peer's losses.
pub const LOSSES: usize = 5;

/// What one worker has to tell.
pub struct Share<'a> {
    /// Squared norm of the shared gradient.
    pub shared_norm: f64,
    /// Squared norms of the hosted peers' gradients.
    pub norms: &'a [f64],
    /// Sums over the rows that this worker worked on.
    pub losses: &'a LossSums,
    /// What it was asked.
    pub wishes: Wishes,
    /// Flat gradients of the hosted peers.
    pub private: &'a [Tensor],
}

/// What all workers know after a step.
pub struct Agreement {
    /// Squared, as rank 0 computed it.
    pub shared_norm: f64,
    /// Squared, by position.
    pub private_norms: Vec<f64>,
    /// Sums over the batch's rows, by position: total, cross-entropy, positive, negative, divergence.
    pub losses: Vec<[f64; LOSSES]>,
    /// Of any worker.
    pub wishes: Wishes,
    /// Gradients of the peers that this worker keeps copies of: by ward, and its peers in the order of the placement.
    pub copies: Vec<Tensor>,
}

/// One all-to-all: squared norms, loss sums and wishes to everybody, gradients to the buddy. The numbers are added up in
/// the order of ranks and peers, so that all workers hold the same bits. The shared gradient is everybody's, but unlike
/// processors may differ in the last bit of its norm: rank 0's counts.
///
/// # Errors
/// Those of the collective.
pub fn agree(exchange: &mut Exchange, share: &Share<'_>) -> Result<Agreement, TrainError> {
    let placement = exchange.placement().clone();
    let (rank, workers, peers) = (placement.rank(), placement.world_size(), placement.peers());
    let length = share.private.first().map_or(0, Tensor::numel);
    let numbers = split_numbers(&numbers(share));
    let with_gradients = placement.buddy(rank).map(|_| {
        let mut all = numbers.clone();
        all.extend(share.private.iter().flat_map(floats::to_vec));
        all
    });
    let part = |to| match &with_gradients {
        Some(all) if placement.buddy(rank) == Some(to) => all.as_slice(),
        _ => numbers.as_slice(),
    };
    let send: Vec<&[f32]> = (0..workers).map(part).collect();
    let common = 2 * (2 + LOSSES * peers);
    let lengths = |from: usize| {
        let hosted = placement.peers_of(from).len();
        let gradients = if placement.buddy(from) == Some(rank) { hosted * length } else { 0 };
        (common + 2 * hosted, gradients)
    };
    // Tensors, as the gradients among them are taken out without another copy.
    let empty = |from| Tensor::zeros([(lengths(from).0 + lengths(from).1) as i64], (tch::Kind::Float, Device::Cpu));
    let mut received: Vec<Tensor> = (0..workers).map(empty).collect();
    let mut parts: Vec<&mut [f32]> = received.iter_mut().map(floats::slice_mut).collect();
    exchange.collective().all_to_all(&send, &mut parts)?;

    let mut agreement = sum(&placement, &received, |from| lengths(from).0);
    let device = share.private.first().map_or(Device::Cpu, Tensor::device);
    for ward in placement.wards(rank) {
        let gradients = |place: usize| {
            received[ward].narrow(0, (lengths(ward).0 + place * length) as i64, length as i64).to_device(device)
        };
        agreement.copies.extend((0..placement.peers_of(ward).len()).map(gradients));
    }
    Ok(agreement)
}

fn numbers(share: &Share<'_>) -> Vec<f64> {
    let mut numbers = vec![f64::from(share.wishes.0), share.shared_norm];
    numbers.extend(share.losses.peers.iter().flat_map(|p| [p.total, p.ce, p.pos, p.neg, p.kl]));
    numbers.extend_from_slice(share.norms);
    numbers
}

fn sum(placement: &Placement, received: &[Tensor], length: impl Fn(usize) -> usize) -> Agreement {
    let peers = placement.peers();
    let mut all = Agreement {
        shared_norm: 0.0,
        private_norms: vec![0.0; peers],
        losses: vec![[0.0; LOSSES]; peers],
        wishes: Wishes::NONE,
        copies: Vec::new(),
    };
    for (rank, received) in received.iter().enumerate() {
        let numbers = join_numbers(&floats::slice(received)[..length(rank)]);
        all.wishes = all.wishes | Wishes(numbers[0] as u8);
        if rank == 0 {
            all.shared_norm = numbers[1];
        }
        let (losses, norms) = numbers[2..].split_at(LOSSES * peers);
        for (sum, part) in all.losses.iter_mut().zip(losses.chunks_exact(LOSSES)) {
            sum.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
        }
        for (position, norm) in placement.positions_of(rank).iter().zip(norms) {
            all.private_norms[*position] = *norm;
        }
    }
    all
}

/// Each number as a float and what the float leaves of it: 48 bits of precision over a wire of floats.
pub fn split_numbers(numbers: &[f64]) -> Vec<f32> {
    numbers
        .iter()
        .flat_map(|number| {
            let high = *number as f32;
            let rest = if high.is_finite() { (number - f64::from(high)) as f32 } else { 0.0 };
            [high, rest]
        })
        .collect()
}

/// The inverse of [`split_numbers`].
pub fn join_numbers(floats: &[f32]) -> Vec<f64> {
    floats.chunks_exact(2).map(|pair| f64::from(pair[0]) + f64::from(pair[1])).collect()
}
