//! The output head and the losses on it, in chunks of positions.
//!
//! `[tokens × vocabulary]` is by far the largest array of a training step. Here it never exists as a whole: each chunk
//! of positions gets its logits, its losses and its gradients at once, and only the gradients of hidden states and
//! head are kept. The body is then differentiated from those. Losses on hidden states go along in the same chunks.

use std::ops::Range;

use burn::tensor::Tensor;

use super::hidden::{CountedStreams, StreamGradients, StreamsPart};
use super::live_teacher::LiveHidden;
use super::losses::Losses;
use crate::backend::{Inner, TrainBackend};
use crate::loss::{LiveLogits, Positions, TeacherPositions};
use crate::model::logits;
use crate::weights::NamedGradients;

/// A loss's sum so far, `[1]`, and how many positions are in it.
pub type PartSum<B> = (Tensor<B, 1>, usize);

/// Gradients of what the losses read, and the sums of each loss.
pub struct HeadGradients<B: TrainBackend> {
    /// `[positions, hidden]`
    pub hidden: Tensor<Inner<B>, 2>,
    /// `[vocabulary, hidden]`; none where the head asks for no gradient.
    pub head: Option<Tensor<Inner<B>, 2>>,
    /// `[positions, hidden]` for each of the student's streams that losses compare.
    pub streams: Vec<Tensor<Inner<B>, 2>>,
    /// Of the learned maps between hidden states, by name.
    pub maps: NamedGradients<Inner<B>>,
    /// Sum (`[1]`) and number of positions of each loss, in the order of the losses; none without a position.
    pub sums: Vec<Option<PartSum<Inner<B>>>>,
}

/// All that head and losses read at counted positions.
pub struct HeadInput<'a, B: TrainBackend> {
    /// The student's normed hidden states, `[positions, hidden]`.
    pub hidden: Tensor<Inner<B>, 2>,
    /// Its head, `[vocabulary, hidden]`, on the tape where its gradient is wanted.
    pub head: Tensor<B, 2>,
    /// The token that follows each position.
    pub labels: &'a [u32],
    /// A teacher's stored distributions.
    pub teacher: TeacherPositions<'a>,
    /// Hidden states of a teacher, computed or stored, whose logits are computed chunk by chunk too.
    pub live: Option<&'a LiveHidden<Inner<B>>>,
    /// Hidden states that losses compare.
    pub streams: Option<CountedStreams<'a, B>>,
}

/// Runs head and losses over counted positions.
///
/// `divisor` is the number of counted positions of the whole step.
pub fn head_gradients<B: TrainBackend>(input: HeadInput<'_, B>, losses: &Losses<'_>, divisor: f64) -> HeadGradients<B> {
    in_chunks::<B>(input.chunk(losses), input, losses, divisor)
}

/// Numbers a chunk's logits may have, the student's or a teacher's: 64 MB in f32.
pub(super) const CHUNK_ELEMENTS: usize = 1 << 24;

impl<B: TrainBackend> HeadInput<'_, B> {
    /// Positions of a chunk: as many as fit the widest of the matrices that stand in it.
    pub(super) fn chunk(&self, losses: &Losses<'_>) -> usize {
        let streams = self.streams.as_ref().map_or(0, CountedStreams::width);
        let live = self.live.filter(|_| losses.read_distributions());
        let teacher = live.map_or(0, LiveHidden::vocabulary);
        (CHUNK_ELEMENTS / self.head.dims()[0].max(streams).max(teacher)).clamp(64, 8192)
    }

    /// Some of the positions, with logits of the student's head where a loss reads them; `input` and `head` are the
    /// student's hidden states there and its head.
    pub(super) fn positions(
        &self,
        places: Range<usize>,
        input: Tensor<B, 2>,
        head: Tensor<B, 2>,
        losses: &Losses<'_>,
    ) -> Positions<'_, B> {
        let logits = match losses.read_logits() {
            true => logits(input, head),
            false => Tensor::zeros([places.len(), 1], &input.device()),
        };
        let live = self.live.filter(|_| losses.read_distributions());
        let live = live.and_then(|live| live.logits(places.clone())).map(on_no_tape::<B>);
        Positions::new(logits, &self.labels[places.clone()], self.teacher.part(places)).beside(live)
    }
}

