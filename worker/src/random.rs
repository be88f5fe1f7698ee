//! Streams of random numbers that any process can reproduce.
//!
//! A stream is ChaCha with 8 rounds whose 256-bit key is four little-endian 64-bit numbers: what the stream is for
//! ([`Purpose`]), the job's seed, and two numbers that say which of its kind it is, such as an epoch and a sample.
//! No two (purpose, seed, a, b) share a key, so the streams need no further mixing. Numbers in a range are drawn
//! here and not by `rand`'s own distributions, whose algorithms change between its versions; the tests pin them.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// What a stream is for. The numbers are part of what makes a run repeatable: never reuse or change one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum Purpose {
    /// The order of samples in an epoch; a = epoch.
    EpochOrder = 1,
    /// Masks of a sample that are the same in every epoch; b = sample.
    FixedMasks = 2,
    /// Masks of a sample in one epoch; a = epoch, b = sample.
    RedrawnMasks = 3,
    /// Items and interests of synthetic data.
    SyntheticItems = 4,
    /// A user of synthetic data; b = user.
    SyntheticUser = 5,
    /// Candidates of an evaluation; a = protocol and split, b = user.
    Candidates = 6,
    /// Initial values of the shared parameters.
    SharedParameters = 7,
    /// Initial values of a peer's encoder; a = peer.
    PeerParameters = 8,
    /// Dropout on the embeddings, the same for all peers; b = step.
    EmbeddingDropout = 9,
    /// Dropout inside a peer's encoder; a = peer, b = step.
    EncoderDropout = 10,
    /// What makes a copied peer differ from the one it was copied from; a = peer, b = step.
    CopyNoise = 11,
    /// Batches of a benchmark; b = step.
    Benchmark = 100,
}

/// The stream of a purpose, a seed and two numbers.
pub fn stream(purpose: Purpose, seed: u64, a: u64, b: u64) -> ChaCha8Rng {
    let mut key = [0; 32];
    for (bytes, number) in key.chunks_exact_mut(8).zip([purpose as u64, seed, a, b]) {
        bytes.copy_from_slice(&number.to_le_bytes());
    }
    ChaCha8Rng::from_seed(key)
}

/// The first number of a stream, to seed a generator that is not ours.
pub fn seed_of(purpose: Purpose, seed: u64, a: u64, b: u64) -> u64 {
    stream(purpose, seed, a, b).next_u64()
}

/// A uniform number in 0..n, without bias (Lemire, ACM TOMACS 29(1), 2019).
///
/// # Panics
/// If `n` is 0.
pub fn below(rng: &mut impl RngCore, n: usize) -> usize {
    assert!(n > 0, "an empty range has no number");
    let n = n as u64;
    let mut product = u128::from(rng.next_u64()) * u128::from(n);
    if (product as u64) < n {
        let threshold = n.wrapping_neg() % n;
        while (product as u64) < threshold {
            product = u128::from(rng.next_u64()) * u128::from(n);
        }
    }
    (product >> 64) as usize
}

/// A uniform number in [0, 1) with 53 bits.
pub fn unit(rng: &mut impl RngCore) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
}

/// Fisher and Yates' shuffle of the first `count` places: they become a uniform draw, in uniform order, of all values.
pub fn shuffle_first<T>(values: &mut [T], count: usize, rng: &mut impl RngCore) {
    let length = values.len();
    for place in 0..count.min(length.saturating_sub(1)) {
        let other = place + below(rng, length - place);
        values.swap(place, other);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// These numbers must never change: runs in progress would not resume as they began.
    #[test]
    fn streams_are_what_they_always_were() {
        let mut rng = stream(Purpose::EpochOrder, 12_345, 6, 7);
        let raw = [rng.next_u64(), rng.next_u64()];
        let small: Vec<usize> = (0..8).map(|_| below(&mut rng, 10)).collect();
        let mut order: Vec<u32> = (0..8).collect();
        shuffle_first(&mut order, 8, &mut rng);
        assert_eq!(raw, [5_866_334_818_673_081_006, 9_901_267_893_767_624_770]);
        assert_eq!(small, [7, 6, 5, 9, 5, 5, 2, 3]);
        assert_eq!(order, [5, 0, 2, 3, 6, 1, 7, 4]);
    }

    #[test]
    fn every_part_of_the_key_matters() {
        let first = |purpose, seed, a, b| stream(purpose, seed, a, b).next_u64();
        let base = first(Purpose::EpochOrder, 1, 2, 3);
        assert_ne!(base, first(Purpose::FixedMasks, 1, 2, 3));
        assert_ne!(base, first(Purpose::EpochOrder, 2, 2, 3));
        assert_ne!(base, first(Purpose::EpochOrder, 1, 3, 3));
        assert_ne!(base, first(Purpose::EpochOrder, 1, 2, 4));
        assert_eq!(base, first(Purpose::EpochOrder, 1, 2, 3));
    }

    #[test]
    fn draws_are_uniform() {
        let mut rng = stream(Purpose::FixedMasks, 1, 0, 0);
        let mut counts = [0_usize; 7];
        let mut places = [0_usize; 5];
        for _ in 0..70_000 {
            counts[below(&mut rng, 7)] += 1;
            let mut values = [0, 1, 2, 3, 4];
            shuffle_first(&mut values, 2, &mut rng);
            places[values[1]] += 1;
        }
        assert!(counts.iter().all(|n| n.abs_diff(10_000) < 500), "{counts:?}");
        assert!(places.iter().all(|n| n.abs_diff(14_000) < 600), "{places:?}");
        let mean = (0..10_000).map(|_| unit(&mut rng)).sum::<f64>() / 10_000.0;
        assert!((mean - 0.5).abs() < 0.02, "{mean}");
    }
}
