//! The few operations that a decoder spends its time in, behind one trait.
//!
//! A backend gives forward and backward passes on its own tensors ([`FusedKernels`]): `flex` for the processor, `cube`
//! for GPUs. From those, `fused` makes the operations below and `tape` the same under a tape, with backward passes that
//! compute again what need not be held. `composed` writes them with tensor operations, for the tests to compare with.

#[cfg(test)]
mod composed;
#[cfg(feature = "gpu")]
mod cube;
mod flex;
mod fused;
#[cfg(feature = "gpu")]
pub mod parity;
mod tape;
mod visibility;

#[cfg(feature = "gpu")]
pub(crate) use cube::CountsMemory;
pub use fused::{AttentionShape, FusedKernels};
pub(crate) use fused::{storage, wrap};
pub use visibility::Visibility;

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

/// What one AdamW step needs beside the tensors.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWStep {
    /// Learning rate of this step.
    pub lr: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled weight decay: the weight shrinks by `lr · weight_decay` before the update.
    pub weight_decay: f64,
    /// Factor on the gradient (from clipping by the global norm).
    pub gradient_scale: f64,
    /// Number of this step, from 1: for the bias corrections `1 − βᵗ`.
    pub step: u64,
}

impl AdamWStep {
    /// `1 − β₁ᵗ` and `1 − β₂ᵗ`.
    pub fn bias_corrections(&self) -> (f64, f64) {
        // libm's pow, so that a trajectory does not depend on the platform's mathematics library.
        let power = self.step as f64;
        (1.0 - libm::pow(self.beta1, power), 1.0 - libm::pow(self.beta2, power))
    }
}

/// A weight with its two moments: what AdamW takes and gives.
#[derive(Debug, Clone)]
pub struct Moments<B: Backend> {
    /// The weight, flattened.
    pub weight: Tensor<B, 1>,
    /// Running mean of the gradient.
    pub first: Tensor<B, 1>,
    /// Running mean of the squared gradient.
    pub second: Tensor<B, 1>,
}

/// A backend a decoder runs on.
pub trait Kernels: Backend {
    /// `input · weightᵀ`, in the input's type: a weight of another type is cast where it is used. The weight's gradient is f32.
    ///
    /// # Shapes
    /// - input: `[rows, in]`
    /// - weight: `[out, in]` (Hugging Face's layout)
    /// - output: `[rows, out]`
    fn projection(input: Tensor<Self, 2>, weight: Tensor<Self, 2>) -> Tensor<Self, 2>;

    /// `x / √(mean(x²) + ε) · weight`, the mean over the last dimension.
    ///
    /// # Shapes
    /// - input, output: `[rows, width]`
    /// - weight: `[width]`
    fn rms_norm(input: Tensor<Self, 2>, weight: Tensor<Self, 1>, epsilon: f64) -> Tensor<Self, 2>;

    /// Rotary position embedding in Hugging Face's convention: the two halves of a head are the two
    /// coordinates of its rotations.
    ///
    /// # Shapes
    /// - input, output: `[batch, time, heads, head width]`
    /// - cosine, sine: `[batch, time, 1, head width / 2]`
    fn rotary(input: Tensor<Self, 4>, cosine: Tensor<Self, 4>, sine: Tensor<Self, 4>) -> Tensor<Self, 4>;

    /// `silu(gate) · up`.
    ///
    /// # Shapes
    /// - gate, up, output: `[rows, width]`
    fn swiglu(gate: Tensor<Self, 2>, up: Tensor<Self, 2>) -> Tensor<Self, 2>;

    /// Scaled dot-product attention with grouped keys and values, scale `1/√head width`.
    ///
    /// Keys behind those that `visibility` counts are room for later ones, and are not looked at. On a tape there is none.
    ///
    /// # Shapes
    /// - query, output: `[batch, queries, heads, head width]`
    /// - key, value: `[batch, keys and room, key-value heads, head width]`
    fn causal_attention(
        query: Tensor<Self, 4>,
        key: Tensor<Self, 4>,
        value: Tensor<Self, 4>,
        visibility: &Visibility,
    ) -> Tensor<Self, 4>;

    /// Writes keys, or values, behind the first `held` of a cache that has room for them; in place where nobody else holds it.
    ///
    /// # Shapes
    /// - cache, output: `[batch, keys and room, key-value heads, head width]`
    /// - new: `[batch, keys, key-value heads, head width]`
    fn write_keys(cache: Tensor<Self, 4>, held: usize, new: Tensor<Self, 4>) -> Tensor<Self, 4>;

    /// Natural logarithm of the softmax over the last dimension.
    ///
    /// # Shapes
    /// - input, output: `[rows, vocabulary]`
    fn log_probabilities(input: Tensor<Self, 2>) -> Tensor<Self, 2>;

    /// Sum of squares, in an order that does not depend on threads.
    ///
    /// # Shapes
    /// - input: `[elements]`
    /// - output: `[1]`
    fn sum_of_squares(input: Tensor<Self, 1>) -> Tensor<Self, 1>;

    /// One AdamW update with decoupled weight decay (Loshchilov and Hutter, 2019; the order of operations is
    /// PyTorch's).
    ///
    /// # Shapes
    /// - every tensor: `[elements]`
    fn adamw(state: Moments<Self>, gradient: Tensor<Self, 1>, step: &AdamWStep) -> Moments<Self>;
}