fn in_chunks<B: TrainBackend>(
    chunk: usize,
    input: HeadInput<'_, B>,
    losses: &Losses<'_>,
    divisor: f64,
) -> HeadGradients<B> {
    let HeadInput { hidden, head, streams, .. } = &input;
    let [positions, _] = hidden.dims();
    let mut hidden_parts = Vec::with_capacity(positions.div_ceil(chunk));
    let is_trained = head.is_require_grad();
    // Cast once for all chunks; its gradient is f32 nevertheless.
    let head = head.clone().inner().cast(hidden.dtype());
    let mut head_gradient: Option<Tensor<Inner<B>, 2>> = None;
    let mut of_streams = StreamGradients::new(streams.as_ref());
    let mut sums = vec![None; losses.len()];
    for start in (0..positions).step_by(chunk) {
        let places = start..(start + chunk).min(positions);
        let below = Tensor::<B, 2>::from_inner(hidden.clone().narrow(0, start, places.len())).require_grad();
        let weight = Tensor::<B, 2>::from_inner(head.clone()).set_require_grad(is_trained);
        let mut chunk = input.positions(places.clone(), below.clone(), weight.clone(), losses);
        let part = streams.as_ref().map(|streams| streams.part(places, true));
        let Some(loss) = weighted_sum(&mut chunk, part.as_ref(), losses, divisor, &mut sums) else {
            hidden_parts.push(below.inner().zeros_like());
            part.iter().for_each(|part| of_streams.skip(part));
            continue;
        };
        let mut gradients = loss.backward();
        hidden_parts.push(below.grad_remove(&mut gradients).unwrap_or_else(|| below.inner().zeros_like()));
        part.iter().for_each(|part| of_streams.add(part, &mut gradients));
        let part = weight.grad_remove(&mut gradients);
        head_gradient = match (head_gradient, part) {
            (Some(sum), Some(part)) => Some(sum + part),
            (sum, part) => sum.or(part),
        };
    }
    let (streams, maps) = of_streams.finish();
    HeadGradients {
        hidden: if hidden_parts.len() == 1 { hidden_parts.remove(0) } else { Tensor::cat(hidden_parts, 0) },
        head: is_trained.then(|| head_gradient.unwrap_or_else(|| Tensor::zeros(head.dims(), &head.device()))),
        streams,
        maps,
        sums,
    }
}

/// A teacher's logits beside tensors of the tape: nothing flows back into them.
fn on_no_tape<B: TrainBackend>(live: LiveLogits<Inner<B>>) -> LiveLogits<B> {
    let LiveLogits { logits, ours, theirs, places, same_tokens } = live;
    LiveLogits { logits: Tensor::from_inner(logits), ours, theirs, places, same_tokens }
}

