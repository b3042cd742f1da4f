//! The output head and the losses on it, in chunks of positions.
//!
//! `[tokens × vocabulary]` is by far the largest array of a training step. Here it never exists as a whole: each chunk
//! of positions gets its logits, its losses and its gradients at once, and only the gradients of hidden states and
//! head are kept. The body is then differentiated from those.

use burn::tensor::Tensor;

use super::live_teacher::LiveHidden;
use super::state::Losses;
use crate::backend::{Inner, TrainBackend};
use crate::loss::{LiveLogits, Positions, TeacherPositions};
use crate::model::logits;

/// Numbers a chunk's logits may have: 64 MB in f32.
const CHUNK_ELEMENTS: usize = 1 << 24;

/// A loss's sum so far, `[1]`, and how many positions are in it.
pub type PartSum<B> = (Tensor<B, 1>, usize);

/// Gradients of the head's input and weight, and the sums of each loss.
pub struct HeadGradients<B: TrainBackend> {
    /// `[positions, hidden]`
    pub hidden: Tensor<Inner<B>, 2>,
    /// `[vocabulary, hidden]`; none where the head asks for no gradient.
    pub head: Option<Tensor<Inner<B>, 2>>,
    /// Sum (`[1]`) and number of positions of each loss, in the order of the losses; none without a position.
    pub sums: Vec<Option<PartSum<Inner<B>>>>,
}

/// Runs head and losses over counted positions.
///
/// # Shapes
/// - hidden: `[positions, hidden]`
/// - head: `[vocabulary, hidden]`, on the tape where its gradient is wanted
///
/// `divisor` is the number of counted positions of the whole step. A live teacher's logits are computed chunk by chunk
/// too.
pub fn head_gradients<B: TrainBackend>(
    hidden: Tensor<Inner<B>, 2>,
    head: Tensor<B, 2>,
    labels: &[u32],
    teacher: &TeacherPositions<'_>,
    live: Option<&LiveHidden<Inner<B>>>,
    losses: &Losses,
    divisor: f64,
) -> HeadGradients<B> {
    let [vocabulary, _] = head.dims();
    in_chunks::<B>(chunk_of(vocabulary), hidden, head, labels, teacher, live, losses, divisor)
}

/// Positions of a chunk over a vocabulary.
pub(super) fn chunk_of(vocabulary: usize) -> usize {
    (CHUNK_ELEMENTS / vocabulary).clamp(64, 8192)
}

#[expect(clippy::too_many_arguments, reason = "one more than the function above, which tests call with small chunks")]
fn in_chunks<B: TrainBackend>(
    chunk: usize,
    hidden: Tensor<Inner<B>, 2>,
    head: Tensor<B, 2>,
    labels: &[u32],
    teacher: &TeacherPositions<'_>,
    live: Option<&LiveHidden<Inner<B>>>,
    losses: &Losses,
    divisor: f64,
) -> HeadGradients<B> {
    let [positions, _] = hidden.dims();
    let device = hidden.device();
    let mut hidden_parts = Vec::with_capacity(positions.div_ceil(chunk));
    let is_trained = head.is_require_grad();
    // Cast once for all chunks; its gradient is f32 nevertheless.
    let head = head.inner().cast(hidden.dtype());
    let mut head_gradient: Option<Tensor<Inner<B>, 2>> = None;
    let mut sums = vec![None; losses.len()];
    for start in (0..positions).step_by(chunk) {
        let end = (start + chunk).min(positions);
        let input = Tensor::<B, 2>::from_inner(hidden.clone().narrow(0, start, end - start)).require_grad();
        let weight = Tensor::<B, 2>::from_inner(head.clone()).set_require_grad(is_trained);
        let logits = logits(input.clone(), weight.clone());
        let live = live.map(|live| on_no_tape::<B>(live.logits(start..end)));
        let chunk = Positions::new(logits, &labels[start..end], teacher.part(start..end)).beside(live);
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
        head: is_trained.then(|| head_gradient.unwrap_or_else(|| Tensor::zeros(head.dims(), &device))),
        sums,
    }
}

