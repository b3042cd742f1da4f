//! How much memory a training takes: the one formula, for whoever asks before or while it runs.

use std::collections::BTreeSet;

use super::adapters::{targets, thin_shapes};
use super::head::CHUNK_ELEMENTS;
use super::parameters::{Shapes, layer_of, trained};
use super::state::Method;
use crate::error::Result;
use crate::model::DecoderConfig;
use crate::optimizer::{Optimizer, Parameter};

/// Bytes of a number in f32, in which everything is held that steps add up.
const F32: u64 = 4;
/// Numbers of a trained weight: itself, its gradient and AdamW's two means.
const NUMBERS_A_WEIGHT: usize = 4;

/// Bytes that training all of so many weights takes at least; the largest number there is where they are more.
pub fn training_bytes(parameters: usize) -> usize {
    parameters.saturating_mul(NUMBERS_A_WEIGHT).saturating_mul(F32 as usize)
}

/// Bytes that a training takes at once, by what takes them.
///
/// Counted are the arrays that live together in a step. What holds them is rounded up by no allocator here, and not
/// counted are: the copy on the host that a checkpoint is written from (made when a step's activations are gone), learned
/// maps between hidden states, what an optimizer holds of the one weight that it is at, casts of weights to bf16 while they
/// are used, the batch, the data and the program itself. So more is taken than this, and less is never enough.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Need {
    /// All weights in f32; with adapters also the thin matrices, and of each matrix that has them what it was without.
    pub weights: u64,
    /// Of every trained weight. With adapters those of the whole matrices come first, and thin ones are made from them. Where
    /// a step is computed in parts, the sum of those before, too.
    pub gradients: u64,
    /// The optimizer's running means.
    pub moments: u64,
    /// The moving average of what is trained, and the best of it where early stopping keeps that.
    pub copies: u64,
    /// The weights of a teacher beside the student, or of its head, in the training's precision.
    pub teacher: u64,
    /// What layers hold for the backward pass, from the lowest that is trained on, and what the teacher's hold while it reads.
    pub activations: u64,
    /// A chunk of logits of each model: as they are made, as probabilities, and their gradient, in f32.
    pub logits: u64,
}

/// The rows of a step.
#[derive(Debug, Clone, Copy)]
pub struct StepSize {
    /// Rows at once.
    pub rows: usize,
    /// Rows of the whole step.
    pub of_rows: usize,
    /// Positions in a row.
    pub length: usize,
}

/// A training, as far as its memory goes.
#[derive(Debug, Clone, Copy)]
pub struct Holds<'a> {
    /// The student's shape.
    pub config: &'a DecoderConfig,
    /// What of it is trained, and what is held beside it.
    pub method: &'a Method<'a>,
    /// How its weights follow gradients.
    pub optimizer: &'a Optimizer,
    /// The teacher's shape, if one runs beside it.
    pub teacher: Option<&'a DecoderConfig>,
    /// `[vocabulary, width]` of a teacher's head that makes distributions of stored hidden states, if there is one.
    pub head: Option<[usize; 2]>,
    /// Whether losses look at that teacher's distributions, and not at its hidden states alone.
    pub reads_distributions: bool,
    /// Whether the best weights are kept.
    pub keeps_best: bool,
}

impl Need {
    /// All of it.
    pub fn total(&self) -> u64 {
        let Self { weights, gradients, moments, copies, teacher, activations, logits } = *self;
        [gradients, moments, copies, teacher, activations, logits].into_iter().fold(weights, u64::saturating_add)
    }
}

