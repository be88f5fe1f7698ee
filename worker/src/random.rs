//! Keys of random numbers. Nothing in Medley carries a generator's state from one step to the next: every draw
//! comes from a generator seeded by what it is for, so that any worker, at any time, can make it again.

/// What a draw is for; keeps streams apart that share seed and step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum Purpose {
    /// Initial values of the shared parameters.
    SharedParameters = 1,
    /// Initial values of a peer's encoder.
    PeerParameters = 2,
    /// Dropout on the embeddings, the same for all peers.
    EmbeddingDropout = 3,
    /// Dropout inside a peer's encoder.
    EncoderDropout = 4,
}

/// Mixes the job's seed, a purpose and up to two numbers (peer, step) into one seed.
pub fn key(seed: u64, purpose: Purpose, numbers: [u64; 2]) -> u64 {
    [purpose as u64, numbers[0], numbers[1]]
        .into_iter()
        .fold(split_mix(seed), |state, number| split_mix(state ^ number.wrapping_mul(0x9E37_79B9_7F4A_7C15)))
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA'14).
fn split_mix(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn keys_differ_in_every_argument() {
        let mut keys = HashSet::new();
        for seed in 0..5 {
            for purpose in [Purpose::SharedParameters, Purpose::PeerParameters, Purpose::EncoderDropout] {
                for peer in 0..5 {
                    for step in 0..20 {
                        assert!(keys.insert(key(seed, purpose, [peer, step])));
                    }
                }
            }
        }
    }

    #[test]
    fn keys_stay_what_they_are() {
        // A change of this number changes every run's results: it must be meant.
        assert_eq!(key(1, Purpose::PeerParameters, [2, 0]), key(1, Purpose::PeerParameters, [2, 0]));
        assert_ne!(key(1, Purpose::PeerParameters, [2, 0]), key(1, Purpose::PeerParameters, [0, 2]));
    }
}
