//! AdamW over a module's named parameters, with its state in the open so that it can be saved and taken up again bit by
//! bit.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Tensor, TensorData};
use burn::tensor::backend::Backend;
use indexmap::IndexMap;
use stillhouse_spec::Config;

use crate::backend::{Device, Inner, TrainBackend};
use crate::error::{Result, StudentError};
use crate::kernels::{AdamWStep, Kernels, Moments};
use crate::weights::{NamedGradients, NamedValues, Values};

/// AdamW: Adam with decoupled weight decay (Loshchilov and Hutter, 2019).
#[derive(Clone, Debug, Config)]
pub struct AdamW {
    /// Learning rate, before the schedule's factor.
    #[config(above = 0)]
    pub lr: f64,
    /// Decay of the running mean of the gradient.
    #[config(default = 0.9, min = 0, max = 1)]
    pub beta1: f64,
    /// Decay of the running mean of the squared gradient.
    #[config(default = 0.95, min = 0, max = 1)]
    pub beta2: f64,
    /// Added to the root of the second mean.
    #[config(default = 1e-8, above = 0)]
    pub epsilon: f64,
    /// Every step shrinks the weights by this times the learning rate.
    #[config(default = 0.1, min = 0)]
    pub weight_decay: f64,
    /// Whether norms shrink too.
    #[config(default = false)]
    pub decay_norms: bool,
}

/// Running means of gradient and squared gradient, by parameter name.
#[derive(Debug, Clone)]
pub struct AdamWState<B: Backend> {
    first: IndexMap<String, Tensor<B, 1>>,
    second: IndexMap<String, Tensor<B, 1>>,
}

/// The same on the host.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SavedState {
    /// Running means of the gradient.
    pub first: NamedValues,
    /// Running means of the squared gradient.
    pub second: NamedValues,
}

impl<B: Kernels> AdamWState<B> {
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

impl<B: Kernels> Default for AdamWState<B> {
    fn default() -> Self {
        Self::new()
    }
}

impl AdamW {
    /// One update of every parameter.
    ///
    /// # Errors
    /// A parameter without a gradient.
    pub fn step<B: TrainBackend, M: Module<B>>(
        &self,
        module: M,
        state: &mut AdamWState<Inner<B>>,
        gradients: NamedGradients<Inner<B>>,
        lr: f64,
        gradient_scale: f64,
        step: u64,
    ) -> Result<M> {
        let base = AdamWStep {
            lr,
            beta1: self.beta1,
            beta2: self.beta2,
            epsilon: self.epsilon,
            weight_decay: self.weight_decay,
            gradient_scale,
            step,
        };
        let mut updater =
            Updater::<B> { path: Vec::new(), base, decay_norms: self.decay_norms, state, gradients, missing: None };
        let module = module.map(&mut updater);
        match updater.missing {
            None => Ok(module),
            Some(name) => Err(StudentError::training(
                format!("the loss does not depend on `{name}`"),
                "this is a fault of the model's code, please report it",
            )),
        }
    }
}

struct Updater<'a, B: TrainBackend> {
    path: Vec<String>,
    base: AdamWStep,
    decay_norms: bool,
    state: &'a mut AdamWState<Inner<B>>,
    gradients: NamedGradients<Inner<B>>,
    missing: Option<String>,
}

impl<B: TrainBackend> ModuleMapper<B> for Updater<'_, B> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        let name = self.path.join(".");
        // Removing by swap keeps this O(1); the order of what is left does not matter.
        let Some(gradient) = self.gradients.swap_remove(&name) else {
            self.missing.get_or_insert(name);
            return param;
        };
        let (id, tensor, mapper) = param.consume();
        let shape = tensor.dims();
        let tensor = tensor.inner();
        let device = tensor.device();
        let elements: usize = shape.iter().product();
        // Taken out, not borrowed, so that the kernel owns the only copy and can work in place.
        let take = |means: &mut IndexMap<String, Tensor<Inner<B>, 1>>| {
            means.swap_remove(&name).unwrap_or_else(|| Tensor::zeros([elements], &device))
        };
        let moments = Moments {
            weight: tensor.reshape([elements]),
            first: take(&mut self.state.first),
            second: take(&mut self.state.second),
        };
        // Norms are the only parameters of one dimension.
        let weight_decay = if D == 1 && !self.decay_norms { 0.0 } else { self.base.weight_decay };
        let updated = <Inner<B> as Kernels>::adamw(moments, gradient, &AdamWStep { weight_decay, ..self.base });
        self.state.first.insert(name.clone(), updated.first);
        self.state.second.insert(name, updated.second);
        let tensor = Tensor::from_inner(updated.weight.reshape(shape)).require_grad();
        Param::from_mapped_value(id, tensor, mapper)
    }
}

/// Root of the sum of all squares, and the factor that brings it down to `limit`.
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