impl Holds<'_> {
    /// What it takes whatever the rows of a step are.
    ///
    /// # Errors
    /// Names in `freeze` or of adapters that the model does not have.
    pub fn without_rows(&self) -> Result<Need> {
        let shapes = self.config.tensors();
        let chosen = self.chosen(&shapes)?;
        let of_chosen = elements(shapes.iter().filter(|(name, _)| chosen.contains(*name)));
        let thin = self.method.lora.map(|lora| thin_shapes(&shapes, &chosen, lora));
        let moved: Vec<(&String, &Vec<usize>)> = match &thin {
            Some(thin) => thin.iter().collect(),
            None => shapes.iter().filter(|(name, _)| chosen.contains(*name)).collect(),
        };
        let of_moved = elements(moved.iter().copied());
        // Thin matrices have gradients beside those of the matrices that they stand for, which are held twice.
        let beside = if thin.is_some() { of_moved } else { 0 };
        let twice = if thin.is_some() { of_chosen } else { 0 };
        let means = |(name, shape): &(&String, &Vec<usize>)| {
            let parameter = Parameter { name, shape };
            self.optimizer.means(&parameter) as u64 * elements([(*name, *shape)])
        };
        let copies = u64::from(self.method.ema.is_some()) + u64::from(self.keeps_best);
        let precision = self.method.precision.bytes() as u64;
        Ok(Need {
            weights: F32 * (elements(&shapes) + twice + beside),
            gradients: F32 * (of_chosen + beside),
            moments: F32 * moved.iter().map(means).sum::<u64>(),
            copies: F32 * of_moved * copies,
            teacher: precision * (self.teacher.map_or(0, DecoderConfig::parameters) as u64)
                + precision * self.head.map_or(0, |[vocabulary, width]| vocabulary as u64 * width as u64),
            ..Need::default()
        })
    }

    /// What it takes in a step.
    ///
    /// # Errors
    /// As [`Holds::without_rows`].
    pub fn in_step(&self, size: StepSize) -> Result<Need> {
        let StepSize { rows, of_rows, length } = size;
        let Self { config, method, teacher, .. } = *self;
        let between = self.without_rows()?;
        let shapes = config.tensors();
        let chosen = self.chosen(&shapes)?;
        let summed = match method.lora {
            Some(lora) => elements(&thin_shapes(&shapes, &chosen, lora)),
            None => elements(shapes.iter().filter(|(name, _)| chosen.contains(*name))),
        };
        let sums = if rows < of_rows { F32 * summed } else { 0 };
        let positions = rows * length;
        let layer = of_a_layer(config);
        let taped = layers_on_tape(config, &chosen);
        let held = match method.gradient_checkpointing {
            true => config.layers * config.hidden + 3 * layer,
            false => (taped + 2) * layer,
        };
        let of_teacher = teacher.map_or(0, |teacher| teacher.hidden + 2 * of_a_layer(teacher));
        // A chunk has so many positions that the wider of both fits.
        let rows = teacher.map(|teacher| teacher.vocabulary).or(self.head.map(|[vocabulary, _]| vocabulary));
        let read = rows.filter(|_| self.reads_distributions).unwrap_or(0);
        let widest = config.vocabulary.max(read).max(1);
        let chunk = |width: usize| (positions * width).min(CHUNK_ELEMENTS * width / widest) as u64;
        Ok(Need {
            gradients: between.gradients + sums,
            activations: (method.precision.bytes() * positions * (held + of_teacher)) as u64,
            logits: F32 * 3 * (chunk(config.vocabulary) + chunk(read)),
            ..between
        })
    }

    /// The weights that are trained, or have adapters.
    fn chosen(&self, shapes: &Shapes) -> Result<BTreeSet<String>> {
        match self.method.lora {
            Some(lora) => targets(shapes, lora),
            None => trained(shapes, self.method.freeze),
        }
    }
}

/// Numbers that a layer holds of a position for its backward pass.
fn of_a_layer(config: &DecoderConfig) -> usize {
    let (queries, keys) = (config.heads * config.head_width, config.kv_heads * config.head_width);
    4 * config.hidden + 2 * queries + 2 * keys + 3 * config.intermediate
}

