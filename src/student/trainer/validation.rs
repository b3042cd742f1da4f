//! Early stopping: the loss on held-out examples now and then, the best weights so far, and when to give up.
//!
//! Measuring changes nothing in the training. What was measured is part of the state, so that a resumed training knows
//! it; the patience is not, so that a training that waits longer goes on where a less patient one stopped.

use std::cell::RefCell;

use burn::tensor::Tensor;
use stillhouse_data::batch::{Batch, BatchPlan, Placement};
use stillhouse_data::example::ExampleReader;
use stillhouse_spec::Config;

use super::batch::select_counted;
use super::head::HeadInput;
use super::hidden::CountedStreams;
use super::losses::{LossPart, Losses, loss_parts, read_sums};
use super::source::{BatchSource, DatasetSource};
use super::state::State;
use crate::backend::TrainBackend;
use crate::error::{Result, StudentError};
use crate::loss::Teacher;
use crate::weights::NamedValues;

/// When a training ends before its last step. The student is what it was at its best measurement.
#[derive(Clone, Debug, PartialEq, Config)]
pub struct EarlyStop {
    /// So many measurements in a row without a better one end the training; 0 never does.
    #[config(default = 3)]
    pub patience: u64,
    /// Steps between measurements on the dataset's held-out part.
    #[config(default = 100, min = 1)]
    pub every: u64,
    /// What is measured: `loss`, the weighted sum, or one of the losses by name. Lower is better.
    #[config(default = "loss".to_owned())]
    pub metric: String,
}

/// Early stopping with the data it looks at.
pub struct Validation<'a> {
    /// When.
    pub rule: &'a EarlyStop,
    /// The held-out batches, in order.
    pub source: RefCell<&'a mut dyn BatchSource>,
    /// How many there are.
    pub batches: u64,
}

/// What was measured so far.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct History {
    /// Step and value of every measurement.
    pub measured: Vec<(u64, f64)>,
    /// The trained weights at the best one.
    pub best: Option<NamedValues>,
}

impl History {
    /// The best measurement: the first of the lowest values. One that is not a number is never best.
    pub fn best_measured(&self) -> Option<(u64, f64)> {
        let numbers = self.measured.iter().copied().filter(|(_, value)| !value.is_nan());
        numbers.reduce(|best, next| if next.1 < best.1 { next } else { best })
    }

    /// The step at which a training of this patience ends, if it has come.
    pub fn stops_at(&self, patience: u64) -> Option<u64> {
        let (mut best, mut waited) = (f64::INFINITY, 0);
        for (step, value) in &self.measured {
            (best, waited) = if *value < best { (*value, 0) } else { (best, waited + 1) };
            if patience > 0 && waited >= patience {
                return Some(*step);
            }
        }
        None
    }
}

