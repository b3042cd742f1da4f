//! A student in training: weights, optimizer state, and the step from one to the next.

use std::collections::{BTreeMap, BTreeSet};

use burn::module::AutodiffModule;
use burn::tensor::Tensor;

use super::adapters::{Adapters, Lora, targets, to_device};
use super::average::Average;
use super::batch::{MicroBatch, StepBatch, select_counted};
use super::checkpoint::Checkpoint;
use super::compared_layers::ComparedLayers;
use super::head::{HeadInput, PartSum, head_gradients};
use super::hidden::{CountedStreams, HiddenComparison};
use super::live_teacher::{LiveHidden, LiveTeacher};
use super::on_policy::Rollout;
use super::parameters::{Shapes, flat_weights, on_tape, shapes, trained};
use super::segments::{Segments, seeded_backward, seeded_gradient};
use super::trained::check_shapes;
use super::validation::History;
use crate::backend::{Device, Inner, TrainBackend};
use crate::error::{Result, StudentError};
use crate::loss::{Loss, Weight};
use crate::model::{Decoder, DecoderConfig, RotaryTable};
use crate::optimizer::{OptimizerState, OptimizerStep, Parameter, UpdateRule, clip_factor, global_norm};
use crate::precision::Precision;
use crate::weights::{NamedGradients, take_gradients};

/// The losses of a step with their weights, by name.
pub struct Losses<'a>(Vec<WeightedLoss<'a>>);

/// One of them.
pub struct WeightedLoss<'a> {
    /// Its name in the file.
    pub name: &'a str,
    /// Its factor at this step.
    pub weight: f64,
    /// Its factor at any step.
    pub weights: Weight,
    /// What it computes.
    pub value: &'a dyn Loss,
}

impl<'a> Losses<'a> {
    /// Losses with the weights that they have themselves, at the first step.
    pub fn new(losses: impl IntoIterator<Item = (&'a str, &'a dyn Loss)>) -> Self {
        let weighted = |(name, value): (&'a str, &'a dyn Loss)| {
            let weights = value.weight();
            WeightedLoss { name, weight: weights.at(0), weights, value }
        };
        Self(losses.into_iter().map(weighted).collect())
    }

    /// The same losses with the weights of a step, counted from 0.
    #[must_use]
    pub fn at(&self, step: u64) -> Self {
        Self(self.iter().map(|loss| WeightedLoss { weight: loss.weights.at(step), ..*loss }).collect())
    }

    /// In the order they were given.
    pub fn iter(&self) -> impl Iterator<Item = &WeightedLoss<'a>> {
        self.0.iter()
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether any of them needs a teacher at some step.
    pub fn need_teacher(&self) -> bool {
        self.iter().any(|loss| loss.value.needs_teacher() && !loss.weights.is_zero())
    }

    /// Whether any of them needs a teacher's distributions at some step.
    pub fn need_distributions(&self) -> bool {
        self.iter().any(|loss| loss.reads_distributions() && !loss.weights.is_zero())
    }

    /// The first of them that would read draws from a teacher's distribution and can't learn from them, with the reason.
    pub fn refuse_draws(&self) -> Option<(&'a str, String)> {
        let mut read = self.iter().filter(|loss| loss.reads_distributions());
        read.find_map(|loss| Some((loss.name, loss.value.refuses_draws()?)))
    }

    /// Whether any of them looks at a teacher's distributions, be it only to report itself.
    pub(super) fn read_distributions(&self) -> bool {
        self.iter().any(WeightedLoss::reads_distributions)
    }

    /// Whether any of them looks at the student's logits.
    pub(super) fn read_logits(&self) -> bool {
        self.iter().any(|loss| loss.value.hidden().is_none())
    }
}

impl WeightedLoss<'_> {
    fn reads_distributions(&self) -> bool {
        self.value.needs_teacher() && self.value.hidden().is_none()
    }
}

/// What a step reports.
#[derive(Debug, Clone, PartialEq)]
pub struct StepReport {
    /// The step, from 1.
    pub step: u64,
    /// Weighted sum of the losses, each divided by the step's counted positions.
    pub loss: f64,
    /// Each loss by itself.
    pub parts: Vec<LossPart>,
    /// Learning rate.
    pub lr: f64,
    /// Norm of all gradients before clipping.
    pub gradient_norm: f64,
    /// Tokens read.
    pub tokens: usize,
}

