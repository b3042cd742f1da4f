//! How weights follow gradients: one file a rule. State lies in the open, by name, so that it can be saved and taken up
//! again bit by bit.

pub mod adamw;
pub mod muon;

pub use adamw::AdamW;
pub use muon::Muon;

use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};
use indexmap::IndexMap;
use stillhouse_spec::Config;

use crate::backend::Device;
use crate::kernels::Kernels;
use crate::weights::{NamedGradients, NamedValues, Values};

/// How weights follow gradients.
#[derive(Clone, Debug, Config)]
pub enum Optimizer {
    /// Adam with decoupled weight decay.
    Adamw(AdamW),
    /// Orthogonalised momentum for the matrices of the layers, AdamW for everything else.
    Muon(Muon),
}

/// A rule by which a weight follows its gradient.
pub trait UpdateRule {
    /// Learning rate before the schedule's factor.
    fn lr(&self) -> f64;

    /// One update of one weight.
    ///
    /// # Shapes
    /// - weight, gradient, output: flat, as many elements as the parameter's shape has
    fn update<B: Kernels>(
        &self,
        parameter: &Parameter<'_>,
        weight: Tensor<B, 1>,
        gradient: Tensor<B, 1>,
        state: &mut OptimizerState<B>,
        step: &OptimizerStep,
    ) -> Tensor<B, 1>;
}

/// Which weight is updated.
#[derive(Debug, Clone, Copy)]
pub struct Parameter<'a> {
    /// Its name.
    pub name: &'a str,
    /// Lengths of its dimensions.
    pub shape: &'a [usize],
}

impl Parameter<'_> {
    /// Norms and biases: the only weights of one dimension.
    pub fn is_vector(&self) -> bool {
        self.shape.len() == 1
    }
}

/// What all weights of one step share.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OptimizerStep {
    /// Learning rate of this step.
    pub lr: f64,
    /// Factor on gradients (from clipping by the global norm).
    pub gradient_scale: f64,
    /// Number of this step, from 1.
    pub step: u64,
}

impl Optimizer {
    /// How many running means it keeps of a weight.
    pub fn means(&self, parameter: &Parameter<'_>) -> usize {
        match self {
            Self::Muon(_) if Muon::orthogonalises(parameter) => 1,
            Self::Adamw(_) | Self::Muon(_) => 2,
        }
    }
}

impl UpdateRule for Optimizer {
    fn lr(&self) -> f64 {
        match self {
            Self::Adamw(rule) => rule.lr,
            Self::Muon(rule) => rule.lr,
        }
    }

    fn update<B: Kernels>(
        &self,
        parameter: &Parameter<'_>,
        weight: Tensor<B, 1>,
        gradient: Tensor<B, 1>,
        state: &mut OptimizerState<B>,
        step: &OptimizerStep,
    ) -> Tensor<B, 1> {
        match self {
            Self::Adamw(rule) => rule.update(parameter, weight, gradient, state, step),
            Self::Muon(rule) => rule.update(parameter, weight, gradient, state, step),
        }
    }
}

/// Running means of gradient and squared gradient, by parameter name. A rule that needs only one keeps only one.
#[derive(Debug, Clone)]
pub struct OptimizerState<B: Backend> {
    pub(super) first: IndexMap<String, Tensor<B, 1>>,
    pub(super) second: IndexMap<String, Tensor<B, 1>>,
}

/// The same on the host.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SavedState {
    /// Running means of the gradient.
    pub first: NamedValues,
    /// Running means of the squared gradient.
    pub second: NamedValues,
}

impl<B: Kernels> OptimizerState<B> {
    /// Before the first step.
    pub fn new() -> Self {
        Self { first: IndexMap::new(), second: IndexMap::new() }
    }

    /// Copies to the host.
    pub fn save(&self) -> SavedState {
        let copy = |means: &IndexMap<String, Tensor<B, 1>>| {
            let take = |mean: &Tensor<B, 1>| {
                let data = mean.to_data().convert::<f32>();
                let shape = data.shape.to_vec();
                // f32 by the conversion above, so the fallback is never taken.
                Values::new(shape, data.into_vec().unwrap_or_default())
            };
            means.iter().map(|(name, mean)| (name.clone(), take(mean))).collect()
        };
        SavedState { first: copy(&self.first), second: copy(&self.second) }
    }

    /// Takes up a saved state.
    pub fn restore(saved: &SavedState, device: &Device<B>) -> Self {
        let load = |means: &NamedValues| {
            let put = |values: &Values| {
                let length = values.data.len();
                Tensor::from_data(TensorData::new(values.data.to_vec(), [length]), device)
            };
            means.iter().map(|(name, values)| (name.clone(), put(values))).collect()
        };
        Self { first: load(&saved.first), second: load(&saved.second) }
    }
}

impl<B: Kernels> Default for OptimizerState<B> {
    fn default() -> Self {
        Self::new()
    }
}

/// Takes a mean out, so that the caller owns the only copy and can work in place; zeros before the first step.
fn taken<B: Backend>(means: &mut IndexMap<String, Tensor<B, 1>>, name: &str, like: &Tensor<B, 1>) -> Tensor<B, 1> {
    // Removing by swap keeps this O(1); a saved state is compared and written by name.
    means.swap_remove(name).unwrap_or_else(|| like.zeros_like())
}

/// Root of the sum of all squares.
///
/// # Shapes
/// - gradients: flat, any number
pub fn global_norm<B: Kernels>(gradients: &NamedGradients<B>) -> f64 {
    let squares: Vec<Tensor<B, 1>> = gradients.values().map(|gradient| B::sum_of_squares(gradient.clone())).collect();
    if squares.is_empty() {
        return 0.0;
    }
    // One read for all tensors: each read waits for the device.
    let sums: Vec<f32> = Tensor::cat(squares, 0).into_data().convert::<f32>().into_vec().unwrap_or_default();
    sums.iter().map(|sum| f64::from(*sum)).sum::<f64>().sqrt()
}

/// The factor on gradients of a global norm that keeps it at or below `limit` (PyTorch's `clip_grad_norm_`).
pub fn clip_factor(norm: f64, limit: Option<f64>) -> f64 {
    limit.map_or(1.0, |limit| (limit / (norm + 1e-6)).min(1.0))
}
