//! A batch as the processor computes it: real tokens only, in blocks of whole sequences that a core's cache holds.

use crate::caches;
use crate::data::{Batch, Bucket};
use medley_common::config::NetworkConfig;
use std::ops::Range;

/// Values of a token within a layer that a block keeps in a core's second-level cache, in multiples of the width of hidden states
/// and of that of feed-forward sublayers. They fill it half or less, beside the layer's weights and their gradients: at d = 64
/// and 1 MiB a block has 256 tokens.
const HIDDEN_VALUES: usize = 8;
const INNER_VALUES: usize = 2;

/// Fewest tokens of a block: smaller products waste the processor's registers.
const LEAST_TOKENS: usize = 64;

/// The sequences of a batch, without padding.
#[derive(Debug, Default)]
pub struct Packed {
    /// Item table entries of all tokens, `[N]`, sequence after sequence.
    pub tokens: Vec<u32>,
    /// Whole sequences, in the order of the batch.
    pub blocks: Vec<Block>,
    /// Positions to predict in all of them, R.
    pub rows: usize,
}

/// Consecutive sequences.
#[derive(Debug)]
pub struct Block {
    /// Its tokens among those of the batch.
    pub tokens: Range<usize>,
    /// Its rows (positions to predict) among those of the batch.
    pub rows: Range<usize>,
    /// Its sequences.
    pub sequences: Vec<Sequence>,
    /// Where every token stands.
    pub token_places: Vec<Place>,
    /// Where every row stands.
    pub row_places: Vec<Place>,
}

/// A sequence of a block.
#[derive(Debug, Clone)]
pub struct Sequence {
    /// Its tokens among those of the block.
    pub tokens: Range<usize>,
    /// Its rows among those of the block.
    pub rows: Range<usize>,
}

/// A token of the batch.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// Its sequence's place in the batch.
    pub sequence: u32,
    /// Its position in the sequence.
    pub position: u32,
    /// Its place among the tokens of its block.
    pub in_block: u32,
}

impl Packed {
    /// Leaves the padding out and cuts blocks that suit this machine's caches.
    pub fn new(batch: &Batch, shape: &NetworkConfig) -> Self {
        let values = HIDDEN_VALUES * shape.dimension as usize + INNER_VALUES * shape.feed_forward as usize;
        Self::in_blocks(batch, (caches::second_level() / (4 * values)).max(LEAST_TOKENS))
    }

    /// The same, with at most so many tokens in a block, unless one sequence alone is longer.
    fn in_blocks(batch: &Batch, most: usize) -> Self {
        let mut packed = Self::default();
        let mut ordinal = 0;
        for bucket in &batch.buckets {
            let mut row = 0;
            for place in 0..bucket.sequences {
                packed.add(bucket, place, ordinal, &mut row, most);
                ordinal += 1;
            }
        }
        packed
    }

    /// Adds a sequence; `row` is the first of the bucket's rows that is not added yet.
    fn add(&mut self, bucket: &Bucket, place: usize, ordinal: u32, row: &mut usize, most: usize) {
        let (start, length) = (place * bucket.length, bucket.lengths[place]);
        let full = |block: &Block| block.tokens.len() + length > most;
        if self.blocks.last().is_none_or(full) {
            self.blocks.push(Block::empty(self.tokens.len(), self.rows));
        }
        let block = self.blocks.last_mut().expect("a block was just added where there was none");
        let tokens = &bucket.tokens[start..start + length];
        self.tokens.extend(tokens.iter().map(|token| *token as u32));

        let first = block.token_places.len();
        let at = |position: usize| Place {
            sequence: ordinal,
            position: position as u32,
            in_block: (first + position) as u32,
        };
        block.token_places.extend((0..length).map(at));
        let first_row = block.row_places.len();
        while let Some(position) = bucket.row_positions.get(*row).filter(|at| **at < (start + bucket.length) as i64) {
            block.row_places.push(at(*position as usize - start));
            *row += 1;
        }
        let rows = first_row..block.row_places.len();
        self.rows += rows.len();
        block.sequences.push(Sequence { tokens: first..first + length, rows });
        block.tokens.end = self.tokens.len();
        block.rows.end = self.rows;
    }

