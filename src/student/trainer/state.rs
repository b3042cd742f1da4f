//! A student in training: weights, optimizer state, and the step from one to the next.

use std::collections::BTreeMap;

use burn::tensor::Tensor;

use super::batch::{MicroBatch, StepBatch, select_counted};
use super::checkpoint::Checkpoint;
use super::head::{PartSum, head_gradients};
use super::live_teacher::LiveTeacher;
use crate::backend::{Device, Inner, TrainBackend};
use crate::error::{Result, StudentError};
use crate::loss::{Loss, Weight};
use crate::model::{Decoder, DecoderConfig, RotaryTable};
use crate::optimizer::{AdamW, AdamWState, clip_factor, global_norm};
use crate::weights::{NamedGradients, load_into, on_tape, take_gradients, take_values};

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

    /// Whether any of them needs a teacher's distributions at some step.
    pub fn need_teacher(&self) -> bool {
        self.iter().any(|loss| loss.value.needs_teacher() && !loss.weights.is_zero())
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

/// Everything that a step changes.
pub struct State<B: TrainBackend> {
    decoder: Decoder<B>,
    optimizer: AdamWState<Inner<B>>,
    step: u64,
    rotary: RotaryTable,
    tied: bool,
    teacher: Option<LiveTeacher<Inner<B>>>,
    figures: BTreeMap<String, f64>,
}

impl<B: TrainBackend> State<B> {
    /// The state before the first step.
    pub fn new(decoder: Decoder<Inner<B>>, config: &DecoderConfig) -> Self {
        let rotary = RotaryTable::new(config);
        Self {
            decoder: on_tape::<B, _>(decoder),
            optimizer: AdamWState::new(),
            step: 0,
            rotary,
            tied: config.tied,
            teacher: None,
            figures: BTreeMap::new(),
        }
    }

    /// The same state beside a live teacher, from whose distributions losses then read instead of stored ones.
    #[must_use]
    pub fn beside(self, teacher: Option<LiveTeacher<Inner<B>>>) -> Self {
        Self { teacher, ..self }
    }

    /// The state that a checkpoint holds.
    ///
    /// # Errors
    /// A checkpoint of another shape.
    pub fn restore(checkpoint: &Checkpoint, config: &DecoderConfig, device: &Device<B>) -> Result<Self> {
        let decoder = load_into(Decoder::<Inner<B>>::empty(config, device), device, |name, _| {
            let values = checkpoint.weights.get(name).ok_or_else(|| {
                StudentError::training(
                    format!("the checkpoint of step {} has no `{name}`", checkpoint.step),
                    "it belongs to another model; `stillhouse cache verify` finds damaged entries",
                )
            })?;
            Ok(values.data.to_vec())
        })?;
        let mut state = Self::new(decoder, config);
        state.optimizer = AdamWState::restore(&checkpoint.optimizer, device);
        state.step = checkpoint.step;
        state.figures = checkpoint.figures.clone();
        Ok(state)
    }

    /// A copy on the host.
    pub fn checkpoint(&self) -> Checkpoint {
        Checkpoint {
            step: self.step,
            weights: take_values(&self.decoder),
            optimizer: self.optimizer.save(),
            figures: self.figures.clone(),
        }
    }

    /// The model as it is now.
    pub fn decoder(&self) -> &Decoder<B> {
        &self.decoder
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
        mut self,
        batch: &StepBatch,
        losses: &Losses<'_>,
        optimizer: &AdamW,
        lr: f64,
        clip: Option<f64>,
        micro_rows: usize,
    ) -> Result<(Self, StepReport)> {
        let step = self.step + 1;
        let counted = batch.batch.scored_tokens();
        if counted == 0 {
            return Err(StudentError::training(
                format!("no token of step {step}'s batch is scored, so there is nothing to learn from it"),
                "is the whole completion cut off by max-length?",
            ));
        }
        let (gradients, parts) = self.gradients(batch, losses, counted as f64, micro_rows);
        let loss: f64 =
            parts.iter().zip(losses.iter()).map(|(part, loss)| loss.weight * part.mean * part.positions as f64).sum();
        let loss = loss / counted as f64;
        let diverged = |what, value| {
            let batch = blake3::Hash::from_bytes(batch.batch.digest()).to_hex()[..12].to_owned();
            Err(StudentError::Diverged { step, what, value, batch })
        };
        if !loss.is_finite() {
            return diverged("loss", loss);
        }
        let gradient_norm = global_norm(&gradients);
        if !gradient_norm.is_finite() {
            return diverged("gradient norm", gradient_norm);
        }
        let scale = clip_factor(gradient_norm, clip);
        self.decoder = optimizer.step(self.decoder, &mut self.optimizer, gradients, lr, scale, step)?;
        self.step = step;
        self.figures = parts.iter().map(|part| (part.name.clone(), part.mean)).collect();
        self.figures.insert("loss".into(), loss);
        let report = StepReport { step, loss, parts, lr, gradient_norm, tokens: batch.batch.tokens() };
        Ok((self, report))
    }

    /// Computes a step's gradients and forgets them: what a benchmark takes apart.
    pub fn measure_gradients(&self, batch: &StepBatch, losses: &Losses<'_>, micro_rows: usize) -> Vec<LossPart> {
        self.gradients(batch, losses, batch.batch.scored_tokens().max(1) as f64, micro_rows).1
    }

    /// Gradients of the whole step and the mean of every loss.
    fn gradients(
        &self,
        batch: &StepBatch,
        losses: &Losses<'_>,
        divisor: f64,
        micro_rows: usize,
    ) -> (NamedGradients<Inner<B>>, Vec<LossPart>) {
        let mut total: Option<NamedGradients<Inner<B>>> = None;
        let mut sums = vec![(0.0, 0); losses.len()];
        for micro in batch.micro_batches(micro_rows) {
            if micro.counted.is_empty() {
                continue;
            }
            let (gradients, micro_sums) = self.micro_gradients(&micro, losses, divisor);
            total = Some(match total {
                None => gradients,
                Some(total) => add(total, gradients),
            });
            for (sum, micro_sum) in sums.iter_mut().zip(micro_sums) {
                *sum = (sum.0 + micro_sum.0, sum.1 + micro_sum.1);
            }
        }
        let part = |(loss, (sum, positions)): (&WeightedLoss<'_>, (f64, usize))| LossPart {
            name: loss.name.to_owned(),
            mean: if positions == 0 { 0.0 } else { sum / positions as f64 },
            positions,
        };
        (total.unwrap_or_default(), losses.iter().zip(sums).map(part).collect())
    }

    fn micro_gradients(
        &self,
        micro: &MicroBatch<'_>,
        losses: &Losses<'_>,
        divisor: f64,
    ) -> (NamedGradients<Inner<B>>, Vec<(f64, usize)>) {
        let hidden = self.decoder.hidden(&micro.input, &self.rotary, None);
        let counted = select_counted(hidden, micro);
        let live = self.teacher.as_ref().map(|teacher| teacher.read(micro));
        let head = self.decoder.head().inner();
        let head_part =
            head_gradients::<B>(counted.clone().inner(), head, &micro.labels, &micro.teacher, live.as_ref(), losses, divisor);
        // Seeds the body's backward pass with the head's gradient: d(Σ h·g)/dh = g.
        let seeded = (counted * Tensor::from_inner(head_part.hidden)).sum();
        let mut gradients = take_gradients(&self.decoder, seeded.backward());
        let name = if self.tied { "model.embed_tokens.weight" } else { "lm_head.weight" };
        let elements = head_part.head.shape().num_elements();
        let head_gradient = head_part.head.reshape([elements]);
        let head_gradient = match gradients.swap_remove(name) {
            Some(of_body) => of_body + head_gradient,
            None => head_gradient,
        };
        gradients.insert(name.to_owned(), head_gradient);
        (gradients, read_sums(head_part.sums))
    }
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
fn read_sums<B: burn::tensor::backend::Backend>(sums: Vec<Option<PartSum<B>>>) -> Vec<(f64, usize)> {
    let tensors: Vec<Tensor<B, 1>> = sums.iter().flatten().map(|(sum, _)| sum.clone()).collect();
    let values: Vec<f32> = match tensors.is_empty() {
        true => Vec::new(),
        false => Tensor::cat(tensors, 0).into_data().convert::<f32>().into_vec().unwrap_or_default(),
    };
    let mut values = values.into_iter();
    let mut next = |positions| (values.next().map_or(0.0, f64::from), positions);
    sums.into_iter().map(|sum| sum.map_or((0.0, 0), |(_, positions)| next(positions))).collect()
}