fn weighted_sum<B: TrainBackend>(
    chunk: &mut Positions<'_, B>,
    streams: Option<&StreamsPart<B>>,
    losses: &Losses<'_>,
    divisor: f64,
    sums: &mut [Option<PartSum<Inner<B>>>],
) -> Option<Tensor<B, 1>> {
    let mut total: Option<Tensor<B, 1>> = None;
    for (loss, kept) in losses.iter().zip(sums) {
        chunk.hidden = streams.map(|streams| streams.pairs_of(loss.name)).unwrap_or_default();
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

    use super::super::compared_layers::ComparedLayers;
    use super::super::hidden::HiddenComparison;
    use super::*;
    use crate::backend::{Cpu, CpuTape};
    use crate::loss::{LOSSES, Reads, Teacher};
    use crate::model::read_config;

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

    /// Whatever of the last layers a loss compares, of models of widths 8 and 6.
    fn compared(losses: &Losses<'_>) -> HiddenComparison<Cpu> {
        let config = read_config("m", include_str!("../tests/golden/llama-gqa-tied/config.json")).unwrap().1;
        let wide = |hidden| crate::model::DecoderConfig { hidden, ..config.clone() };
        let layers = ComparedLayers::of(losses, &wide(8), Some(&wide(6))).unwrap();
        HiddenComparison::new(layers, 5, &Default::default())
    }

    #[test]
    fn chunks_change_nothing_but_rounding_whatever_the_loss() {
        let (hidden, head) = (some(POSITIONS, 8), some(VOCABULARY, 8));
        let beside = LiveHidden::new(some(POSITIONS, 6), some(VOCABULARY + 4, 6), VOCABULARY);
        let (stream, of_teacher) = (some(POSITIONS, 8), [some(POSITIONS, 6)]);
        let labels: Vec<u32> = (0..POSITIONS as u32).map(|place| place * 7 % 16).collect();
        let teacher = stored();
        for entry in LOSSES {
            let loss = (entry.decode)(&Node::from_json(&serde_json::json!({})), &mut Default::default()).unwrap();
            let losses = Losses::new([(entry.name, loss.as_ref())]);
            let comparison = compared(&losses);
            for live in [None, Some(&beside)] {
                if live.is_none() && matches!(loss.reads(), Reads::OtherTokens) {
                    continue;
                }
                let made = |chunk: usize| {
                    let compares = loss.reads().hidden_states().is_some();
                    let input = HeadInput {
                        hidden: hidden.clone(),
                        head: on_tape(head.clone()),
                        labels: &labels,
                        teacher: teacher.part(0..POSITIONS),
                        live,
                        streams: CountedStreams::new(
                            &comparison,
                            vec![stream.clone()],
                            compares.then_some(&of_teacher[..]),
                        ),
                    };
                    in_chunks::<CpuTape>(chunk, input, &losses, POSITIONS as f64)
                };
                let (whole, cut) = (made(64), made(3));
                let (Some((sum, count)), Some((cut_sum, cut_count))) = (&whole.sums[0], &cut.sums[0]) else {
                    panic!("{} has no sum", entry.name)
                };
                assert_eq!(count, cut_count, "{}", entry.name);
                let difference = (sum.clone() - cut_sum.clone()).abs().into_scalar();
                assert!(difference < 1e-4, "{}: {difference}", entry.name);
                let gradients = |made: HeadGradients<CpuTape>| {
                    let flat = |map: Tensor<Cpu, 1>| numbers(map.reshape([1, -1]));
                    let streams = made.streams.into_iter().map(numbers);
                    let maps = made.maps.into_values().map(flat);
                    [numbers(made.hidden), numbers(made.head.unwrap())]
                        .into_iter()
                        .chain(streams)
                        .chain(maps)
                        .collect::<Vec<_>>()
                };
                let (whole, cut) = (gradients(whole), gradients(cut));
                assert_eq!(whole.len(), if loss.reads().hidden_states().is_some() { 4 } else { 2 }, "{}", entry.name);
                for (whole, cut) in whole.iter().flatten().zip(cut.iter().flatten()) {
                    assert!((whole - cut).abs() < 1e-5, "{}: {whole} {cut}", entry.name);
                }
            }
        }
    }

    #[test]
    fn a_chunk_has_room_for_the_wider_vocabulary_that_is_looked_at() {
        let [few, many] = [4096, 1 << 17].map(|tokens| Tensor::<Cpu, 2>::zeros([tokens, 1], &Default::default()));
        let live = LiveHidden::new(Tensor::zeros([1, 1], &Default::default()), many, 4096);
        let chunk = |name: &str, live| {
            let entry = LOSSES.iter().find(|entry| entry.name == name).unwrap();
            let loss = (entry.decode)(&Node::from_json(&serde_json::json!({})), &mut Default::default()).unwrap();
            let input = HeadInput::<CpuTape> {
                hidden: Tensor::zeros([1, 1], &Default::default()),
                head: Tensor::from_inner(few.clone()),
                labels: &[0],
                teacher: TeacherPositions::none(),
                live,
                streams: None,
            };
            input.chunk(&Losses::new([(name, loss.as_ref())]))
        };
        assert_eq!(chunk("uld", None), 4096);
        assert_eq!(chunk("uld", Some(&live)), CHUNK_ELEMENTS >> 17);
        // Logits that nobody asks for are not computed.
        assert_eq!(chunk("cross-entropy", Some(&live)), 4096);
        assert_eq!(chunk("hidden-mse", Some(&live)), 4096);
    }

    #[test]
    fn positions_without_any_loss_get_the_gradient_nothing() {
        let hidden = Tensor::from_data(TensorData::new(vec![1.0f32; 12], [3, 4]), &Default::default());
        let loss = (LOSSES[1].decode)(&Node::from_json(&serde_json::json!({})), &mut Default::default()).unwrap();
        let losses = Losses::new([("forward-kl", loss.as_ref())]);
        let (head, teacher) = (on_tape(some(VOCABULARY, 4)), TeacherPositions::none());
        let input = HeadInput { hidden, head, labels: &[0, 1, 2], teacher, live: None, streams: None };
        let made = head_gradients::<CpuTape>(input, &losses, 3.0);
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
            let teacher = TeacherPositions::none();
            let input = HeadInput { hidden: hidden.clone(), head, labels: &labels, teacher, live: None, streams: None };
            in_chunks::<CpuTape>(3, input, &losses, POSITIONS as f64)
        };
        let (trained, frozen) = (made(on_tape(head.clone())), made(Tensor::from_inner(head.clone())));
        assert!(trained.head.is_some() && frozen.head.is_none());
        assert_eq!(numbers(trained.hidden), numbers(frozen.hidden));
    }
}
