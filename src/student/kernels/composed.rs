//! The kernels written with tensor operations and differentiated by burn: what the others are tested against.

use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, activation};

use super::{AdamWStep, Moments, Visibility};

pub(super) fn projection<B: Backend>(input: Tensor<B, 2>, weight: Tensor<B, 2>) -> Tensor<B, 2> {
    input.matmul(weight.transpose())
}

pub(super) fn rms_norm<B: Backend>(input: Tensor<B, 2>, weight: Tensor<B, 1>, epsilon: f64) -> Tensor<B, 2> {
    let scale = (input.clone().square().mean_dim(1) + epsilon).sqrt().recip();
    input * scale * weight.unsqueeze()
}

pub(super) fn rotary<B: Backend>(input: Tensor<B, 4>, cosine: Tensor<B, 4>, sine: Tensor<B, 4>) -> Tensor<B, 4> {
    let half = input.dims()[3] / 2;
    let first = input.clone().narrow(3, 0, half);
    let second = input.narrow(3, half, half);
    Tensor::cat(vec![first.clone() * cosine.clone() - second.clone() * sine.clone(), second * cosine + first * sine], 3)
}

pub(super) fn swiglu<B: Backend>(gate: Tensor<B, 2>, up: Tensor<B, 2>) -> Tensor<B, 2> {
    activation::silu(gate) * up
}

pub(super) fn causal_attention<B: Backend>(
    query: Tensor<B, 4>,
    key: Tensor<B, 4>,
    value: Tensor<B, 4>,
    visibility: &Visibility,
) -> Tensor<B, 4> {
    let device = query.device();
    let [batch, queries, heads, width] = query.dims();
    let [_, keys, groups, _] = key.dims();
    let shared = heads / groups;
    // The query heads of one group lie side by side, so a group is one matrix product.
    let query = query.reshape([batch, queries, groups, shared, width]).permute([0, 2, 3, 1, 4]).reshape([
        batch,
        groups,
        shared * queries,
        width,
    ]);
    let key = key.permute([0, 2, 3, 1]);
    let value = value.permute([0, 2, 1, 3]);
    let scores = (query.matmul(key) / (width as f64).sqrt()).reshape([batch, groups, shared, queries, keys]);
    let scores = scores.mask_fill(visibility.hidden_mask::<B>(&device), f32::NEG_INFINITY);
    let weights = activation::softmax(scores, 4).reshape([batch, groups, shared * queries, keys]);
    weights
        .matmul(value)
        .reshape([batch, groups, shared, queries, width])
        .permute([0, 3, 1, 2, 4])
        .reshape([batch, queries, heads, width])
}

pub(super) fn log_probabilities<B: Backend>(input: Tensor<B, 2>) -> Tensor<B, 2> {
    activation::log_softmax(input, 1)
}

pub(super) fn sum_of_squares<B: Backend>(input: Tensor<B, 1>) -> Tensor<B, 1> {
    input.square().sum()
}

pub(super) fn adamw<B: Backend>(state: Moments<B>, gradient: Tensor<B, 1>, step: &AdamWStep) -> Moments<B> {
    let (correction1, correction2) = step.bias_corrections();
    let gradient = gradient * step.gradient_scale;
    let first = state.first * step.beta1 + gradient.clone() * (1.0 - step.beta1);
    let second = state.second * step.beta2 + gradient.square() * (1.0 - step.beta2);
    let denominator = (second.clone() / correction2).sqrt() + step.epsilon;
    let weight =
        state.weight * (1.0 - step.lr * step.weight_decay) - first.clone() / denominator * (step.lr / correction1);
    Moments { weight, first, second }
}
