//! The literal reading of the papers: every worker gets every peer's full distribution over every row. Kept as the
//! reference for the other modes, and to measure what they save.

use super::logits::{own_truncation, slice_of_rows, write_back};
use super::output_layer::Transformed;
use super::{Gradients, Pass, SHAPES, floats, kernel};
use crate::collective::CollectiveError;
use crate::loss::LossSums;
use tch::Tensor;

pub fn gradients(pass: &mut Pass<'_>, hidden: &[Tensor]) -> Result<Gradients, CollectiveError> {
    let transformed = pass.timed_loss(|pass| Transformed::of(pass.shared, &Tensor::stack(hidden, 0)));
    let truncated = own_truncation(pass, &transformed.rows)?;
    let (gradient, losses) = gather(pass, &transformed.rows, &truncated)?;
    let own = pass.timed_loss(|_| transformed.backward(&gradient)).unbind(0);
    Ok(Pass::finish(pass, own, losses, &truncated))
}

/// Chunk by chunk: probabilities to everybody, then the hosted peers' losses. Returns the gradient of their
/// transformed rows, `[own, R, d]`.
fn gather(
    pass: &mut Pass<'_>,
    transformed: &Tensor,
    truncated: &[bool],
) -> Result<(Tensor, LossSums), CollectiveError> {
    let _guard = tch::no_grad_guard();
    let placement = pass.exchange.placement.clone();
    let (rows, peers, catalogue) = (pass.rows.targets.len(), placement.peers(), pass.output.catalogue());
    let own = placement.own_positions().to_vec();
    let step = pass.output.chunk_rows();
    let gradient = transformed.zeros_like();
    let mut sums = LossSums::new(peers);
    for start in (0..rows).step_by(step) {
        let range = start..(start + step).min(rows);
        let (mut logits, mut mine) = pass.timed_loss(|pass| {
            let logits = pass.output.logits(&slice_of_rows(transformed, range.clone()));
            let logits = floats::to_vec(&logits);
            (logits.clone(), logits)
        });
        pass.timed_loss(|_| kernel().softmax(catalogue, &mut mine));
        let everyone = pass.all_gather_by_peer(&mine, range.len() * catalogue)?;
        pass.timed_loss(|pass| {
            let chunk = pass.chunk(range.clone(), truncated);
            kernel()
                .losses_and_gradients_for(&pass.rows.loss, &chunk, &own, &mut logits, &everyone, &mut sums)
                .expect(SHAPES);
            let shape = [(own.len() * range.len()) as i64, catalogue as i64];
            let logits = floats::to_tensor(&logits, &shape, transformed.device());
            write_back(pass, transformed, &gradient, range.clone(), &logits);
        });
    }
    Ok((gradient, sums))
}
