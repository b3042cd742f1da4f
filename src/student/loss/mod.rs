//! What a student is trained to make small: one file a loss, one line in [`LOSSES`].
//!
//! A loss is a sum over *counted* positions: those whose next token is scored (the shift is done by the batch, padding
//! is never counted). The trainer divides by the number of counted positions of the whole accumulated step, so that
//! splitting a step into micro-batches changes nothing but rounding.
//!
//! Throughout, P is the teacher's distribution and Q the student's, and logarithms are natural. The value that is reported
//! of a loss is its mean over the positions that it applies to. What is made small is its sum over these, divided by *all*
//! counted positions: a loss that applies to 30 % of them weighs 0.3 of its reported mean, whatever its `weight`. The same
//! names mean different numbers elsewhere: each file says which convention it follows.

pub mod adaptive_kl;
mod compared;
mod comparison;
pub mod cross_entropy;
pub mod forward_kl;
mod hidden;
pub mod hidden_cosine;
pub mod hidden_mse;
pub mod jsd;
pub mod reverse_kl;
pub mod reverse_skewed_kl;
pub mod sampled_cross_entropy;
pub mod skewed_kl;
mod targets;
mod teacher_rows;
pub mod total_variation;
pub mod uld;
mod weight;

pub use compared::{Compared, log_mixture};
pub use comparison::{Comparison, Tail};
pub use hidden::{HiddenLayers, HiddenPair, LayerPair, Projection};
pub use targets::{LiveLogits, StatesPart, StoredStates, Teacher, TeacherPositions};
pub use weight::{Weight, WeightLine};

use std::cell::{OnceCell, RefCell};

use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor, TensorData};
use stillhouse_spec::registry::{Component, Entry, Registry};
use stillhouse_spec::{Config, entry};

use crate::backend::CpuTape;
#[cfg(feature = "cuda")]
use crate::backend::CudaTape;
#[cfg(feature = "vulkan")]
use crate::backend::VulkanTape;
use crate::kernels::Kernels;
use compared::{first_columns, softened};

/// Every loss. A new one is a file of its own and a line here.
pub static LOSSES: &[Entry<dyn Loss>] = &[
    entry!("cross-entropy", cross_entropy::CrossEntropy as dyn Loss),
    entry!("forward-kl", forward_kl::ForwardKl as dyn Loss),
    entry!("reverse-kl", reverse_kl::ReverseKl as dyn Loss),
    entry!("jsd", jsd::Jsd as dyn Loss),
    entry!("skewed-kl", skewed_kl::SkewedKl as dyn Loss),
    entry!("reverse-skewed-kl", reverse_skewed_kl::ReverseSkewedKl as dyn Loss),
    entry!("adaptive-kl", adaptive_kl::AdaptiveKl as dyn Loss),
    entry!("total-variation", total_variation::TotalVariation as dyn Loss),
    entry!("sampled-cross-entropy", sampled_cross_entropy::SampledCrossEntropy as dyn Loss),
    entry!("hidden-mse", hidden_mse::HiddenMse as dyn Loss),
    entry!("hidden-cosine", hidden_cosine::HiddenCosine as dyn Loss),
    entry!("uld", uld::Uld as dyn Loss),
];

impl Registry for dyn Loss {
    const WHAT: &'static str = "loss";
    fn entries() -> &'static [Entry<Self>] {
        LOSSES
    }
}

/// Some counted positions: what the student says of them, and what it should say.
pub struct Positions<'a, B: Backend> {
    /// The student's logits, `[positions, vocabulary]`; one column of zeros where no loss reads them.
    pub logits: Tensor<B, 2>,
    /// The token that follows each.
    pub labels: &'a [u32],
    /// The teacher's stored distribution at each.
    pub teacher: TeacherPositions<'a>,
    /// A live teacher's logits at each, which then take the place of stored distributions.
    pub live: Option<LiveLogits<B>>,
    /// Hidden states of both, for a loss that compares them: one a pair of its layers.
    pub hidden: Vec<HiddenPair<B>>,
    log_probs: OnceCell<Tensor<B, 2>>,
    /// The live teacher's log-probabilities at the temperatures that were asked for.
    live_log_probs: RefCell<Vec<(f64, Tensor<B, 2>)>>,
}

