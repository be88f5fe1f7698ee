//! Sums of losses over rows.

/// Sums over rows for every peer.
#[derive(Debug, Clone, PartialEq)]
pub struct LossSums {
    /// By peer.
    pub peers: Vec<PeerSums>,
}

/// Sums of one peer's losses over rows, in nats.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct PeerSums {
    /// What is minimised.
    pub total: f64,
    /// Cross-entropy.
    pub cross_entropy: f64,
    /// Positive term (HAIL eq 6).
    pub positive: f64,
    /// Negative term (HAIL eq 7).
    pub negative: f64,
    /// Mean KL divergence from the other peers (PeerRec eq 5).
    pub divergence: f64,
}

impl LossSums {
    /// Zeros.
    pub fn new(peers: usize) -> Self {
        Self { peers: vec![PeerSums::default(); peers] }
    }

    /// Adds another part of the rows.
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.peers.iter_mut().zip(&other.peers) {
            mine.add(theirs);
        }
    }

    /// All sums in a row, five a peer, to send.
    pub fn to_numbers(&self) -> Vec<f64> {
        let numbers = |p: &PeerSums| [p.total, p.cross_entropy, p.positive, p.negative, p.divergence];
        self.peers.iter().flat_map(numbers).collect()
    }

    /// The inverse of [`LossSums::to_numbers`].
    pub fn from_numbers(numbers: &[f64], peers: usize) -> Self {
        let mut result = Self::new(peers);
        for (sums, n) in result.peers.iter_mut().zip(numbers.chunks_exact(5)) {
            *sums = PeerSums { total: n[0], cross_entropy: n[1], positive: n[2], negative: n[3], divergence: n[4] };
        }
        result
    }
}

impl PeerSums {
    pub(super) fn add(&mut self, other: &Self) {
        self.total += other.total;
        self.cross_entropy += other.cross_entropy;
        self.positive += other.positive;
        self.negative += other.negative;
        self.divergence += other.divergence;
    }
}
