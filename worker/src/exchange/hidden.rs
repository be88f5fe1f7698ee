//! Hidden rows out, their gradients back: each worker computes the losses of all peers on its shard of the rows.

use super::output_layer::{Transformed, on_slice};
use super::prediction::Prediction;
use super::{Gradients, Pass, SHAPES, floats, kernel, truncation};
use crate::collective::CollectiveError;
use crate::loss::LossSums;
use std::ops::Range;
use tch::Tensor;

pub fn gradients(pass: &mut Pass<'_>, hidden: &[Tensor]) -> Result<Gradients, CollectiveError> {
    let (rows, rank) = (pass.rows.targets.len(), pass.exchange.placement.rank());
    let shard = pass.exchange.placement.shard(rows, rank);
    let collected = collect(pass, hidden, &shard)?;
    if pass.exchange.fuses(hidden[0].device()) {
        return fused(pass, hidden, &floats::to_vec(&collected), &shard);
    }
    let transformed = pass.timed_loss(|pass| Transformed::of(pass.shared, &collected));
    let truncated = match pass.rows.truncation {
        Some(_) => {
            let entropies = pass.timed_loss(|pass| cross_entropies(pass, &transformed.rows, &shard));
            truncation::from_own_shard(pass, &entropies)?
        }
        None => vec![false; rows],
    };
    let (gradient, losses) = pass.timed_loss(|pass| {
        let (gradient, losses) = losses(pass, &transformed.rows, &shard, &truncated);
        (transformed.backward(&gradient), losses)
    });
    let own = send_back(pass, &gradient, hidden, &shard)?;
    Ok(Pass::finish(pass, own, losses, &truncated))
}

/// On the processor: [`Prediction`] does all of the shard's work on slices.
fn fused(
    pass: &mut Pass<'_>,
    hidden: &[Tensor],
    collected: &[f32],
    shard: &Range<usize>,
) -> Result<Gradients, CollectiveError> {
    let (rows, targets) = (pass.rows.targets.len(), &pass.rows.targets[shard.clone()]);
    let mut computed = pass.timed_loss(|pass| prediction(pass).compute(collected, targets));
    let truncated = match pass.rows.truncation {
        Some(_) => truncation::from_own_shard(pass, &computed.losses.cross_entropies())?,
        None => vec![false; rows],
    };
    let noise: Vec<usize> = shard.clone().filter(|row| truncated[*row]).map(|row| row - shard.start).collect();
    if !noise.is_empty() {
        pass.timed_loss(|pass| prediction(pass).truncate(&mut computed, collected, targets, &noise));
    }
    let shape = [pass.exchange.placement.peers() as i64, shard.len() as i64, hidden[0].size()[1]];
    let gradient = floats::to_tensor(&computed.hidden, &shape, hidden[0].device());
    let own = send_back(pass, &gradient, hidden, shard)?;
    let shared = pass.shared.from_prediction(&computed.parts);
    Ok(pass.collected(own, shared, computed.losses.sums(), &truncated))
}

fn prediction<'p>(pass: &'p Pass<'_>) -> Prediction<'p> {
    let scale = 1.0 / pass.rows.loss.denominator(pass.rows.targets.len() as f64);
    let (exchange, loss) = (&pass.exchange, pass.rows.loss);
    let (peers, chunk_rows) = (exchange.placement.peers(), exchange.chunk_rows);
    Prediction::new(pass.shared.prediction(), peers, chunk_rows, exchange.precision, loss, scale)
}

/// All peers' hidden rows of this worker's shard, `[T, shard, d]`.
fn collect(pass: &mut Pass<'_>, hidden: &[Tensor], shard: &Range<usize>) -> Result<Tensor, CollectiveError> {
    let placement = pass.exchange.placement.clone();
    let (rows, d) = (pass.rows.targets.len(), hidden[0].size()[1] as usize);
    let own = Tensor::stack(hidden, 0); // [own, R, d]
    let send: Vec<Vec<f32>> = (0..placement.world_size())
        .map(|rank| {
            let theirs = placement.shard(rows, rank);
            floats::to_vec(&own.narrow(1, theirs.start as i64, theirs.len() as i64))
        })
        .collect();
    let per_peer = shard.len() * d;
    let mut received = placement.buffers(|_| per_peer);
    pass.all_to_all(&send, &mut received)?;
    let shape = [placement.peers() as i64, shard.len() as i64, d as i64];
    Ok(floats::to_tensor(&placement.by_peer(&received, per_peer), &shape, own.device()))
}