impl<'a, B: Kernels> Positions<'a, B> {
    /// Positions with logits `[positions, vocabulary]`, one label each.
    pub fn new(logits: Tensor<B, 2>, labels: &'a [u32], teacher: TeacherPositions<'a>) -> Self {
        let (log_probs, live_log_probs) = Default::default();
        Self { logits, labels, teacher, live: None, hidden: Vec::new(), log_probs, live_log_probs }
    }

    /// The same positions beside a live teacher.
    #[must_use]
    pub fn beside(self, live: Option<LiveLogits<B>>) -> Self {
        Self { live, live_log_probs: RefCell::default(), ..self }
    }

    /// The live teacher's log-probabilities at a temperature over the tokens of its tokenizer: computed once, whoever asks;
    /// none where there is no live teacher. Nothing flows back through them, so sharing them moves no gradient's rounding.
    ///
    /// # Shapes
    /// - output: `[the teacher's rows, its tokens]`
    pub fn live_log_probs(&self, temperature: f64) -> Option<Tensor<B, 2>> {
        let live = self.live.as_ref()?;
        let mut known = self.live_log_probs.borrow_mut();
        if let Some((_, log_probs)) = known.iter().find(|(at, _)| *at == temperature) {
            return Some(log_probs.clone());
        }
        let logits = first_columns(live.logits.clone(), live.theirs);
        let log_probs = B::log_probabilities(softened(logits, temperature));
        known.push((temperature, log_probs.clone()));
        Some(log_probs)
    }

    /// The student's log-probabilities at temperature 1: computed once, whoever asks.
    ///
    /// # Shapes
    /// - output: `[positions, vocabulary]`
    pub fn log_probs(&self) -> Tensor<B, 2> {
        self.log_probs.get_or_init(|| B::log_probabilities(self.logits.clone())).clone()
    }

    /// The student's log-probabilities at a temperature. Other temperatures than 1 are computed for each loss: shared,
    /// their gradients would be added up before the softmax instead of behind it, which rounds otherwise.
    pub fn log_probs_at(&self, temperature: f64) -> Tensor<B, 2> {
        if temperature == 1.0 { self.log_probs() } else { B::log_probabilities(self.logits.clone() / temperature) }
    }

    /// The student's log-probabilities at a temperature over the first tokens of the vocabulary only.
    ///
    /// # Shapes
    /// - output: `[positions, tokens]`
    pub fn log_probs_of_first(&self, tokens: usize, temperature: f64) -> Tensor<B, 2> {
        if tokens == self.logits.dims()[1] {
            return self.log_probs_at(temperature);
        }
        B::log_probabilities(softened(first_columns(self.logits.clone(), tokens), temperature))
    }

    /// A matrix of token ids on the device.
    pub fn ids(&self, ids: Vec<i32>, width: usize) -> Tensor<B, 2, Int> {
        let rows = ids.len() / width.max(1);
        Tensor::from_data(TensorData::new(ids, [rows, width]), &self.logits.device())
    }

    /// A matrix of numbers on the device.
    pub fn numbers(&self, numbers: Vec<f32>, width: usize) -> Tensor<B, 2> {
        let rows = numbers.len() / width.max(1);
        Tensor::from_data(TensorData::new(numbers, [rows, width]), &self.logits.device())
    }
}

/// A loss over some positions.
pub struct LossSum<B: Backend> {
    /// The sum over the positions that have what it needs, `[1]`; none when there is no such position.
    pub sum: Option<Tensor<B, 1>>,
    /// How many those are.
    pub positions: usize,
}

/// What a loss holds the student against.
#[derive(Clone, Copy, Debug)]
pub enum Reads<'a> {
    /// The tokens that follow, and no teacher.
    Labels,
    /// A teacher's distributions over the tokens that the student reads, stored or live.
    Distributions,
    /// The distributions of a live teacher whose tokens may be others. Stored ones are not read.
    OtherTokens,
    /// A live teacher's hidden states, held against the student's: no logits and no distributions are read.
    HiddenStates(&'a HiddenLayers),
}

impl<'a> Reads<'a> {
    /// Whether there has to be a teacher.
    pub fn teacher(self) -> bool {
        !matches!(self, Self::Labels)
    }

    /// Whether a teacher's distributions are read, over whichever tokens.
    pub fn distributions(self) -> bool {
        matches!(self, Self::Distributions | Self::OtherTokens)
    }