/// A teacher's logits beside tensors of the tape: nothing flows back into them.
pub(super) fn on_no_tape<B: TrainBackend>(live: LiveLogits<Inner<B>>) -> LiveLogits<B> {
    LiveLogits { logits: Tensor::from_inner(live.logits), shared: live.shared }
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

#[cfg(test)]
mod tests {
    use burn::tensor::{Distribution, TensorData};
    use stillhouse_data::signals::TopK;
    use stillhouse_spec::Node;

    use super::*;
    use crate::backend::{Cpu, CpuTape};
    use crate::loss::{LOSSES, Teacher};

    const POSITIONS: usize = 10;
    const VOCABULARY: usize = 16;

    fn some(rows: usize, columns: usize) -> Tensor<Cpu, 2> {
        Tensor::random([rows, columns], Distribution::Normal(0.0, 1.0), &Default::default())
    }

    fn stored() -> Teacher {
        let said = (0..POSITIONS as u32).map(|place| match place % 4 {
            3 => TopK::default(),
            _ => TopK { ids: vec![place % 16, (place + 5) % 16], log_probs: vec![0.7f32.ln(), 0.2f32.ln()] },
        });
        Teacher::new(said.collect()).with_draws([3; 32])
    }

    fn on_tape(tensor: Tensor<Cpu, 2>) -> Tensor<CpuTape, 2> {
        Tensor::from_inner(tensor).require_grad()
    }

    fn numbers(tensor: Tensor<Cpu, 2>) -> Vec<f32> {
        tensor.into_data().to_vec().unwrap()
    }

    #[test]
    fn chunks_change_nothing_but_rounding_whatever_the_loss() {
        let (hidden, head) = (some(POSITIONS, 8), some(VOCABULARY, 8));
        let beside = LiveHidden::new(some(POSITIONS, 6), some(VOCABULARY + 4, 6), VOCABULARY);
        let labels: Vec<u32> = (0..POSITIONS as u32).map(|place| place * 7 % 16).collect();
        let teacher = stored();
        for entry in LOSSES {
            let loss = (entry.decode)(&Node::from_json(&serde_json::json!({})), &mut Default::default()).unwrap();
            let losses = Losses::new([(entry.name, loss.as_ref())]);
            for live in [None, Some(&beside)] {
                let made = |chunk: usize| {
                    let teacher = teacher.part(0..POSITIONS);
                    let (hidden, head) = (hidden.clone(), on_tape(head.clone()));
                    in_chunks::<CpuTape>(chunk, hidden, head, &labels, &teacher, live, &losses, POSITIONS as f64)
                };
                let (whole, cut) = (made(64), made(3));
                let (Some((sum, count)), Some((cut_sum, cut_count))) = (&whole.sums[0], &cut.sums[0]) else {
                    panic!("{} has no sum", entry.name)
                };
                assert_eq!(count, cut_count, "{}", entry.name);
                let difference = (sum.clone() - cut_sum.clone()).abs().into_scalar();
                assert!(difference < 1e-4, "{}: {difference}", entry.name);
                for (whole, cut) in [(whole.hidden, cut.hidden), (whole.head.unwrap(), cut.head.unwrap())] {
                    for (whole, cut) in numbers(whole).iter().zip(numbers(cut)) {
                        assert!((whole - cut).abs() < 1e-5, "{}: {whole} {cut}", entry.name);
                    }
                }
            }
        }
    }

    #[test]
    fn positions_without_any_loss_get_the_gradient_nothing() {
        let hidden = Tensor::from_data(TensorData::new(vec![1.0f32; 12], [3, 4]), &Default::default());
        let loss = (LOSSES[1].decode)(&Node::from_json(&serde_json::json!({})), &mut Default::default()).unwrap();
        let losses = Losses::new([("forward-kl", loss.as_ref())]);
        let none = TeacherPositions::none();
        let head = on_tape(some(VOCABULARY, 4));
        let made = head_gradients::<CpuTape>(hidden, head, &[0, 1, 2], &none, None, &losses, 3.0);
        assert!(made.sums[0].is_none());
        assert!(numbers(made.hidden).into_iter().chain(numbers(made.head.unwrap())).all(|gradient| gradient == 0.0));
    }

    #[test]
    fn a_frozen_head_has_no_gradient_and_passes_on_the_same() {
        let (hidden, head) = (some(POSITIONS, 8), some(VOCABULARY, 8));
        let labels: Vec<u32> = (0..POSITIONS as u32).map(|place| place * 7 % 16).collect();
        let loss = (LOSSES[0].decode)(&Node::from_json(&serde_json::json!({})), &mut Default::default()).unwrap();
        let losses = Losses::new([(LOSSES[0].name, loss.as_ref())]);
        let made = |head| {
            let none = TeacherPositions::none();
            in_chunks::<CpuTape>(3, hidden.clone(), head, &labels, &none, None, &losses, POSITIONS as f64)
        };
        let (trained, frozen) = (made(on_tape(head.clone())), made(Tensor::from_inner(head.clone())));
        assert!(trained.head.is_some() && frozen.head.is_none());
        assert_eq!(numbers(trained.hidden), numbers(frozen.hidden));
    }
}
