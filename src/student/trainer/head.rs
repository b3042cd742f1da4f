//! The output head and the losses on it, in chunks of positions.
//!
//! `[tokens × vocabulary]` is by far the largest array of a training step. Here it never exists as a whole: each chunk
//! of positions gets its logits, its losses and its gradients at once, and only the gradients of hidden states and
//! head are kept. The body is then differentiated from those.

use burn::tensor::Tensor;

use super::state::Losses;
use crate::backend::{Inner, TrainBackend};
use crate::loss::{Positions, TeacherPositions};

/// Numbers a chunk's logits may have: 64 MB in f32.
const CHUNK_ELEMENTS: usize = 1 << 24;

/// A loss's sum so far, `[1]`, and how many positions are in it.
pub(super) type PartSum<B> = (Tensor<B, 1>, usize);

/// Gradients of the head's input and weight, and the sums of each loss.
pub(super) struct HeadGradients<B: TrainBackend> {
    /// `[positions, hidden]`
    pub hidden: Tensor<Inner<B>, 2>,
    /// `[vocabulary, hidden]`
    pub head: Tensor<Inner<B>, 2>,
    /// Sum (`[1]`) and number of positions of each loss, in the order of the losses; none without a position.
    pub sums: Vec<Option<PartSum<Inner<B>>>>,
}

/// Runs head and losses over counted positions.
///
/// # Shapes
/// - hidden: `[positions, hidden]`
/// - head: `[vocabulary, hidden]`
///
/// `divisor` is the number of counted positions of the whole step.
pub(super) fn head_gradients<B: TrainBackend>(
    hidden: Tensor<Inner<B>, 2>,
    head: Tensor<Inner<B>, 2>,
    labels: &[u32],
    teacher: &TeacherPositions<'_>,
    losses: &Losses,
    divisor: f64,
) -> HeadGradients<B> {
    let [positions, _] = hidden.dims();
    let [vocabulary, _] = head.dims();
    let chunk = (CHUNK_ELEMENTS / vocabulary).clamp(64, 8192);
    let device = hidden.device();
    let mut hidden_parts = Vec::with_capacity(positions.div_ceil(chunk));
    let mut head_gradient: Option<Tensor<Inner<B>, 2>> = None;
    let mut sums = vec![None; losses.len()];
    for start in (0..positions).step_by(chunk) {
        let end = (start + chunk).min(positions);
        let input = Tensor::<B, 2>::from_inner(hidden.clone().narrow(0, start, end - start)).require_grad();
        let weight = Tensor::<B, 2>::from_inner(head.clone()).require_grad();
        let logits = B::projection(input.clone(), weight.clone());
        let chunk = Positions::new(logits, &labels[start..end], teacher.part(start..end));
        let mut gradients = match weighted_sum(&chunk, losses, divisor, &mut sums) {
            Some(loss) => loss.backward(),
            None => {
                hidden_parts.push(input.inner().zeros_like());
                continue;
            }
        };
        hidden_parts.push(input.grad_remove(&mut gradients).unwrap_or_else(|| input.inner().zeros_like()));
        let part = weight.grad_remove(&mut gradients);
        head_gradient = match (head_gradient, part) {
            (Some(sum), Some(part)) => Some(sum + part),
            (sum, part) => sum.or(part),
        };
    }
    HeadGradients {
        hidden: if hidden_parts.len() == 1 { hidden_parts.remove(0) } else { Tensor::cat(hidden_parts, 0) },
        head: head_gradient.unwrap_or_else(|| Tensor::zeros(head.dims(), &device)),
        sums,
    }
}

fn weighted_sum<B: TrainBackend>(
    chunk: &Positions<'_, B>,
    losses: &Losses,
    divisor: f64,
    sums: &mut [Option<PartSum<Inner<B>>>],
) -> Option<Tensor<B, 1>> {
    let mut total: Option<Tensor<B, 1>> = None;
    for (loss, kept) in losses.iter().zip(sums) {
        let part = B::loss_sum(loss.value, chunk);
        let Some(sum) = part.sum else { continue };
        let value = sum.clone().inner();
        *kept = Some(match kept.take() {
            Some((before, positions)) => (before + value, positions + part.positions),
            None => (value, part.positions),
        });
        let weighted = sum * (loss.weight / divisor);
        total = Some(match total {
            Some(total) => total + weighted,
            None => weighted,
        });
    }
    total
}