    /// The layers whose hidden states are read, if any are.
    pub fn hidden_states(self) -> Option<&'a HiddenLayers> {
        if let Self::HiddenStates(layers) = self { Some(layers) } else { None }
    }
}

/// A loss as its file writes it: a config struct that computes on any backend.
pub trait Formula: Config + std::fmt::Debug + Send + Sync {
    /// Factor in the total.
    fn weight(&self) -> Weight;

    /// What it holds the student against.
    fn reads(&self) -> Reads<'_>;

    /// Why draws from the teacher's distribution can't stand for it; none where they can, or where none is read. See
    /// [`Divergence::refuses_draws`].
    fn refuses_draws(&self) -> Option<String> {
        None
    }

    /// Sum over the positions.
    fn sum<B: Kernels>(&self, positions: &Positions<'_, B>) -> LossSum<B>;
}

/// A loss between two distributions: what a file adds when teacher and student have been made comparable.
pub trait Divergence: Config + std::fmt::Debug + Send + Sync {
    /// Factor in the total.
    fn weight(&self) -> Weight;

    /// How the distributions are made comparable.
    fn comparison(&self) -> Comparison;

    /// Why draws from the teacher's distribution can't stand for it; none where they can. Their mean is the distribution, so the
    /// mean of a loss over them is the loss itself, but for a constant, only where it is linear in P
    /// ([`Comparison::refuses_draws`]). Most are not.
    fn refuses_draws(&self) -> Option<String> {
        Some("it is not linear in the teacher's distribution, so that its mean over draws is another loss".to_owned())
    }

    /// Sum over the rows, `[1]`, without the factor T².
    fn between<B: Kernels>(&self, compared: &Compared<'_, B>, positions: &Positions<'_, B>) -> Tensor<B, 1>;
}

impl<D: Divergence> Formula for D {
    fn weight(&self) -> Weight {
        Divergence::weight(self)
    }

    fn reads(&self) -> Reads<'_> {
        Reads::Distributions
    }

    fn refuses_draws(&self) -> Option<String> {
        Divergence::refuses_draws(self)
    }

    fn sum<B: Kernels>(&self, positions: &Positions<'_, B>) -> LossSum<B> {
        let comparison = self.comparison();
        match Compared::of(positions, &comparison) {
            None => LossSum { sum: None, positions: 0 },
            Some(compared) => LossSum {
                sum: Some(self.between(&compared, positions) * comparison.scale()),
                positions: compared.places.len(),
            },
        }
    }
}

/// A [`Formula`] behind a pointer, for the backends that students train on.
pub trait Loss: Component + Send + Sync {
    /// See [`Formula::weight`].
    fn weight(&self) -> Weight;
    /// See [`Formula::reads`].
    fn reads(&self) -> Reads<'_>;
    /// See [`Formula::refuses_draws`].
    fn refuses_draws(&self) -> Option<String>;
    /// [`Formula::sum`] on the processor.
    fn sum_on_cpu(&self, positions: &Positions<'_, CpuTape>) -> LossSum<CpuTape>;
    /// [`Formula::sum`] on a GPU.
    #[cfg(feature = "cuda")]
    fn sum_on_cuda(&self, positions: &Positions<'_, CudaTape>) -> LossSum<CudaTape>;
    /// [`Formula::sum`] on a Vulkan device.
    #[cfg(feature = "vulkan")]
    fn sum_on_vulkan(&self, positions: &Positions<'_, VulkanTape>) -> LossSum<VulkanTape>;
}

impl<F: Formula> Loss for F {
    fn weight(&self) -> Weight {
        Formula::weight(self)
    }

    fn reads(&self) -> Reads<'_> {
        Formula::reads(self)
    }

    fn refuses_draws(&self) -> Option<String> {
        Formula::refuses_draws(self)
    }

    fn sum_on_cpu(&self, positions: &Positions<'_, CpuTape>) -> LossSum<CpuTape> {
        self.sum(positions)
    }

    #[cfg(feature = "cuda")]
    fn sum_on_cuda(&self, positions: &Positions<'_, CudaTape>) -> LossSum<CudaTape> {
        self.sum(positions)
    }

    #[cfg(feature = "vulkan")]
    fn sum_on_vulkan(&self, positions: &Positions<'_, VulkanTape>) -> LossSum<VulkanTape> {
        self.sum(positions)
    }
}

#[cfg(test)]
mod tests;