/// Sends every peer the gradient of its hidden rows; returns the hosted peers' own, each `[R, d]`.
fn send_back(
    pass: &mut Pass<'_>,
    gradient: &Tensor,
    hidden: &[Tensor],
    shard: &Range<usize>,
) -> Result<Vec<Tensor>, CollectiveError> {
    let placement = pass.exchange.placement.clone();
    let (rows, d) = (pass.rows.targets.len(), hidden[0].size()[1] as usize);
    let send = placement.by_rank(&floats::to_vec(gradient), shard.len() * d);
    let own = placement.own().len();
    let shards: Vec<Range<usize>> = (0..placement.world_size()).map(|rank| placement.shard(rows, rank)).collect();
    let mut received: Vec<Vec<f32>> = shards.iter().map(|theirs| vec![0.0; own * theirs.len() * d]).collect();
    pass.all_to_all(&send, &mut received)?;
    let parts: Vec<Tensor> = shards
        .iter()
        .zip(&received)
        .map(|(theirs, values)| {
            floats::to_tensor(values, &[own as i64, theirs.len() as i64, d as i64], gradient.device())
        })
        .collect();
    Ok(Tensor::cat(&parts, 1).unbind(0))
}

/// Chunks of a shard: place in the shard, and length.
fn chunks(pass: &Pass<'_>, shard: &Range<usize>) -> impl Iterator<Item = (usize, usize)> + use<> {
    let (step, length) = (pass.output.chunk_rows(), shard.len());
    (0..length).step_by(step).map(move |start| (start, step.min(length - start)))
}

/// The transformed rows of a chunk for all peers: `[T * length, d]`.
fn chunk_rows(transformed: &Tensor, start: usize, length: usize) -> Tensor {
    let d = transformed.size()[2];
    transformed.narrow(1, start as i64, length as i64).reshape([-1, d])
}

/// Cross-entropies of all peers on the shard, `[T, shard]`.
fn cross_entropies(pass: &mut Pass<'_>, transformed: &Tensor, shard: &Range<usize>) -> Vec<f32> {
    let _guard = tch::no_grad_guard();
    let peers = pass.exchange.placement.peers();
    let mut result = vec![0.0; peers * shard.len()];
    for (start, length) in chunks(pass, shard) {
        let range = shard.start + start..shard.start + start + length;
        let mut logits = pass.output.logits(&chunk_rows(transformed, start, length));
        let entropies = on_slice(&mut logits, |logits| pass.cross_entropies(range, logits));
        for peer in 0..peers {
            result[peer * shard.len() + start..][..length].copy_from_slice(&entropies[peer * length..][..length]);
        }
    }
    result
}

/// Losses of all peers on the shard, and the gradient of their transformed rows, `[T, shard, d]`.
fn losses(pass: &mut Pass<'_>, transformed: &Tensor, shard: &Range<usize>, truncated: &[bool]) -> (Tensor, LossSums) {
    let _guard = tch::no_grad_guard();
    let peers = pass.exchange.placement.peers();
    let gradient = transformed.zeros_like();
    let mut sums = LossSums::new(peers);
    for (start, length) in chunks(pass, shard) {
        let range = shard.start + start..shard.start + start + length;
        let rows = chunk_rows(transformed, start, length);
        let mut logits = pass.output.logits(&rows);
        on_slice(&mut logits, |logits| {
            let chunk = pass.chunk(range, truncated);
            kernel().losses_and_gradients(&pass.rows.loss, &chunk, logits, &mut sums).expect(SHAPES);
        });
        let back = pass.output.backward(&rows, &logits);
        let shape = [peers as i64, length as i64, transformed.size()[2]];
        gradient.narrow(1, start as i64, length as i64).copy_(&back.view(shape));
    }
    (gradient, sums)
}
