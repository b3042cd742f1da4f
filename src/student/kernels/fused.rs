//! Kernels with backward passes of their own: what a backend gives, below the tape.

use std::fmt::Debug;

use burn::tensor::backend::Backend;
use burn::tensor::ops::FloatTensor;
use burn::tensor::{Slice, Tensor, TensorMetadata, TensorPrimitive};

use super::{AdamWStep, Kernels, Moments, Visibility};

/// Lengths of attention's dimensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttentionShape {
    /// Rows.
    pub batch: usize,
    /// Queries a row.
    pub queries: usize,
    /// Keys a row.
    pub keys: usize,
    /// Keys from the first of a row to the first of the next: those above, and room for later ones.
    pub room: usize,
    /// Query heads.
    pub heads: usize,
    /// Key-value heads; `heads` is a multiple of it.
    pub groups: usize,
    /// Numbers of a head.
    pub width: usize,
}

impl AttentionShape {
    /// From `[batch, queries, heads, width]` and `[batch, keys and room, key-value heads, width]`.
    pub fn new(query: [usize; 4], key: [usize; 4], visibility: &Visibility) -> Self {
        let [batch, queries, heads, width] = query;
        let [_, room, groups, _] = key;
        Self { batch, queries, keys: visibility.keys(), room, heads, groups, width }
    }

    /// The factor on scores, `1/√width`.
    pub fn scale(&self) -> f32 {
        1.0 / (self.width as f32).sqrt()
    }

    /// Query heads that share a key-value head.
    pub fn shared(&self) -> usize {
        self.heads / self.groups
    }
}

/// Forward and backward passes on a backend's own tensors.
///
/// A backend that has them gets [`Kernels`] from this, and so has the same backend under a tape. There is no form that
/// any backend could run: attention written with tensor operations holds a matrix of all scores, which is how a long
/// sequence runs out of memory without a word about why.
///
/// Shapes are those of [`Kernels`]; a gradient has the shape of what it belongs to. Outputs and gradients have the type of
/// the input that they belong to, which may be shorter than f32; sums are in f32, and so are norms' weights, rotations,
/// and everything that log-softmax and optimizer see.
pub trait FusedKernels: Backend {
    /// The logarithm of every softmax's mass, kept by attention for its backward pass.
    type Masses: Clone + Debug + Send + Sync + 'static;

    /// `left · right` of two matrices of one type, in f32 whatever the type: sums are never rounded to it.
    fn product_in_f32(left: FloatTensor<Self>, right: FloatTensor<Self>) -> FloatTensor<Self>;

    /// `x / √(mean(x²) + ε) · weight`.
    fn rms_norm(input: &FloatTensor<Self>, weight: &FloatTensor<Self>, epsilon: f32) -> FloatTensor<Self>;

    /// Gradients of the norm's input and weight.
    ///
    /// With `s = 1/√(mean(x²) + ε)` and `g` the gradient of the output: `dx = s·w·g − x·s³·mean(w·g·x)`, `dw = Σ g·x·s`.
    fn rms_norm_backward(
        input: &FloatTensor<Self>,
        weight: &FloatTensor<Self>,
        epsilon: f32,
        gradient: &FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 2];

    /// Rotates the two halves of every head; `back` turns the other way, which is also the gradient.
    fn rotary(
        input: &FloatTensor<Self>,
        cosine: &FloatTensor<Self>,
        sine: &FloatTensor<Self>,
        back: bool,
    ) -> FloatTensor<Self>;

    /// `gate · σ(gate) · up`.
    fn swiglu(gate: &FloatTensor<Self>, up: &FloatTensor<Self>) -> FloatTensor<Self>;

    /// Gradients of gate and up: with `s = σ(gate)`, `dgate = g·up·s·(1 + gate·(1 − s))`, `dup = g·gate·s`.
    fn swiglu_backward(
        gate: &FloatTensor<Self>,
        up: &FloatTensor<Self>,
        gradient: &FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 2];

    /// `x − log Σ exp(x)`, row by row.
    fn log_softmax_forward(input: &FloatTensor<Self>) -> FloatTensor<Self>;

    /// Gradient of the input from the output `y`: `dx = g − exp(y) · Σ g`.
    fn log_softmax_backward(output: &FloatTensor<Self>, gradient: &FloatTensor<Self>) -> FloatTensor<Self>;

    /// Attention's output and the masses of its softmaxes.
    fn attention_forward(
        shape: &AttentionShape,
        inputs: [&FloatTensor<Self>; 3],
        visibility: &Visibility,
    ) -> (FloatTensor<Self>, Self::Masses);