/// One loss in a report.
#[derive(Debug, Clone, PartialEq)]
pub struct LossPart {
    /// Its name.
    pub name: String,
    /// Mean over the positions that it applies to, without its weight.
    pub mean: f64,
    /// How many those are.
    pub positions: usize,
}

/// What of a model is trained, and what is held beside it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Method<'a> {
    /// Patterns of weights that stay as they are; see `freeze` of the student's table.
    pub freeze: &'a [String],
    /// Thin matrices in place of the weights.
    pub lora: Option<&'a Lora>,
    /// Seed of fresh adapters, and of fresh maps between hidden states.
    pub seed: u64,
    /// Decay of the weights' moving average.
    pub ema: Option<f64>,
    /// Hold one layer's intermediate results at a time and compute the others again.
    pub gradient_checkpointing: bool,
    /// In which numbers forward and backward are computed.
    pub precision: Precision,
}

impl Method<'_> {
    /// Whether every weight is trained, so that a checkpoint holds the whole model.
    pub fn trains_everything(&self) -> bool {
        self.freeze.is_empty() && self.lora.is_none()
    }
}

/// Everything that a step changes.
pub struct State<B: TrainBackend> {
    pub(super) decoder: Decoder<B>,
    /// Names of the decoder's weights that ask for their gradient.
    pub(super) trained: BTreeSet<String>,
    pub(super) shapes: Shapes,
    /// With them, the weights in `trained` are theirs to set.
    pub(super) adapters: Option<Adapters<Inner<B>>>,
    optimizer: OptimizerState<Inner<B>>,
    pub(super) average: Option<Average<Inner<B>>>,
    /// What was measured on held-out data.
    pub(super) history: History,
    /// What the student wrote so far.
    pub(super) rollouts: Vec<Rollout>,
    step: u64,
    rotary: RotaryTable,
    tied: bool,
    pub(super) teacher: Option<LiveTeacher<Inner<B>>>,
    /// Which hidden states are compared with the teacher's, and through which maps.
    pub(super) hidden: HiddenComparison<Inner<B>>,
    segmented: bool,
    figures: BTreeMap<String, f64>,
}

/// Gradients of a part of a step, and each loss's sum and number of positions in it.
type PartGradients<B> = (NamedGradients<Inner<B>>, Vec<(f64, usize)>);

/// A step's gradients, checked and ready to be followed.
pub(super) struct Computed<B: TrainBackend> {
    gradients: NamedGradients<Inner<B>>,
    parts: Vec<LossPart>,
    /// Weighted sum of the losses, each divided by the step's counted positions.
    pub(super) loss: f64,
    gradient_norm: f64,
}

impl<B: TrainBackend> State<B> {
    /// The state before the first step of a training of all weights.
    pub fn new(decoder: Decoder<Inner<B>>, config: &DecoderConfig) -> Self {
        let shapes = shapes(&decoder);
        let trained = shapes.keys().cloned().collect();
        Self::with(decoder, config, shapes, trained)
    }

    /// The state before the first step.
    ///
    /// # Errors
    /// Names in `freeze` or of adapters that the model does not have.
    pub fn begin(decoder: Decoder<Inner<B>>, config: &DecoderConfig, method: &Method<'_>) -> Result<Self> {
        let shapes = shapes(&decoder);
        let trained = match method.lora {
            Some(lora) => targets(&shapes, lora)?,
            None => trained(&shapes, method.freeze)?,
        };
        let mut state = Self::with(decoder.in_precision(method.precision), config, shapes, trained);
        state.segmented = method.gradient_checkpointing;
        if let Some(lora) = method.lora {
            let base = flat_weights(&state.decoder, &state.trained);
            state.adapters = Some(Adapters::new(base, &state.shapes, lora, method.seed));
        }
        state.average = method.ema.map(|decay| Average { decay, weights: state.flat_trained() });
        Ok(state)
    }

    fn with(decoder: Decoder<Inner<B>>, config: &DecoderConfig, shapes: Shapes, trained: BTreeSet<String>) -> Self {
        let decoder = on_tape(Decoder::from_inner(decoder), &trained, |_, _, weight| weight);
        Self {
            decoder,
            trained,
            shapes,
            adapters: None,
            optimizer: OptimizerState::new(),
            average: None,
            history: History::default(),
            rollouts: Vec::new(),
            step: 0,
            rotary: RotaryTable::new(config),
            tied: config.tied,
            teacher: None,
            hidden: HiddenComparison::none(),
            segmented: false,
            figures: BTreeMap::new(),
        }
    }

