//! Kernels for the processor: plain loops over slices, rows spread over rayon's threads.
//!
//! Every sum has one order whatever the number of threads, so equal steps give equal bits.

mod attention;
mod elementwise;
mod numbers;
mod product;
mod rows;

pub(super) use attention::{AttentionShape, attention_backward, attention_forward};
pub(super) use elementwise::{rotary, swiglu, swiglu_backward};
use numbers::numbers;
pub(super) use rows::{log_softmax, log_softmax_backward, rms_norm, rms_norm_backward};

use burn::backend::Flex;
use burn::tensor::{Tensor, TensorPrimitive};
use burn_flex::FlexTensor;

use super::{AdamWStep, Kernels, Moments, Visibility};

/// A burn tensor's own storage.
pub(super) fn storage<const D: usize>(tensor: Tensor<Flex, D>) -> FlexTensor {
    tensor.into_primitive().tensor()
}

fn wrap<const D: usize>(storage: FlexTensor) -> Tensor<Flex, D> {
    Tensor::from_primitive(TensorPrimitive::Float(storage))
}

impl Kernels for Flex {
    fn rms_norm(input: Tensor<Self, 2>, weight: Tensor<Self, 1>, epsilon: f64) -> Tensor<Self, 2> {
        wrap(rms_norm(&storage(input), &storage(weight), epsilon as f32))
    }

    fn rotary(input: Tensor<Self, 4>, cosine: Tensor<Self, 4>, sine: Tensor<Self, 4>) -> Tensor<Self, 4> {
        wrap(rotary(&storage(input), &storage(cosine), &storage(sine), false))
    }

    fn swiglu(gate: Tensor<Self, 2>, up: Tensor<Self, 2>) -> Tensor<Self, 2> {
        wrap(swiglu(&storage(gate), &storage(up)))
    }

    fn causal_attention(
        query: Tensor<Self, 4>,
        key: Tensor<Self, 4>,
        value: Tensor<Self, 4>,
        visibility: &Visibility,
    ) -> Tensor<Self, 4> {
        let shape = AttentionShape::new(query.dims(), key.dims());
        wrap(attention_forward(&shape, &storage(query), &storage(key), &storage(value), visibility).0)
    }

    fn log_probabilities(input: Tensor<Self, 2>) -> Tensor<Self, 2> {
        wrap(log_softmax(&storage(input)))
    }

    fn sum_of_squares(input: Tensor<Self, 1>) -> Tensor<Self, 1> {
        wrap(rows::sum_of_squares(&storage(input)))
    }

    fn adamw(state: Moments<Self>, gradient: Tensor<Self, 1>, step: &AdamWStep) -> Moments<Self> {
        let Moments { weight, first, second } = state;
        let [mut weight, mut first, mut second] = [weight, first, second].map(|part| numbers(&storage(part)));
        elementwise::adamw(&mut weight, &mut first, &mut second, &storage(gradient), step);
        Moments { weight: wrap(weight), first: wrap(first), second: wrap(second) }
    }
}

#[cfg(test)]
mod tests;