    /// Gradients of query, key and value.
    ///
    /// With weights `P`, output gradient `g` and `δ = Σ g·out` of a query: `dV = Pᵀg`, `dS = P·(gVᵀ − δ)`,
    /// `dQ = dS·K·scale`, `dK = dSᵀ·Q·scale`.
    fn attention_backward(
        shape: &AttentionShape,
        inputs: [&FloatTensor<Self>; 3],
        visibility: &Visibility,
        output: &FloatTensor<Self>,
        masses: &Self::Masses,
        gradient: &FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 3];

    /// Writes keys behind the first `held` of a cache; in place where nobody else holds it.
    fn write_keys(cache: FloatTensor<Self>, held: usize, new: FloatTensor<Self>) -> FloatTensor<Self> {
        let [_, time, ..] = new.shape().dims::<4>();
        let everything = Slice::new(0, None, 1);
        let place = Slice::new(held as isize, Some((held + time) as isize), 1);
        Self::float_slice_assign(cache, &[everything, place, everything, everything], new)
    }

    /// Sum of squares, `[1]`.
    fn sum_of_squares(input: &FloatTensor<Self>) -> FloatTensor<Self>;

    /// One AdamW update of weight, first and second moment; in place where nobody else holds them.
    fn adamw(state: [FloatTensor<Self>; 3], gradient: &FloatTensor<Self>, step: &AdamWStep) -> [FloatTensor<Self>; 3];
}

/// A tensor in another's type; itself where that is its own.
pub(super) fn in_type_of<B: Backend>(tensor: FloatTensor<B>, other: &FloatTensor<B>) -> FloatTensor<B> {
    if tensor.dtype() == other.dtype() { tensor } else { B::float_cast(tensor, other.dtype().into()) }
}

/// A burn tensor's own storage.
pub(crate) fn storage<B: Backend, const D: usize>(tensor: Tensor<B, D>) -> FloatTensor<B> {
    tensor.into_primitive().tensor()
}

/// A burn tensor around a storage.
pub(crate) fn wrap<B: Backend, const D: usize>(storage: FloatTensor<B>) -> Tensor<B, D> {
    Tensor::from_primitive(TensorPrimitive::Float(storage))
}

impl<B: FusedKernels> Kernels for B {
    fn projection(input: Tensor<Self, 2>, weight: Tensor<Self, 2>) -> Tensor<Self, 2> {
        let weight = weight.cast(input.dtype());
        input.matmul(weight.transpose())
    }

    fn rms_norm(input: Tensor<Self, 2>, weight: Tensor<Self, 1>, epsilon: f64) -> Tensor<Self, 2> {
        wrap(<B as FusedKernels>::rms_norm(&storage(input), &storage(weight), epsilon as f32))
    }

    fn rotary(input: Tensor<Self, 4>, cosine: Tensor<Self, 4>, sine: Tensor<Self, 4>) -> Tensor<Self, 4> {
        wrap(<B as FusedKernels>::rotary(&storage(input), &storage(cosine), &storage(sine), false))
    }

    fn swiglu(gate: Tensor<Self, 2>, up: Tensor<Self, 2>) -> Tensor<Self, 2> {
        wrap(<B as FusedKernels>::swiglu(&storage(gate), &storage(up)))
    }

    fn causal_attention(
        query: Tensor<Self, 4>,
        key: Tensor<Self, 4>,
        value: Tensor<Self, 4>,
        visibility: &Visibility,
    ) -> Tensor<Self, 4> {
        let shape = AttentionShape::new(query.dims(), key.dims(), visibility);
        let inputs = [query, key, value].map(storage);
        wrap(B::attention_forward(&shape, inputs.each_ref(), visibility).0)
    }

    fn write_keys(cache: Tensor<Self, 4>, held: usize, new: Tensor<Self, 4>) -> Tensor<Self, 4> {
        wrap(<B as FusedKernels>::write_keys(storage(cache), held, storage(new)))
    }

    fn log_probabilities(input: Tensor<Self, 2>) -> Tensor<Self, 2> {
        wrap(B::log_softmax_forward(&storage(input)))
    }

    fn sum_of_squares(input: Tensor<Self, 1>) -> Tensor<Self, 1> {
        wrap(<B as FusedKernels>::sum_of_squares(&storage(input)))
    }

    fn adamw(state: Moments<Self>, gradient: Tensor<Self, 1>, step: &AdamWStep) -> Moments<Self> {
        let state = [state.weight, state.first, state.second].map(storage);
        let [weight, first, second] = <B as FusedKernels>::adamw(state, &storage(gradient), step).map(wrap);
        Moments { weight, first, second }
    }
}