impl Validation<'_> {
    /// Measures, where this step is one to measure at and was not yet; the value, and whether it is the best so far. Where
    /// that fails the state is what it was, and whoever goes on from it measures first.
    pub(super) fn after_step<B: TrainBackend>(
        &self,
        state: &mut State<B>,
        losses: &Losses<'_>,
        rows: impl Fn(&Batch) -> usize,
    ) -> Result<Option<Measured>> {
        if !self.is_due(state) {
            return Ok(None);
        }
        let parts = self.measure(state, losses, rows)?;
        let counted = parts.iter().map(|(_, counted)| *counted).sum::<usize>().max(1) as f64;
        let sums: Vec<(f64, usize)> = (0..losses.len())
            .map(|loss| parts.iter().fold((0.0, 0), |sum, (parts, _)| (sum.0 + parts[loss].0, sum.1 + parts[loss].1)))
            .collect();
        let loss = losses.iter().zip(&sums).map(|(loss, (sum, _))| loss.weight * sum).sum::<f64>() / counted;
        let parts = loss_parts(losses, &sums);
        let loss = losses.any_counted(&parts).then_some(loss);
        let value = match parts.iter().find(|part| part.name == self.rule.metric) {
            Some(part) => part.mean,
            None => loss,
        };
        let value = value.ok_or_else(|| self.measured_nothing(state.steps()))?;
        let before = state.history.best_measured().map_or(f64::INFINITY, |(_, value)| value);
        let is_best = value < before;
        if is_best {
            state.history.best = Some(state.result_values());
        }
        state.history.measured.push((state.steps(), value));
        Ok(Some(Measured { loss, parts, value, is_best }))
    }

    /// Whether this step is one to measure at and was not yet.
    pub(super) fn is_due<B: TrainBackend>(&self, state: &State<B>) -> bool {
        let measured = state.history.measured.last().is_some_and(|(step, _)| *step == state.steps());
        state.steps().is_multiple_of(self.rule.every) && !measured && state.steps() > 0
    }

    /// The error of a measurement without a position: 0 would be the best of all.
    fn measured_nothing(&self, step: u64) -> StudentError {
        let metric = &self.rule.metric;
        StudentError::training(
            format!(
                "after step {step} `early-stop` had nothing to measure: no held-out position counts for `{metric}`"
            ),
            "take another `early-stop.metric`, such as `cross-entropy`; a loss against a teacher counts where the teacher \
             says something of the held-out examples",
        )
    }

    /// Sums of every loss and the counted positions, a chunk each.
    fn measure<B: TrainBackend>(
        &self,
        state: &State<B>,
        losses: &Losses<'_>,
        rows: impl Fn(&Batch) -> usize,
    ) -> Result<Vec<ChunkSums>> {
        let decoder = state.result();
        let mut source = self.source.borrow_mut();
        let mut measured = Vec::new();
        for number in 0..self.batches {
            let step = source.step(number)?;
            for micro in step.micro_batches(rows(&step.batch)) {
                if micro.counted.is_empty() {
                    continue;
                }
                let (hidden, streams) =
                    decoder.hidden_and_streams(&micro.input, state.rotary(), state.hidden.of_student());
                let streams = streams.into_iter().map(|stream| select_counted(stream, &micro)).collect();
                let live = state.live(&micro)?;
                let of_teacher = live.as_ref().map(|live| live.streams.as_slice());
                let input = HeadInput::<B> {
                    hidden: select_counted(hidden, &micro),
                    head: Tensor::from_inner(decoder.head()),
                    labels: &micro.labels,
                    teacher: micro.teacher,
                    live: live.as_ref(),
                    streams: CountedStreams::new(&state.hidden, streams, of_teacher),
                };
                let [count, _] = input.hidden.dims();
                // In chunks, as in a training step, so that no array is larger than there.
                let chunk = input.chunk(losses);
                for start in (0..count).step_by(chunk) {
                    let places = start..(start + chunk).min(count);
                    // Nothing on the tape asks for a gradient, so nothing is recorded.
                    let some = Tensor::from_inner(input.hidden.clone().narrow(0, start, places.len()));
                    let head = input.head.clone();
                    let mut positions = input.positions(places.clone(), some, head, losses);
                    let part = input.streams.as_ref().map(|streams| streams.part(places.clone(), false));
                    let sums = losses.iter().map(|loss| {
                        positions.hidden = part.as_ref().map(|part| part.pairs_of(loss.name)).unwrap_or_default();
                        let part = B::loss_sum(loss.value, &positions);
                        part.sum.map(|sum| (sum.inner(), part.positions))
                    });
                    measured.push((read_sums(sums.collect()), places.len()));
                }
            }
        }
        Ok(measured)
    }
}

/// Sum and positions of every loss in a chunk, and how many positions were counted.
type ChunkSums = (Vec<(f64, usize)>, usize);

/// A measurement.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// Weighted sum of the losses over the held-out positions; none where no loss with a weight has a position.
    pub loss: Option<f64>,
    /// Each loss by itself.
    pub parts: Vec<LossPart>,
    /// What early stopping goes by.
    pub value: f64,
    /// Whether it is the best so far.
    pub is_best: bool,
}

/// The held-out part of a dataset, one pass over it.
pub struct HoldoutSource {
    examples: ExampleReader,
    plan: BatchPlan,
    batches: Vec<Vec<Placement>>,
    teacher: DatasetSource,
}

impl HoldoutSource {
    /// Examples in their own order; `teacher` finds signals for the same examples.
    pub fn new(examples: ExampleReader, plan: BatchPlan, teacher: DatasetSource) -> Self {
        let batches = plan.single_pass();
        Self { examples, plan, batches, teacher }
    }

    /// How many batches there are.
    pub fn batches(&self) -> u64 {
        self.batches.len() as u64
    }
}

impl BatchSource for HoldoutSource {
    fn batch(&mut self, number: u64) -> Result<Batch> {
        let placements = self.batches.get(number as usize).map_or(&[][..], Vec::as_slice);
        let get = |place| Ok(std::borrow::Cow::Owned(self.examples.get(place)?));
        Ok(Batch::build(self.plan.rows(), self.plan.length(), placements, get)?)
    }

    fn teacher(&mut self, batch: &Batch) -> Result<Teacher> {
        self.teacher.teacher(batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(values: &[f64]) -> History {
        History { measured: (1..).map(|step| step * 10).zip(values.iter().copied()).collect(), best: None }
    }

    #[test]
    fn patience_runs_out_after_so_many_measurements_without_a_better_one() {
        let measured = history(&[3.0, 2.0, 2.0, 2.5, 1.0, 1.5, f64::NAN, 4.0]);
        assert_eq!(measured.best_measured(), Some((50, 1.0)));
        assert_eq!(measured.stops_at(1), Some(30));
        assert_eq!(measured.stops_at(2), Some(40));
        assert_eq!(measured.stops_at(3), Some(80));
        assert_eq!(measured.stops_at(4), None);
        assert_eq!(measured.stops_at(0), None);
    }

    #[test]
    fn what_is_no_number_is_never_best() {
        assert_eq!(history(&[f64::NAN, 2.0]).best_measured(), Some((20, 2.0)));
        assert_eq!(history(&[f64::NAN]).best_measured(), None);
        assert_eq!(history(&[]).best_measured(), None);
    }
}
