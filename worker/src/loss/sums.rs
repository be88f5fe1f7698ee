//! What a pass over rows adds up.

use super::spec::LossSpec;

/// The components of a peer's loss. Depending on where it stands: of one row, sums over rows, or means.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PeerLosses {
    /// Cross-entropy, -log p_*.
    pub ce: f64,
    /// The positive term of [`LossSpec::Exclusivity`], before the factor 1 - alpha.
    pub pos: f64,
    /// The negative term of [`LossSpec::Exclusivity`], before the factor 1 - alpha.
    pub neg: f64,
    /// The divergence term of [`LossSpec::Mutual`], before its factor.
    pub kl: f64,
    /// The loss.
    pub total: f64,
}

impl PeerLosses {
    /// All components multiplied by a number.
    pub fn times(self, factor: f64) -> Self {
        let Self { ce, pos, neg, kl, total } = self;
        Self { ce: ce * factor, pos: pos * factor, neg: neg * factor, kl: kl * factor, total: total * factor }
    }

    fn add(&mut self, other: Self) {
        self.ce += other.ce;
        self.pos += other.pos;
        self.neg += other.neg;
        self.kl += other.kl;
        self.total += other.total;
    }
}

/// Weighted sums over rows, in `f64`, in the order of the rows whatever the chunks and threads.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LossSums {
    /// One entry a peer of the cohort. Peers that a call does not compute keep what they have.
    pub peers: Vec<PeerLosses>,
    /// Σ of the row weights.
    pub weight: f64,
    /// Rows of non-zero weight.
    pub rows: u64,
    /// Truncated rows among them.
    pub truncated_rows: u64,
    /// Rows of which some peers, but not all, give the target the largest probability: *implicitly hard*, where peers
    /// have something to teach one another.
    pub implicitly_hard_rows: u64,
}

/// What one row adds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct RowFlags {
    pub weight: f64,
    pub truncated: bool,
    pub implicitly_hard: bool,
}

impl LossSums {
    /// Nothing summed yet, for a cohort of `peers`.
    pub fn new(peers: usize) -> Self {
        Self { peers: vec![PeerLosses::default(); peers], ..Self::default() }
    }

    /// Adds the sums of other rows of the same cohort.
    pub fn merge(&mut self, other: &LossSums) {
        for (mine, theirs) in self.peers.iter_mut().zip(&other.peers) {
            mine.add(*theirs);
        }
        self.weight += other.weight;
        self.rows += other.rows;
        self.truncated_rows += other.truncated_rows;
        self.implicitly_hard_rows += other.implicitly_hard_rows;
    }

    /// The mean components of every peer; 0 without rows.
    pub fn means(&self, spec: &LossSpec) -> Vec<PeerLosses> {
        let denominator = spec.denominator(self.weight);
        let scale = if self.weight == 0.0 { 0.0 } else { 1.0 / denominator };
        self.peers.iter().map(|peer| peer.times(scale)).collect()
    }

    pub(super) fn add_row(&mut self, own: &[usize], losses: &[PeerLosses], flags: RowFlags) {
        if flags.weight == 0.0 {
            return;
        }
        for (&peer, losses) in own.iter().zip(losses) {
            self.peers[peer].add(losses.times(flags.weight));
        }
        self.weight += flags.weight;
        self.rows += 1;
        self.truncated_rows += u64::from(flags.truncated);
        self.implicitly_hard_rows += u64::from(flags.implicitly_hard);
    }
}

/// Losses of all peers, row by row.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RowLosses {
    peers: usize,
    /// `[rows, peers]`.
    losses: Vec<PeerLosses>,
    flags: Vec<RowFlags>,
}

impl RowLosses {
    /// No rows yet, of a cohort of `peers`.
    pub fn new(peers: usize) -> Self {
        Self { peers, ..Self::default() }
    }

    /// Adds the rows of another chunk.
    pub fn append(&mut self, mut other: RowLosses) {
        self.losses.append(&mut other.losses);
        self.flags.append(&mut other.flags);
    }

    /// Row `row` becomes row `from` of `other`.
    pub fn replace(&mut self, row: usize, other: &RowLosses, from: usize) {
        let peers = self.peers;
        self.losses[row * peers..(row + 1) * peers].copy_from_slice(&other.losses[from * peers..(from + 1) * peers]);
        self.flags[row] = other.flags[from];
    }

    /// Cross-entropies, `[peers, rows]`, as they cross the wire.
    pub fn cross_entropies(&self) -> Vec<f32> {
        let of = |peer| self.losses.iter().skip(peer).step_by(self.peers).map(|losses| losses.ce as f32);
        (0..self.peers).flat_map(of).collect()
    }

    /// Sums over all rows, in their order.
    pub fn sums(&self) -> LossSums {
        let mut sums = LossSums::new(self.peers);
        let peers: Vec<usize> = (0..self.peers).collect();
        for (losses, flags) in self.losses.chunks_exact(self.peers).zip(&self.flags) {
            sums.add_row(&peers, losses, *flags);
        }
        sums
    }

    pub(super) fn push(&mut self, losses: &[PeerLosses], flags: RowFlags) {
        self.losses.extend_from_slice(losses);
        self.flags.push(flags);
    }
}
