//! Which rows every peer finds hardest: known only when everybody's cross-entropies are.
//!
//! A peer's hardest rows are found where it is hosted, and what workers tell one another is for how many of their peers a
//! row qualifies: one number a row, however many peers there are.

use super::Pass;
use crate::collective::CollectiveError;
use crate::loss;
use std::ops::Range;
use std::time::Instant;

/// Rows taken for noise, `[R]`, from the cross-entropies of all peers on this worker's shard: `[T, shard]`.
pub fn from_own_shard(pass: &mut Pass<'_>, shard: &[f32]) -> Result<Vec<bool>, CollectiveError> {
    let placement = pass.exchange.placement.clone();
    let (rows, own) = (pass.rows.targets.len(), placement.own().len());
    let ranges: Vec<Range<usize>> = (0..placement.world_size()).map(|rank| placement.shard(rows, rank)).collect();
    // To the peers, each where it lives.
    let send = placement.by_rank(shard, ranges[placement.rank()].len());
    let mut received: Vec<Vec<f32>> = ranges.iter().map(|range| vec![0.0; own * range.len()]).collect();
    pass.all_to_all(&send, &mut received)?;
    let mut by_peer = vec![0.0; own * rows];
    for (range, values) in ranges.iter().zip(&received) {
        for (peer, values) in values.chunks_exact(range.len().max(1)).enumerate() {
            by_peer[peer * rows + range.start..peer * rows + range.end].copy_from_slice(values);
        }
    }
    from_own_peers(pass, &by_peer)
}

/// The same from the cross-entropies of this worker's peers on all rows: `[own, R]`.
pub fn from_own_peers(pass: &mut Pass<'_>, own: &[f32]) -> Result<Vec<bool>, CollectiveError> {
    let (rows, peers) = (pass.rows.targets.len(), pass.exchange.placement.peers());
    let Some(truncation) = pass.rows.truncation.filter(|_| peers > 1) else {
        return Ok(vec![false; rows]);
    };
    let own: Vec<f64> = own.iter().copied().map(f64::from).collect();
    let own: Vec<&[f64]> = own.chunks_exact(rows.max(1)).collect();
    let counts = loss::count_hardest(&own, None, pass.rows.slots, &truncation);
    // Small whole numbers, whose sums are exact.
    let mut counts: Vec<f32> = counts.into_iter().map(|count| count as f32).collect();
    let start = Instant::now();
    let result = pass.exchange.collective.all_reduce_sum(&mut counts);
    pass.clock.exchange += start.elapsed();
    result?;
    Ok(counts.into_iter().map(|count| count as usize == peers).collect())
}
