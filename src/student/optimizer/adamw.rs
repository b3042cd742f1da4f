//! AdamW: Adam with decoupled weight decay (Loshchilov and Hutter, 2019).

use burn::tensor::Tensor;
use stillhouse_spec::Config;

use super::{OptimizerState, OptimizerStep, Parameter, UpdateRule, taken};
use crate::kernels::{AdamWStep, Kernels, Moments};

/// AdamW: Adam with decoupled weight decay (Loshchilov and Hutter, 2019).
#[derive(Clone, Debug, Config)]
pub struct AdamW {
    /// Learning rate, before the schedule's factor.
    #[config(above = 0)]
    pub lr: f64,
    /// Decay of the running mean of the gradient.
    #[config(default = 0.9, min = 0, below = 1)]
    pub beta1: f64,
    /// Decay of the running mean of the squared gradient.
    #[config(default = 0.95, min = 0, below = 1)]
    pub beta2: f64,
    /// Added to the root of the second mean.
    #[config(default = 1e-8, above = 0)]
    pub epsilon: f64,
    /// Every step shrinks the weights by this times the learning rate.
    #[config(default = 0.1, min = 0)]
    pub weight_decay: f64,
    /// Whether norms and biases shrink too.
    #[config(default = false)]
    pub decay_norms: bool,
}

impl UpdateRule for AdamW {
    fn lr(&self) -> f64 {
        self.lr
    }

    fn update<B: Kernels>(
        &self,
        parameter: &Parameter<'_>,
        weight: Tensor<B, 1>,
        gradient: Tensor<B, 1>,
        state: &mut OptimizerState<B>,
        step: &OptimizerStep,
    ) -> Tensor<B, 1> {
        let moments = Moments {
            first: taken(&mut state.first, parameter.name, &weight),
            second: taken(&mut state.second, parameter.name, &weight),
            weight,
        };
        let shrinks = !parameter.is_vector() || self.decay_norms;
        let settings = AdamWStep {
            lr: step.lr,
            beta1: self.beta1,
            beta2: self.beta2,
            epsilon: self.epsilon,
            weight_decay: if shrinks { self.weight_decay } else { 0.0 },
            gradient_scale: step.gradient_scale,
            step: step.step,
        };
        let updated = B::adamw(moments, gradient, &settings);
        state.first.insert(parameter.name.to_owned(), updated.first);
        state.second.insert(parameter.name.to_owned(), updated.second);
        updated.weight
    }
}