    /// The same state beside a live teacher, from whose distributions losses then read instead of stored ones.
    #[must_use]
    pub fn beside(self, teacher: Option<LiveTeacher<Inner<B>>>) -> Self {
        Self { teacher, ..self }
    }

    /// The same state with fresh maps between the hidden states that losses compare.
    #[must_use]
    pub fn comparing(self, layers: ComparedLayers, seed: u64) -> Self {
        Self { hidden: HiddenComparison::new(layers, seed, &self.decoder.device()), ..self }
    }

    /// Takes up what a checkpoint holds; weights that are not trained stay as they are.
    ///
    /// # Errors
    /// A checkpoint of another model, or of another way to train it.
    pub fn take_up(mut self, checkpoint: &Checkpoint, device: &Device<B>) -> Result<Self> {
        let shapes = self.trained_shapes();
        check_shapes(checkpoint, "weights", &checkpoint.weights, &shapes)?;
        if let Some(average) = &mut self.average {
            let saved = checkpoint.average.clone().unwrap_or_default();
            check_shapes(checkpoint, "averaged weights", &saved, &shapes)?;
            average.weights = to_device(&saved, device);
        }
        check_shapes(checkpoint, "projections", &checkpoint.projections, &self.hidden.shapes())?;
        self.hidden.set(to_device(&checkpoint.projections, device));
        self.set_trained(to_device(&checkpoint.weights, device));
        self.optimizer = OptimizerState::restore(&checkpoint.optimizer, device);
        self.history = checkpoint.history.clone();
        self.rollouts = checkpoint.rollouts.clone();
        self.step = checkpoint.step;
        self.figures = checkpoint.figures.clone();
        Ok(self)
    }

    /// A copy on the host.
    pub fn checkpoint(&self) -> Checkpoint {
        Checkpoint {
            step: self.step,
            weights: self.trained_values(),
            projections: self.hidden.values(),
            optimizer: self.optimizer.save(),
            average: self.average.as_ref().map(|average| self.on_host(&average.weights)),
            history: self.history.clone(),
            rollouts: self.rollouts.clone(),
            figures: self.figures.clone(),
            passing: false,
        }
    }

    /// The model as it is now, adapters merged.
    pub fn decoder(&self) -> &Decoder<B> {
        &self.decoder
    }

    /// Its rotations.
    pub(super) fn rotary(&self) -> &RotaryTable {
        &self.rotary
    }

    /// Steps taken.
    pub fn steps(&self) -> u64 {
        self.step
    }

    /// Takes one step. Without counted positions, or with a loss or gradient that is not finite, nothing changes.
    ///
    /// # Errors
    /// [`StudentError::Diverged`], or a batch that counts nothing.
    pub fn advance(
        self,
        batch: &StepBatch,
        losses: &Losses<'_>,
        optimizer: &impl UpdateRule,
        lr: f64,
        clip: Option<f64>,
        micro_rows: usize,
    ) -> Result<(Self, StepReport)> {
        let computed = self.compute(batch, losses, micro_rows)?;
        self.follow(computed, batch, optimizer, lr, clip)
    }

    /// A step's gradients; changes nothing.
    ///
    /// # Errors
    /// As [`State::advance`].
    pub(super) fn compute(&self, batch: &StepBatch, losses: &Losses<'_>, micro_rows: usize) -> Result<Computed<B>> {
        let step = self.step + 1;
        let counted = batch.batch.scored_tokens();
        if counted == 0 {
            return Err(StudentError::training(
                format!("no token of step {step}'s batch is scored, so there is nothing to learn from it"),
                "is the whole completion cut off by max-length?",
            ));
        }
        let (gradients, parts) = self.gradients(batch, losses, counted as f64, micro_rows)?;
        let loss: f64 =
            parts.iter().zip(losses.iter()).map(|(part, loss)| loss.weight * part.mean * part.positions as f64).sum();
        let loss = loss / counted as f64;
        if !loss.is_finite() {
            return Err(self.diverged(batch, format!("the loss is {loss}")));
        }
        let gradient_norm = global_norm(&gradients);
        if !gradient_norm.is_finite() {
            return Err(self.diverged(batch, format!("the gradient norm is {gradient_norm}")));
        }
        Ok(Computed { gradients, parts, loss, gradient_norm })
    }

    /// The error of a step that must not be taken.
    pub(super) fn diverged(&self, batch: &StepBatch, what: String) -> StudentError {
        let batch = blake3::Hash::from_bytes(batch.batch.digest()).to_hex()[..12].to_owned();
        StudentError::Diverged { step: self.step + 1, what, batch, kept: None }
    }