/// How many layers backward goes through: those from the lowest that is trained on.
fn layers_on_tape(config: &DecoderConfig, chosen: &BTreeSet<String>) -> usize {
    // A head that is not the embedding lies above all layers.
    if chosen.iter().any(|name| name.contains("embed_tokens.")) {
        return config.layers;
    }
    chosen.iter().filter_map(|name| layer_of(name)).min().map_or(0, |lowest| config.layers - lowest)
}

fn elements<'a>(shapes: impl IntoIterator<Item = (&'a String, &'a Vec<usize>)>) -> u64 {
    shapes.into_iter().map(|(_, shape)| shape.iter().product::<usize>() as u64).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Biases;
    use crate::optimizer::{AdamW, Muon};
    use crate::precision::Precision;
    use crate::trainer::Lora;

    /// Two layers, tied: the embedding 32·4; a layer q 4·4, k and v 2·4 each, o 4·4, three of 8·4, two norms of 4.
    fn small() -> DecoderConfig {
        DecoderConfig {
            family: "llama".into(),
            vocabulary: 32,
            layers: 2,
            hidden: 4,
            intermediate: 8,
            heads: 2,
            kv_heads: 1,
            head_width: 2,
            context: 64,
            rope_theta: 10_000.0,
            rope_scaling: None,
            norm_epsilon: 1e-5,
            tied: true,
            biases: Biases::default(),
            head_norms: false,
            sliding_window: None,
            initializer_range: 0.02,
            bos: None,
            eos: vec![],
            pad: None,
        }
    }

    const EMBEDDING: u64 = 32 * 4;
    const MATRICES: u64 = 16 + 8 + 8 + 16 + 3 * 32;
    const LAYER: u64 = MATRICES + 8;
    const ALL: u64 = EMBEDDING + 2 * LAYER + 4;

    fn adamw() -> AdamW {
        AdamW { lr: 1e-3, beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.1, decay_norms: false }
    }

    fn holds<'a>(config: &'a DecoderConfig, method: &'a Method<'a>, optimizer: &'a Optimizer) -> Holds<'a> {
        Holds { config, method, optimizer, teacher: None, head: None, reads_distributions: false, keeps_best: false }
    }

    #[test]
    fn what_is_trained_has_a_gradient_and_means_and_what_is_frozen_has_none() {
        let (config, optimizer) = (small(), Optimizer::Adamw(adamw()));
        let need = |method: &Method<'_>| holds(&config, method, &optimizer).without_rows().unwrap();
        let all = need(&Method::default());
        assert_eq!((all.weights, all.gradients, all.moments), (4 * ALL, 4 * ALL, 8 * ALL));
        assert_eq!(all.total(), training_bytes(config.parameters()) as u64);
        let freeze = ["embed".to_owned(), "layers.0".to_owned()];
        let some = need(&Method { freeze: &freeze, ema: Some(0.9), ..Method::default() });
        let trained = LAYER + 4;
        assert_eq!((some.weights, some.gradients, some.moments), (4 * ALL, 4 * trained, 8 * trained));
        assert_eq!(some.copies, 4 * trained);
        let method = Method { ema: Some(0.9), ..Method::default() };
        let both = Holds { keeps_best: true, ..holds(&config, &method, &optimizer) };
        assert_eq!(both.without_rows().unwrap().copies, 8 * ALL);
    }

    #[test]
    fn adapters_have_means_and_the_matrices_under_them_none() {
        let (config, optimizer) = (small(), Optimizer::Adamw(adamw()));
        let lora = Lora { rank: 2, alpha: 4.0, targets: vec!["q".into(), "v".into()] };
        let method = Method { lora: Some(&lora), ..Method::default() };
        let need = holds(&config, &method, &optimizer).without_rows().unwrap();
        // q is 4 × 4 and v 2 × 4, in each of two layers.
        let (matrices, thin) = (2 * (16 + 8), 2 * 2 * (8 + 6));
        assert_eq!((need.weights, need.gradients), (4 * (ALL + matrices + thin), 4 * (matrices + thin)));
        assert_eq!((need.moments, need.copies), (8 * thin, 0));
    }

    #[test]
    fn muon_keeps_one_mean_of_the_matrices_of_the_layers() {
        let (config, method) = (small(), Method::default());
        let muon = Muon { lr: 0.02, momentum: 0.95, nesterov: true, weight_decay: 0.0, adamw: adamw() };
        let need = holds(&config, &method, &Optimizer::Muon(muon)).without_rows().unwrap();
        assert_eq!(need.moments, 4 * (2 * MATRICES) + 8 * (ALL - 2 * MATRICES));
    }

    /// A layer holds 4·4 + 2·4 + 2·2 + 3·8 = 52 numbers a position.
    #[test]
    fn activations_go_with_the_rows_at_once_and_the_layers_that_are_trained() {
        let (config, optimizer) = (small(), Optimizer::Adamw(adamw()));
        let size = StepSize { rows: 3, of_rows: 3, length: 10 };
        let need = |method: &Method<'_>, size| holds(&config, method, &optimizer).in_step(size).unwrap();
        let whole = need(&Method::default(), size);
        assert_eq!((whole.activations, whole.logits), (4 * 30 * 4 * 52, 4 * 3 * 30 * 32));
        assert_eq!(whole.gradients, 4 * ALL);
        // In parts the sum of those before is held beside a part's.
        let part = need(&Method::default(), StepSize { of_rows: 6, ..size });
        assert_eq!((part.gradients, part.activations), (8 * ALL, whole.activations));
        let halved = Method { precision: Precision::Bf16, ..Method::default() };
        assert_eq!(need(&halved, size).activations, whole.activations / 2);
        let segmented = Method { gradient_checkpointing: true, ..Method::default() };
        assert_eq!(need(&segmented, size).activations, 4 * 30 * (2 * 4 + 3 * 52));
        let freeze = ["embed".to_owned(), "layers.0".to_owned()];
        let upper = Method { freeze: &freeze, ..Method::default() };
        assert_eq!(need(&upper, size).activations, 4 * 30 * 3 * 52);
    }

    #[test]
    fn a_teacher_beside_it_takes_its_weights_what_it_reads_with_and_a_part_of_the_chunk() {
        let (config, optimizer) = (DecoderConfig { vocabulary: 4096, ..small() }, Optimizer::Adamw(adamw()));
        let method = Method::default();
        let size = StepSize { rows: 64, of_rows: 64, length: 4096 };
        let alone = holds(&config, &method, &optimizer);
        let chunk = 4 * 3 * CHUNK_ELEMENTS as u64;
        assert_eq!(alone.in_step(size).unwrap().logits, chunk);
        let many = DecoderConfig { vocabulary: 64 * 4096, ..config.clone() };
        for (teacher, of_student) in [(&config, chunk), (&many, chunk / 64)] {
            let beside = Holds { teacher: Some(teacher), reads_distributions: true, ..alone };
            let need = beside.in_step(size).unwrap();
            // 4,096 positions of 4,096 tokens fill a chunk; beside 64 times as many tokens only 64 positions do.
            assert_eq!(need.logits, of_student + chunk);
            assert_eq!(need.teacher, 4 * teacher.parameters() as u64);
            let reading = 4 * 64 * 4096 * (4 + 2 * 52);
            assert_eq!(need.activations, alone.in_step(size).unwrap().activations + reading);
            let streams = Holds { reads_distributions: false, ..beside }.in_step(size).unwrap();
            assert_eq!((streams.logits, streams.teacher), (chunk, need.teacher));
        }
    }

    #[test]
    fn names_that_the_model_does_not_have_are_no_estimate() {
        let (config, optimizer) = (small(), Optimizer::Adamw(adamw()));
        let freeze = ["layers.7".to_owned()];
        let method = Method { freeze: &freeze, ..Method::default() };
        let error = holds(&config, &method, &optimizer).without_rows().unwrap_err().to_string();
        assert_eq!(error, "`freeze` names `layers.7`, which no weight fits");
    }
}
