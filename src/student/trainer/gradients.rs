//! A step's gradients: forward and backward, part after part.

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use super::batch::{MicroBatch, StepBatch, select_counted};
use super::head::{HeadInput, head_gradients};
use super::hidden::CountedStreams;
use super::losses::{LossPart, Losses, loss_parts, read_sums};
use super::segments::{Segments, seeded_backward, seeded_gradient};
use super::state::State;
use crate::backend::{Inner, TrainBackend};
use crate::error::Result;
use crate::weights::{NamedGradients, take_gradients};

/// Gradients of a part of a step, and each loss's sum and number of positions in it.
type PartGradients<B> = (NamedGradients<Inner<B>>, Vec<(f64, usize)>);

impl<B: TrainBackend> State<B> {
    /// Gradients of the whole step and the mean of every loss.
    pub(super) fn gradients(
        &self,
        batch: &StepBatch,
        losses: &Losses<'_>,
        divisor: f64,
        micro_rows: usize,
    ) -> Result<(NamedGradients<Inner<B>>, Vec<LossPart>)> {
        let mut total: Option<NamedGradients<Inner<B>>> = None;
        let mut sums = vec![(0.0, 0); losses.len()];
        for micro in batch.micro_batches(micro_rows) {
            if micro.counted.is_empty() {
                continue;
            }
            let (gradients, micro_sums) = self.micro_gradients(&micro, losses, divisor)?;
            total = Some(match total {
                None => gradients,
                Some(total) => add(total, gradients),
            });
            for (sum, micro_sum) in sums.iter_mut().zip(micro_sums) {
                *sum = (sum.0 + micro_sum.0, sum.1 + micro_sum.1);
            }
        }
        Ok((total.unwrap_or_default(), loss_parts(losses, &sums)))
    }

    fn micro_gradients(&self, micro: &MicroBatch<'_>, losses: &Losses<'_>, divisor: f64) -> Result<PartGradients<B>> {
        let after = self.hidden.of_student();
        let segments = self.segmented.then(|| Segments::forward(&self.decoder, &micro.input, &self.rotary));
        let on_tape = |tensor| Tensor::<B, 2>::from_inner(tensor).require_grad();
        let last = segments.as_ref().map(|segments| on_tape(segments.last()));
        let (hidden, streams) = match (&segments, &last) {
            (Some(segments), Some(last)) => {
                let streams = segments.streams(after).into_iter().map(on_tape);
                (self.decoder.last_norm().forward(last.clone()), streams.collect())
            }
            _ => self.decoder.hidden_and_streams(&micro.input, &self.rotary, after),
        };
        let counted = select_counted(hidden, micro);
        let counted_streams: Vec<_> = streams.iter().map(|stream| select_counted(stream.clone(), micro)).collect();
        let live = self.live(micro)?;
        let head_part = head_gradients::<B>(
            HeadInput {
                hidden: counted.clone().inner(),
                head: self.decoder.head(),
                labels: &micro.labels,
                teacher: micro.teacher,
                live: live.as_ref(),
                streams: CountedStreams::<B>::new(
                    &self.hidden,
                    counted_streams.iter().map(|stream| stream.clone().inner()).collect(),
                    live.as_ref().map(|live| live.streams.as_slice()),
                ),
            },
            losses,
            divisor,
        );
        let of_streams = counted_streams.into_iter().zip(head_part.streams);
        let mut gradients = match (segments, last) {
            // Without anything on the tape there is nothing to go back through.
            _ if self.trained.iter().all(|name| name == HEAD) => NamedGradients::new(),
            (Some(segments), Some(last)) => {
                let norm = self.decoder.last_norm();
                let (of_norm, of_last) = seeded_backward(norm, counted, head_part.hidden, &last);
                let beside =
                    after.iter().zip(&streams).zip(of_streams).map(|((layers, stream), (counted, gradient))| {
                        (*layers, seeded_gradient(counted, gradient, stream))
                    });
                let mut gradients = segments.backward(of_last, beside.collect(), &self.trained);
                gradients.extend(of_norm.into_iter().map(|(name, part)| (format!("model.norm.{name}"), part)));
                // In the order of the model's fields, as in one pass. What follows moves some to the end, in both ways the
                // same: the gradient's norm adds them up in the order of the map, and rounds by it.
                self.shapes.keys().filter_map(|name| Some((name.clone(), gradients.swap_remove(name)?))).collect()
            }
            _ => {
                // Seeds the body's backward pass with the head's gradient: d(Σ h·g)/dh = g.
                let seeded = (counted * Tensor::from_inner(head_part.hidden)).sum();
                let seeded = of_streams.fold(seeded, |seeded, (counted, gradient)| {
                    seeded + (counted * Tensor::from_inner(gradient)).sum()
                });
                take_gradients(&self.decoder, seeded.backward())
            }
        };
        let name = if self.tied { "model.embed_tokens.weight" } else { HEAD };
        if let Some(head_gradient) = head_part.head {
            let elements = head_gradient.shape().num_elements();
            let head_gradient = head_gradient.reshape([elements]);
            let head_gradient = match gradients.swap_remove(name) {
                Some(of_body) => of_body + head_gradient,
                None => head_gradient,
            };
            gradients.insert(name.to_owned(), head_gradient);
        }
        let mut gradients = match &self.adapters {
            Some(adapters) => adapters.gradients(gradients),
            None => gradients,
        };
        gradients.extend(head_part.maps);
        Ok((gradients, read_sums(head_part.sums)))
    }
}

/// The head's weight where it is not the embedding.
const HEAD: &str = "lm_head.weight";

fn add<B: Backend>(mut total: NamedGradients<B>, other: NamedGradients<B>) -> NamedGradients<B> {
    for (name, gradient) in other {
        let sum = match total.swap_remove(&name) {
            Some(before) => before + gradient,
            None => gradient,
        };
        total.insert(name, sum);
    }
    total
}