    /// Follows a step's gradients.
    ///
    /// # Errors
    /// A weight without a gradient.
    pub(super) fn follow(
        mut self,
        computed: Computed<B>,
        batch: &StepBatch,
        optimizer: &impl UpdateRule,
        lr: f64,
        clip: Option<f64>,
    ) -> Result<(Self, StepReport)> {
        let Computed { mut gradients, parts, loss, gradient_norm } = computed;
        let moved = self.trained_shapes().into_iter().chain(self.hidden.shapes());
        if let Some((name, _)) = moved.into_iter().find(|(name, _)| !gradients.contains_key(name)) {
            return Err(StudentError::training(
                format!("the loss does not depend on `{name}`"),
                "this is a fault of the model's code, please report it",
            ));
        }
        let step = self.step + 1;
        let settings = OptimizerStep { lr, gradient_scale: clip_factor(gradient_norm, clip), step };
        let mut optimizer_state = std::mem::take(&mut self.optimizer);
        let mut update = |name: &str, shape: &[usize], weight: Tensor<Inner<B>, 1>| match gradients.swap_remove(name) {
            None => weight,
            Some(gradient) => {
                optimizer.update(&Parameter { name, shape }, weight, gradient, &mut optimizer_state, &settings)
            }
        };
        match &mut self.adapters {
            None => self.decoder = on_tape(self.decoder, &self.trained, &mut update),
            Some(adapters) => adapters.change(&mut update),
        }
        self.hidden.change(&mut update);
        self.merge();
        self.optimizer = optimizer_state;
        self.step = step;
        self.follow_average();
        self.figures = parts.iter().map(|part| (part.name.clone(), part.mean)).collect();
        self.figures.insert("loss".into(), loss);
        let report = StepReport { step, loss, parts, lr, gradient_norm, tokens: batch.batch.tokens() };
        Ok((self, report))
    }

    /// Computes a step's gradients and forgets them: what a benchmark takes apart.
    ///
    /// # Errors
    /// Text that a live teacher's tokenizer has no tokens for.
    pub fn measure_gradients(
        &self,
        batch: &StepBatch,
        losses: &Losses<'_>,
        micro_rows: usize,
    ) -> Result<Vec<LossPart>> {
        Ok(self.gradients(batch, losses, batch.batch.scored_tokens().max(1) as f64, micro_rows)?.1)
    }

    /// What the teacher beside it, if there is one, thinks of a micro-batch.
    pub(super) fn live(&self, micro: &MicroBatch<'_>) -> Result<Option<LiveHidden<Inner<B>>>> {
        match &self.teacher {
            Some(teacher) => teacher.read(micro, self.hidden.of_teacher()),
            None => Ok(None),
        }
    }

    /// Gradients of the whole step and the mean of every loss.
    fn gradients(
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
                // In the order of the model's fields, as in one pass: sums over all gradients have this order.
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

/// Mean of every loss from its sum and number of positions.
pub(super) fn loss_parts(losses: &Losses<'_>, sums: &[(f64, usize)]) -> Vec<LossPart> {
    let part = |(loss, (sum, positions)): (&WeightedLoss<'_>, &(f64, usize))| LossPart {
        name: loss.name.to_owned(),
        mean: if *positions == 0 { 0.0 } else { sum / *positions as f64 },
        positions: *positions,
    };
    losses.iter().zip(sums).map(part).collect()
}

fn add<B: burn::tensor::backend::Backend>(mut total: NamedGradients<B>, other: NamedGradients<B>) -> NamedGradients<B> {
    for (name, gradient) in other {
        let sum = match total.swap_remove(&name) {
            Some(before) => before + gradient,
            None => gradient,
        };
        total.insert(name, sum);
    }
    total
}

/// All sums in one read: each read waits for the device.
pub(super) fn read_sums<B: burn::tensor::backend::Backend>(sums: Vec<Option<PartSum<B>>>) -> Vec<(f64, usize)> {
    let tensors: Vec<Tensor<B, 1>> = sums.iter().flatten().map(|(sum, _)| sum.clone()).collect();
    let values: Vec<f32> = match tensors.is_empty() {
        true => Vec::new(),
        false => Tensor::cat(tensors, 0).into_data().convert::<f32>().into_vec().unwrap_or_default(),
    };
    let mut values = values.into_iter();
    let mut next = |positions| (values.next().map_or(0.0, f64::from), positions);
    sums.into_iter().map(|sum| sum.map_or((0.0, 0), |(_, positions)| next(positions))).collect()
}
