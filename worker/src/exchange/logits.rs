//! Rows of logits out, their gradients back: what peers with prediction layers of their own would need.

use super::output_layer::{Transformed, on_slice};
use super::{Gradients, Pass, SHAPES, floats, kernel, truncation};
use crate::collective::CollectiveError;
use crate::loss::LossSums;
use std::ops::Range;
use tch::{Kind, Tensor};

pub fn gradients(pass: &mut Pass<'_>, hidden: &[Tensor]) -> Result<Gradients, CollectiveError> {
    let transformed = pass.timed_loss(|pass| Transformed::of(pass.shared, &Tensor::stack(hidden, 0)));
    let truncated = own_truncation(pass, &transformed.rows)?;
    let (gradient, losses) = rounds(pass, &transformed.rows, &truncated)?;
    let own = pass.timed_loss(|_| transformed.backward(&gradient)).unbind(0);
    Ok(Pass::finish(pass, own, losses, &truncated))
}

/// Truncated rows, from the cross-entropies that this worker's peers have on all rows; `transformed` is `[own, R, d]`.
pub fn own_truncation(pass: &mut Pass<'_>, transformed: &Tensor) -> Result<Vec<bool>, CollectiveError> {
    let rows = pass.rows.targets.len();
    if pass.rows.truncation.is_none() {
        return Ok(vec![false; rows]);
    }
    let entropies = pass.timed_loss(|pass| {
        let _guard = tch::no_grad_guard();
        let own = transformed.size()[0] as usize;
        let mut result = vec![0.0; own * rows];
        for start in (0..rows).step_by(pass.output.chunk_rows()) {
            let length = pass.output.chunk_rows().min(rows - start);
            let mut logits = pass.output.logits(&slice_of_rows(transformed, start..start + length));
            let entropies = on_slice(&mut logits, |logits| pass.cross_entropies(start..start + length, logits));
            for peer in 0..own {
                result[peer * rows + start..][..length].copy_from_slice(&entropies[peer * length..][..length]);
            }
        }
        result
    });
    truncation::from_own_peers(pass, &entropies)
}

/// Rows of all hosted peers: `[own * length, d]` of `[own, R, d]`.
pub fn slice_of_rows(transformed: &Tensor, range: Range<usize>) -> Tensor {
    let d = transformed.size()[2];
    transformed.narrow(1, range.start as i64, range.len() as i64).reshape([-1, d])
}

/// In every round each worker sends the logits of a few rows of every shard to the shard's owner, and gets their
/// gradients back. Returns the gradient of the hosted peers' transformed rows, `[own, R, d]`.
fn rounds(
    pass: &mut Pass<'_>,
    transformed: &Tensor,
    truncated: &[bool],
) -> Result<(Tensor, LossSums), CollectiveError> {
    let _guard = tch::no_grad_guard();
    let placement = pass.exchange.placement.clone();
    let (rows, peers, catalogue) = (pass.rows.targets.len(), placement.peers(), pass.output.catalogue());
    let own = placement.own().len();
    let step = pass.output.chunk_rows();
    let shards: Vec<Range<usize>> = (0..placement.world_size()).map(|rank| placement.shard(rows, rank)).collect();
    // Every worker counts the same rounds: those of the longest shard.
    let count = shards.iter().map(|shard| shard.len().div_ceil(step)).max().unwrap_or(0);
    let gradient = transformed.zeros_like();
    let mut sums = LossSums::new(peers);
    for round in 0..count {
        let part = |shard: &Range<usize>| {
            let start = (shard.start + round * step).min(shard.end);
            start..(start + step).min(shard.end)
        };
        let mine = part(&shards[placement.rank()]);
        let send: Vec<Vec<f32>> = pass.timed_loss(|pass| {
            let sends = shards.iter().map(|shard| match part(shard) {
                range if range.is_empty() => Vec::new(),
                range => floats::to_vec(&pass.output.logits(&slice_of_rows(transformed, range))),
            });
            sends.collect()
        });
        let mut received = placement.buffers(|_| mine.len() * catalogue);
        pass.all_to_all(&send, &mut received)?;
        let back = pass.timed_loss(|pass| {
            let mut logits = placement.by_peer(&received, mine.len() * catalogue);
            let chunk = pass.chunk(mine.clone(), truncated);
            kernel().losses_and_gradients(&pass.rows.loss, &chunk, &mut logits, &mut sums).expect(SHAPES);
            placement.by_rank(&logits, mine.len() * catalogue)
        });
        let mut returned: Vec<Vec<f32>> = send.iter().map(|sent| vec![0.0; sent.len()]).collect();
        pass.all_to_all(&back, &mut returned)?;
        pass.timed_loss(|pass| {
            for (shard, values) in shards.iter().zip(&returned) {
                let range = part(shard);
                if !range.is_empty() {
                    let shape = [(own * range.len()) as i64, catalogue as i64];
                    let values = floats::to_tensor(values, &shape, transformed.device()).to_kind(Kind::Float);
                    write_back(pass, transformed, &gradient, range, &values);
                }
            }
        });
    }
    Ok((gradient, sums))
}

/// Takes the gradient of a few rows' logits, `[own * length, V]`, back to `gradient`, `[own, R, d]`.
pub fn write_back(pass: &mut Pass<'_>, transformed: &Tensor, gradient: &Tensor, range: Range<usize>, logits: &Tensor) {
    let (own, d) = (transformed.size()[0], transformed.size()[2]);
    let back = pass.output.backward(&slice_of_rows(transformed, range.clone()), logits);
    gradient.narrow(1, range.start as i64, range.len() as i64).copy_(&back.view([own, range.len() as i64, d]));
}
