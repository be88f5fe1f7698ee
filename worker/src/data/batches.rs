//! A batch as networks take it: sequences grouped by length, with a row for every position to predict.

use super::PADDING;

/// Sequences that are trained on, or evaluated, at once. Its rows are ordered by bucket, then by position.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Batch {
    /// Groups of sequences of similar length, short ones first.
    pub buckets: Vec<Bucket>,
    /// Positions to predict, in all buckets.
    pub rows: usize,
}

/// Sequences padded to one length. Position p of a sequence has position id p, counted from 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket {
    /// How many sequences there are.
    pub sequences: usize,
    /// Tokens of each, padding included.
    pub length: usize,
    /// `[sequences * length]` tokens, row-major, padded on the right.
    pub tokens: Vec<i64>,
    /// `[sequences]` tokens of each without padding.
    pub lengths: Vec<usize>,
    /// `[rows]` index into `tokens` of each position to predict, ascending.
    pub row_positions: Vec<i64>,
    /// `[rows]` item index (0..V) of what is to be predicted there.
    pub targets: Vec<i64>,
}

impl Batch {
    /// How many sequences there are.
    pub fn sequences(&self) -> usize {
        self.buckets.iter().map(|bucket| bucket.sequences).sum()
    }

    /// How many tokens a network computes, padding included.
    pub fn padded_tokens(&self) -> usize {
        self.buckets.iter().map(|bucket| bucket.tokens.len()).sum()
    }

    /// The item index of every row, in row order.
    pub fn targets(&self) -> impl Iterator<Item = i64> + '_ {
        self.buckets.iter().flat_map(|bucket| bucket.targets.iter().copied())
    }
}

/// One input sequence and what is to be predicted in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sample {
    /// Tokens without padding.
    pub tokens: Vec<i64>,
    /// Positions to predict, ascending, and the item index of each.
    pub rows: Vec<(usize, i64)>,
}

/// How sequences share buckets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Bucketing {
    /// At most [`MOST_BUCKETS`], with as little padding as that allows.
    #[default]
    ByLength,
    /// All in one, padded to the longest.
    Single,
}

/// Most buckets of a batch.
pub const MOST_BUCKETS: usize = 8;
/// Padding worth another bucket, in tokens: each one costs a pass through the network's layers.
const BUCKET_COST: usize = 256;
/// Lengths are told apart to one part in this many of the longest, which bounds the search for the best cuts.
const LENGTH_CLASSES: usize = 128;

/// The batch of some samples, and the place in `samples` of each of its sequences.
pub(crate) fn assemble(samples: &[Sample], bucketing: Bucketing) -> (Batch, Vec<usize>) {
    let mut order: Vec<usize> = (0..samples.len()).collect();
    order.sort_by_key(|&index| samples[index].tokens.len());
    let lengths: Vec<usize> = order.iter().map(|&index| samples[index].tokens.len()).collect();
    let ends = match bucketing {
        Bucketing::ByLength => cut(&lengths),
        Bucketing::Single => vec![lengths.len()],
    };
    let mut buckets = Vec::with_capacity(ends.len());
    let mut start = 0;
    for end in ends {
        buckets.push(fill(samples, &order[start..end]));
        start = end;
    }
    let rows = buckets.iter().map(|bucket: &Bucket| bucket.targets.len()).sum();
    (Batch { buckets, rows }, order)
}

fn fill(samples: &[Sample], chosen: &[usize]) -> Bucket {
    let lengths: Vec<usize> = chosen.iter().map(|&index| samples[index].tokens.len()).collect();
    let length = lengths.iter().copied().max().unwrap_or(0);
    let mut tokens = Vec::with_capacity(chosen.len() * length);
    let mut row_positions = Vec::new();
    let mut targets = Vec::new();
    for (place, &index) in chosen.iter().enumerate() {
        let sample = &samples[index];
        tokens.extend_from_slice(&sample.tokens);
        tokens.resize((place + 1) * length, PADDING);
        for &(position, target) in &sample.rows {
            row_positions.push((place * length + position) as i64);
            targets.push(target);
        }
    }
    Bucket { sequences: chosen.len(), length, tokens, lengths, row_positions, targets }
}

