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
#[derive(Clone, Copy, Debug, Default)]
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