    /// A mutable vector of all tokens, `[N, d]`, cut where lanes that cover all blocks are.
    pub fn split<'v>(&self, lanes: &[Range<usize>], values: &'v mut [f32], d: usize) -> Vec<&'v mut [f32]> {
        let mut rest = values;
        let part = |lane: &Range<usize>| {
            let tokens = self.blocks[lane.end - 1].tokens.end - self.blocks[lane.start].tokens.start;
            let (part, after) = std::mem::take(&mut rest).split_at_mut(tokens * d);
            rest = after;
            part
        };
        lanes.iter().map(part).collect()
    }

    /// The blocks in runs of about equally many tokens, at most `count` of them.
    pub fn lanes(&self, count: usize) -> Vec<Range<usize>> {
        let total = self.tokens.len();
        let mut lanes = Vec::with_capacity(count);
        let mut start = 0;
        for lane in 1..=count {
            let goal = total * lane / count;
            let end = self.blocks.partition_point(|block| (block.tokens.start + block.tokens.end) / 2 < goal);
            let end = if lane == count { self.blocks.len() } else { end.max(start) };
            if end > start {
                lanes.push(start..end);
            }
            start = end;
        }
        lanes
    }
}

impl Block {
    fn empty(token: usize, row: usize) -> Self {
        Self {
            tokens: token..token,
            rows: row..row,
            sequences: Vec::new(),
            token_places: Vec::new(),
            row_places: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(length: usize, lengths: &[usize], rows: &[(usize, usize)]) -> Bucket {
        let mut tokens = vec![0; length * lengths.len()];
        for (place, real) in lengths.iter().enumerate() {
            (0..*real).for_each(|position| tokens[place * length + position] = (100 * place + position + 1) as i64);
        }
        Bucket {
            sequences: lengths.len(),
            length,
            tokens,
            lengths: lengths.to_vec(),
            row_positions: rows.iter().map(|(place, position)| (place * length + position) as i64).collect(),
            targets: vec![0; rows.len()],
        }
    }

    #[test]
    fn padding_is_left_out_and_rows_keep_their_order() {
        let first = bucket(3, &[2, 3], &[(0, 1), (1, 0), (1, 2)]);
        let second = bucket(5, &[5], &[(0, 4)]);
        let packed = Packed::in_blocks(&Batch { buckets: vec![first, second], rows: 4 }, 256);
        assert_eq!(packed.tokens, [1, 2, 101, 102, 103, 1, 2, 3, 4, 5]);
        assert_eq!((packed.rows, packed.blocks.len()), (4, 1));
        let block = &packed.blocks[0];
        let places: Vec<(u32, u32, u32)> =
            block.row_places.iter().map(|place| (place.sequence, place.position, place.in_block)).collect();
        assert_eq!(places, [(0, 1, 1), (1, 0, 2), (1, 2, 4), (2, 4, 9)]);
        let sequences: Vec<_> = block.sequences.iter().map(|s| (s.tokens.clone(), s.rows.clone())).collect();
        assert_eq!(sequences, [(0..2, 0..1), (2..5, 1..3), (5..10, 3..4)]);
    }

    #[test]
    fn blocks_are_bounded_and_lanes_share_them_out() {
        let lengths = [100; 11];
        let rows: Vec<(usize, usize)> = (0..11).map(|place| (place, 99)).collect();
        let packed = Packed::in_blocks(&Batch { buckets: vec![bucket(100, &lengths, &rows)], rows: 11 }, 256);
        assert_eq!(
            packed.blocks.iter().map(|block| block.tokens.len()).collect::<Vec<_>>(),
            [200, 200, 200, 200, 200, 100]
        );
        assert_eq!(packed.blocks[5].rows, 10..11);
        assert_eq!(packed.lanes(2), [0..3, 3..6]);
        assert_eq!(packed.lanes(1), vec![0..6]);
        let many = packed.lanes(20);
        assert_eq!(many.iter().map(Range::len).sum::<usize>(), 6);
        let mut values = vec![0.0; 1100 * 2];
        let parts = packed.split(&packed.lanes(2), &mut values, 2);
        assert_eq!(parts.iter().map(|part| part.len()).collect::<Vec<_>>(), [1200, 1000]);
        assert!(Packed::default().lanes(3).is_empty());
    }

    #[test]
    fn a_long_sequence_has_a_block_of_its_own() {
        let packed =
            Packed::in_blocks(&Batch { buckets: vec![bucket(900, &[900, 3], &[(0, 899), (1, 2)])], rows: 2 }, 256);
        assert_eq!(packed.blocks.iter().map(|block| block.tokens.clone()).collect::<Vec<_>>(), [0..900, 900..903]);
    }
}
