//! What a student is trained to make small: one file a loss, one line in [`LOSSES`].
//!
//! A loss is a sum over *counted* positions: those whose next token is scored (the shift is done by the batch, padding
//! is never counted). The trainer divides by the number of counted positions of the whole accumulated step, so that
//! splitting a step into micro-batches changes nothing but rounding.

pub mod cross_entropy;
pub mod forward_kl;
mod targets;

pub use targets::{Teacher, TeacherPositions};

use std::cell::OnceCell;

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

/// Every loss. A new one is a file of its own and a line here.
pub static LOSSES: &[Entry<dyn Loss>] = &[
    entry!("cross-entropy", cross_entropy::CrossEntropy as dyn Loss),
    entry!("forward-kl", forward_kl::ForwardKl as dyn Loss),
];

impl Registry for dyn Loss {
    const WHAT: &'static str = "loss";
    fn entries() -> &'static [Entry<Self>] {
        LOSSES
    }
}

/// Some counted positions: what the student says of them, and what it should say.
pub struct Positions<'a, B: Backend> {
    /// The student's logits, `[positions, vocabulary]`.
    pub logits: Tensor<B, 2>,
    /// The token that follows each.
    pub labels: &'a [u32],
    /// The teacher's distribution at each.
    pub teacher: TeacherPositions<'a>,
    log_probs: OnceCell<Tensor<B, 2>>,
}

impl<'a, B: Kernels> Positions<'a, B> {
    /// Positions with logits `[positions, vocabulary]`, one label each.
    pub fn new(logits: Tensor<B, 2>, labels: &'a [u32], teacher: TeacherPositions<'a>) -> Self {
        Self { logits, labels, teacher, log_probs: OnceCell::new() }
    }

    /// The student's log-probabilities at temperature 1: computed once, whoever asks.
    ///
    /// # Shapes
    /// - output: `[positions, vocabulary]`
    pub fn log_probs(&self) -> Tensor<B, 2> {
        self.log_probs.get_or_init(|| B::log_probabilities(self.logits.clone())).clone()
    }

    /// The student's log-probabilities at a temperature.
    pub fn log_probs_at(&self, temperature: f64) -> Tensor<B, 2> {
        if temperature == 1.0 { self.log_probs() } else { B::log_probabilities(self.logits.clone() / temperature) }
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

/// A loss as its file writes it: a config struct that computes on any backend.
pub trait Formula: Config + std::fmt::Debug + Send + Sync {
    /// Whether it compares with a teacher's signals.
    const NEEDS_TEACHER: bool;

    /// Factor in the total.
    fn weight(&self) -> f64;

    /// Sum over the positions.
    fn sum<B: Kernels>(&self, positions: &Positions<'_, B>) -> LossSum<B>;
}

/// A [`Formula`] behind a pointer, for the backends that students train on.
pub trait Loss: Component + Send + Sync {
    /// See [`Formula::NEEDS_TEACHER`].
    fn needs_teacher(&self) -> bool;
    /// See [`Formula::weight`].
    fn weight(&self) -> f64;
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
    fn needs_teacher(&self) -> bool {
        F::NEEDS_TEACHER
    }

    fn weight(&self) -> f64 {
        Formula::weight(self)
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
