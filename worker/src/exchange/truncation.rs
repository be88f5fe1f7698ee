//! Which rows every peer finds hardest: known only when everybody's cross-entropies are.

use super::Pass;
use crate::collective::CollectiveError;
use crate::loss;

/// Rows taken for noise, `[R]`, from the cross-entropies of this worker's peers on all rows: `[own, R]`.
pub fn from_own_peers(pass: &mut Pass<'_>, own: &[f32]) -> Result<Vec<bool>, CollectiveError> {
    let rows = pass.rows.targets.len();
    let by_peer = pass.all_gather_by_peer(own, rows)?;
    Ok(decide(pass, &by_peer))
}

/// The same from the cross-entropies of all peers on this worker's shard: `[T, shard]`.
pub fn from_own_shard(pass: &mut Pass<'_>, shard: &[f32]) -> Result<Vec<bool>, CollectiveError> {
    let rows = pass.rows.targets.len();
    let (peers, world) = (pass.exchange.placement.peers(), pass.exchange.placement.world_size());
    let ranges: Vec<_> = (0..world).map(|rank| pass.exchange.placement.shard(rows, rank)).collect();
    let mut received: Vec<Vec<f32>> = ranges.iter().map(|range| vec![0.0; peers * range.len()]).collect();
    let start = std::time::Instant::now();
    let mut parts: Vec<&mut [f32]> = received.iter_mut().map(Vec::as_mut_slice).collect();
    let result = pass.exchange.collective.all_gather(shard, &mut parts);
    pass.clock.exchange += start.elapsed();
    result?;
    let mut by_peer = vec![0.0; peers * rows];
    for (range, values) in ranges.iter().zip(&received) {
        for (peer, values) in values.chunks_exact(range.len().max(1)).enumerate() {
            by_peer[peer * rows + range.start..peer * rows + range.end].copy_from_slice(values);
        }
    }
    Ok(decide(pass, &by_peer))
}

/// `by_peer` is `[T, R]`.
fn decide(pass: &Pass<'_>, by_peer: &[f32]) -> Vec<bool> {
    let rows = pass.rows.targets.len();
    let Some(truncation) = &pass.rows.truncation else {
        return vec![false; rows];
    };
    let by_peer: Vec<f64> = by_peer.iter().copied().map(f64::from).collect();
    let by_peer: Vec<&[f64]> = by_peer.chunks_exact(rows.max(1)).collect();
    loss::truncated_rows(&by_peer, None, pass.rows.slots, truncation)
}
