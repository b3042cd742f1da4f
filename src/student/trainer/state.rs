//! A student in training: weights, optimizer state, and the step from one to the next.

use std::collections::{BTreeMap, BTreeSet};

use burn::module::AutodiffModule;
use burn::tensor::Tensor;

use super::adapters::{Adapters, Lora, targets, to_device};
use super::average::Average;
use super::batch::{MicroBatch, StepBatch};
use super::checkpoint::Checkpoint;
use super::compared_layers::ComparedLayers;
use super::hidden::HiddenComparison;
use super::live_teacher::LiveHidden;
use super::losses::{LossPart, Losses};
use super::on_policy::Rollout;
use super::parameters::{Shapes, flat_weights, on_tape, shapes, trained};
use super::teacher_head::TeacherOnDevice;
use super::trained::{check_moments, check_shapes};
use super::validation::History;
use crate::backend::{Device, Inner, TrainBackend};
use crate::error::{Result, StudentError};
use crate::model::{Decoder, DecoderConfig, RotaryTable};
use crate::optimizer::{OptimizerState, OptimizerStep, Parameter, UpdateRule, clip_factor, global_norm};
use crate::precision::Precision;
use crate::weights::NamedGradients;

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
    pub(super) rotary: RotaryTable,
    pub(super) tied: bool,
    pub(super) teacher: Option<TeacherOnDevice<Inner<B>>>,
    /// Which hidden states are compared with the teacher's, and through which maps.
    pub(super) hidden: HiddenComparison<Inner<B>>,
    pub(super) segmented: bool,
    figures: BTreeMap<String, f64>,
}

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

    /// The same state beside a teacher, or its head, from whose distributions losses then read instead of stored ones.
    #[must_use]
    pub fn beside(self, teacher: Option<impl Into<TeacherOnDevice<Inner<B>>>>) -> Self {
        Self { teacher: teacher.map(Into::into), ..self }
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
        if let Some(best) = &checkpoint.history.best {
            check_shapes(checkpoint, "best weights", best, &shapes)?;
        }
        check_moments(checkpoint, &shapes.into_iter().chain(self.hidden.shapes()).collect())?;
        self.hidden.set(to_device(&checkpoint.projections, device));
        self = self.set_trained(to_device(&checkpoint.weights, device));
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
            passing_for: BTreeSet::new(),
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
        Ok(self.follow(computed, batch, optimizer, lr, clip))
    }

    /// A step's gradients; changes nothing.
    ///
    /// # Errors
    /// As [`State::advance`]; a weight without a gradient.
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
        let loss: f64 = parts
            .iter()
            .zip(losses.iter())
            .map(|(part, loss)| loss.weight * part.mean.unwrap_or_default() * part.positions as f64)
            .sum();
        let loss = loss / counted as f64;
        if !loss.is_finite() {
            return Err(self.diverged(batch, format!("the loss is {loss}")));
        }
        let gradient_norm = global_norm(&gradients);
        if !gradient_norm.is_finite() {
            return Err(self.diverged(batch, format!("the gradient norm is {gradient_norm}")));
        }
        let moved = self.trained_shapes().into_iter().chain(self.hidden.shapes());
        if let Some((name, _)) = moved.into_iter().find(|(name, _)| !gradients.contains_key(name)) {
            return Err(StudentError::training(
                format!("the loss does not depend on `{name}`"),
                "this is a fault of the model's code, please report it",
            ));
        }
        Ok(Computed { gradients, parts, loss, gradient_norm })
    }

    /// The error of a step that must not be taken.
    pub(super) fn diverged(&self, batch: &StepBatch, what: String) -> StudentError {
        let batch = blake3::Hash::from_bytes(batch.batch.digest()).to_hex()[..12].to_owned();
        StudentError::Diverged { step: self.step + 1, what, batch, kept: None }
    }

    /// Follows a step's gradients.
    pub(super) fn follow(
        mut self,
        computed: Computed<B>,
        batch: &StepBatch,
        optimizer: &impl UpdateRule,
        lr: f64,
        clip: Option<f64>,
    ) -> (Self, StepReport) {
        let Computed { mut gradients, parts, loss, gradient_norm } = computed;
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
        self = self.merged();
        self.optimizer = optimizer_state;
        self.step = step;
        self.follow_average();
        self.figures = parts.iter().filter_map(|part| Some((part.name.clone(), part.mean?))).collect();
        self.figures.insert("loss".into(), loss);
        let report = StepReport { step, loss, parts, lr, gradient_norm, tokens: batch.batch.tokens() };
        (self, report)
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
}
