//! Kernels for GPUs, in cubecl's language: compiled for CUDA, or for Vulkan, when they are first used.
//!
//! They ask for shared memory and barriers only, so they run on any device (a software one included), whatever the size of
//! its planes. Numbers are stored in the tensors' type and computed in f32. Every sum has one order.

mod attention;
mod elementwise;
mod launch;
mod rows;

use burn::tensor::backend::Backend;
use burn::tensor::ops::FloatTensorOps;
use burn::tensor::{DType, FloatDType};
use burn_cubecl::kernel::matmul::{MatmulStrategy, matmul};
use burn_cubecl::tensor::CubeTensor;
use burn_cubecl::{BoolElement, CubeBackend, CubeRuntime, FloatElement, IntElement};

use super::{AdamWStep, AttentionShape, FusedKernels, Visibility};
use crate::backend::{Device, DeviceMemory};
use attention::Starts;

/// Backends that count a device's memory.
pub(crate) trait CountsMemory: Backend {
    /// See [`TrainBackend::device_memory`](crate::backend::TrainBackend::device_memory).
    fn device_memory(device: &Device<Self>) -> Option<DeviceMemory>;
}

impl<R, F, I, B> CountsMemory for CubeBackend<R, F, I, B>
where
    R: CubeRuntime,
    F: FloatElement,
    I: IntElement,
    B: BoolElement,
{
    fn device_memory(device: &Device<Self>) -> Option<DeviceMemory> {
        let usage = R::client(device).memory_usage().ok()?;
        Some(DeviceMemory { in_use: usage.bytes_in_use, reserved: usage.bytes_reserved })
    }
}

impl<R, F, I, B> FusedKernels for CubeBackend<R, F, I, B>
where
    R: CubeRuntime,
    F: FloatElement,
    I: IntElement,
    B: BoolElement,
{
    type Masses = CubeTensor<R>;

    fn product_in_f32(left: CubeTensor<R>, right: CubeTensor<R>) -> CubeTensor<R> {
        let as_it_is = matmul(left.clone(), right.clone(), None, MatmulStrategy::default(), DType::F32);
        as_it_is.unwrap_or_else(|_| {
            // A device without a kernel for short factors and a long product.
            let [left, right] = [left, right].map(|part| Self::float_cast(part, FloatDType::F32));
            Self::float_matmul(left, right)
        })
    }

    fn rms_norm(input: &CubeTensor<R>, weight: &CubeTensor<R>, epsilon: f32) -> CubeTensor<R> {
        rows::rms_norm(input, weight, epsilon)
    }

    fn rms_norm_backward(
        input: &CubeTensor<R>,
        weight: &CubeTensor<R>,
        epsilon: f32,
        gradient: &CubeTensor<R>,
    ) -> [CubeTensor<R>; 2] {
        rows::rms_norm_backward(input, weight, epsilon, gradient)
    }

    fn rotary(input: &CubeTensor<R>, cosine: &CubeTensor<R>, sine: &CubeTensor<R>, back: bool) -> CubeTensor<R> {
        elementwise::rotary(input, cosine, sine, back)
    }

    fn swiglu(gate: &CubeTensor<R>, up: &CubeTensor<R>) -> CubeTensor<R> {
        elementwise::swiglu(gate, up)
    }

    fn swiglu_backward(gate: &CubeTensor<R>, up: &CubeTensor<R>, gradient: &CubeTensor<R>) -> [CubeTensor<R>; 2] {
        elementwise::swiglu_backward(gate, up, gradient)
    }

    fn log_softmax_forward(input: &CubeTensor<R>) -> CubeTensor<R> {
        rows::log_softmax(input)
    }

    fn log_softmax_backward(output: &CubeTensor<R>, gradient: &CubeTensor<R>) -> CubeTensor<R> {
        rows::log_softmax_backward(output, gradient)
    }

    fn attention_forward(
        shape: &AttentionShape,
        inputs: [&CubeTensor<R>; 3],
        visibility: &Visibility,
    ) -> (CubeTensor<R>, CubeTensor<R>) {
        attention::attention(shape, inputs, &Starts::of(visibility, inputs[0]))
    }

    fn attention_backward(
        shape: &AttentionShape,
        inputs: [&CubeTensor<R>; 3],
        visibility: &Visibility,
        output: &CubeTensor<R>,
        masses: &CubeTensor<R>,
        gradient: &CubeTensor<R>,
    ) -> [CubeTensor<R>; 3] {
        attention::attention_backward(shape, inputs, &Starts::of(visibility, inputs[0]), output, masses, gradient)
    }

    fn sum_of_squares(input: &CubeTensor<R>) -> CubeTensor<R> {
        rows::sum_of_squares(input)
    }

    fn adamw(state: [CubeTensor<R>; 3], gradient: &CubeTensor<R>, step: &AdamWStep) -> [CubeTensor<R>; 3] {
        elementwise::adamw(state, gradient, step)
    }
}
