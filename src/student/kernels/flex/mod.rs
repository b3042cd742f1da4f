//! Kernels for the processor: plain loops over slices, rows spread over rayon's threads.
//!
//! Every sum has one order whatever the number of threads, so equal steps give equal bits.

mod attention;
mod cache;
mod elementwise;
mod numbers;
mod product;
mod rows;
mod simd;

use burn::backend::Flex;
use burn::tensor::DType;
use burn::tensor::ops::FloatTensorOps;
use burn_flex::FlexTensor;

use super::{AdamWStep, AttentionShape, FusedKernels, Visibility};
use numbers::{numbers, stored_as};

impl FusedKernels for Flex {
    type Masses = std::sync::Arc<Vec<f32>>;

    fn product_in_f32(left: FlexTensor, right: FlexTensor) -> FlexTensor {
        // What lies in f32 already keeps its layout: the product reads a transposed matrix as it is.
        let [left, right] = [left, right].map(|part| if part.dtype() == DType::F32 { part } else { numbers(&part) });
        Flex::float_matmul(left, right)
    }

    fn rms_norm(input: &FlexTensor, weight: &FlexTensor, epsilon: f32) -> FlexTensor {
        stored_as(input.dtype(), rows::rms_norm(input, weight, epsilon))
    }

    fn rms_norm_backward(
        input: &FlexTensor,
        weight: &FlexTensor,
        epsilon: f32,
        gradient: &FlexTensor,
    ) -> [FlexTensor; 2] {
        let (to_input, to_weight) = rows::rms_norm_backward(input, weight, epsilon, gradient);
        [stored_as(input.dtype(), to_input), to_weight]
    }

    fn rotary(input: &FlexTensor, cosine: &FlexTensor, sine: &FlexTensor, back: bool) -> FlexTensor {
        stored_as(input.dtype(), elementwise::rotary(input, cosine, sine, back))
    }

    fn swiglu(gate: &FlexTensor, up: &FlexTensor) -> FlexTensor {
        stored_as(gate.dtype(), elementwise::swiglu(gate, up))
    }

    fn swiglu_backward(gate: &FlexTensor, up: &FlexTensor, gradient: &FlexTensor) -> [FlexTensor; 2] {
        let (to_gate, to_up) = elementwise::swiglu_backward(gate, up, gradient);
        [to_gate, to_up].map(|part| stored_as(gate.dtype(), part))
    }

    fn log_softmax_forward(input: &FlexTensor) -> FlexTensor {
        rows::log_softmax(input)
    }

    fn log_softmax_backward(output: &FlexTensor, gradient: &FlexTensor) -> FlexTensor {
        rows::log_softmax_backward(output, gradient)
    }

    fn attention_forward(
        shape: &AttentionShape,
        [query, key, value]: [&FlexTensor; 3],
        visibility: &Visibility,
    ) -> (FlexTensor, Self::Masses) {
        let (output, masses) = attention::attention_forward(shape, query, key, value, visibility);
        (stored_as(query.dtype(), output), masses.into())
    }

    fn attention_backward(
        shape: &AttentionShape,
        inputs: [&FlexTensor; 3],
        visibility: &Visibility,
        output: &FlexTensor,
        masses: &Self::Masses,
        gradient: &FlexTensor,
    ) -> [FlexTensor; 3] {
        let gradients = attention::attention_backward(shape, inputs, visibility, output, masses, gradient);
        gradients.map(|part| stored_as(gradient.dtype(), part))
    }

    fn write_keys(cache: FlexTensor, held: usize, new: FlexTensor) -> FlexTensor {
        cache::write_keys(cache, held, &new)
    }

    fn sum_of_squares(input: &FlexTensor) -> FlexTensor {
        rows::sum_of_squares(input)
    }

    fn adamw(state: [FlexTensor; 3], gradient: &FlexTensor, step: &AdamWStep) -> [FlexTensor; 3] {
        // The tensor that comes in is dropped once its numbers are taken: they are then ours alone.
        let [mut weight, mut first, mut second] = state.map(|part| numbers(&part));
        elementwise::adamw(&mut weight, &mut first, &mut second, gradient, step);
        [weight, first, second]
    }
}

#[cfg(test)]
mod short_tests;
#[cfg(test)]
mod tests;