/// Where buckets end in ascending lengths, so that padded tokens plus [`BUCKET_COST`] a bucket are fewest.
fn cut(lengths: &[usize]) -> Vec<usize> {
    let classes = class_ends(lengths);
    // cost[k][c]: of the first c classes in exactly k buckets; from[k][c]: where the last of those begins.
    let c_most = classes.len() - 1;
    let unreachable = usize::MAX;
    let mut cost = vec![vec![unreachable; c_most + 1]; MOST_BUCKETS + 1];
    let mut from = vec![vec![0; c_most + 1]; MOST_BUCKETS + 1];
    cost[0][0] = 0;
    for k in 1..=MOST_BUCKETS {
        for c in 1..=c_most {
            let longest = lengths[classes[c] - 1];
            for b in 0..c {
                if cost[k - 1][b] == unreachable {
                    continue;
                }
                let with = cost[k - 1][b] + BUCKET_COST + longest * (classes[c] - classes[b]);
                if with < cost[k][c] {
                    cost[k][c] = with;
                    from[k][c] = b;
                }
            }
        }
    }
    let mut k = (0..=MOST_BUCKETS).min_by_key(|&k| cost[k][c_most]).unwrap_or(0);
    let mut c = c_most;
    let mut ends = Vec::with_capacity(k);
    while k > 0 {
        ends.push(classes[c]);
        c = from[k][c];
        k -= 1;
    }
    ends.reverse();
    ends
}

/// Places in ascending lengths at which a bucket may end, 0 among them.
fn class_ends(lengths: &[usize]) -> Vec<usize> {
    let quantum = lengths.last().map_or(1, |longest| longest.div_ceil(LENGTH_CLASSES)).max(1);
    let class = |place: usize| lengths[place].div_ceil(quantum);
    let mut ends = vec![0];
    ends.extend((1..lengths.len()).filter(|&place| class(place) != class(place - 1)));
    if !lengths.is_empty() {
        ends.push(lengths.len());
    }
    ends
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample(length: usize) -> Sample {
        Sample { tokens: (1..=length as i64).collect(), rows: vec![(length - 1, length as i64)] }
    }

    #[test]
    fn sequences_of_one_length_share_a_bucket_without_padding() {
        let samples = vec![sample(40); 64];
        let (batch, _) = assemble(&samples, Bucketing::ByLength);
        assert_eq!(batch.buckets.len(), 1);
        assert_eq!(batch.padded_tokens(), 64 * 40);
        assert_eq!(batch.sequences(), 64);
    }

    #[test]
    fn few_short_sequences_are_not_worth_a_bucket_but_many_are() {
        let few = [sample(3), sample(9), sample(12)];
        assert_eq!(assemble(&few, Bucketing::ByLength).0.buckets.len(), 1);
        let many: Vec<Sample> = (0..256).map(|n| sample(if n < 200 { 5 } else { 200 })).collect();
        let (batch, _) = assemble(&many, Bucketing::ByLength);
        assert_eq!(batch.padded_tokens(), 200 * 5 + 56 * 200);
    }

    #[test]
    fn spread_lengths_waste_little() {
        let samples: Vec<Sample> = (0..256).map(|n| sample(2 + (n * 67) % 199)).collect();
        let tokens: usize = samples.iter().map(|s| s.tokens.len()).sum();
        let (batch, _) = assemble(&samples, Bucketing::ByLength);
        let waste = batch.padded_tokens() as f64 / tokens as f64 - 1.0;
        assert!(waste < 0.13, "{waste}");
    }

    #[test]
    fn no_sequences_make_an_empty_batch() {
        assert_eq!(assemble(&[], Bucketing::ByLength).0, Batch::default());
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_order_names_every_sequence(
            lengths in prop::collection::vec(1_usize..400, 1..80)
        ) {
            let samples: Vec<Sample> = lengths.iter().map(|&length| sample(length)).collect();
            let (batch, order) = assemble(&samples, Bucketing::ByLength);
            prop_assert!(batch.buckets.len() <= MOST_BUCKETS);
            prop_assert_eq!(batch.rows, lengths.len());
            let ordered: Vec<usize> = order.iter().map(|&place| lengths[place]).collect();
            let in_buckets: Vec<usize> =
                batch.buckets.iter().flat_map(|bucket| bucket.lengths.clone()).collect();
            prop_assert_eq!(&ordered, &in_buckets);
            prop_assert!(batch.targets().eq(ordered.iter().map(|&length| length as i64)));
            let mut order = order;
            order.sort_unstable();
            prop_assert!(order.into_iter().eq(0..lengths.len()));
            for bucket in &batch.buckets {
                prop_assert_eq!(bucket.lengths.iter().max(), Some(&bucket.length));
            }
        }
    }
}
