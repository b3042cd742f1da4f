//! Kernels that look at each number by itself: one unit a number, or a pair of them.

use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use super::super::AdamWStep;
use super::launch::{UNITS, contiguous, cubes, dim, empty_like, owned};

#[cube(launch_unchecked)]
fn swiglu_kernel<F: Float>(
    gate: &Array<F>,
    up: &Array<F>,
    output: &mut Array<F>,
    elements: u32,
    #[define(F)] _dtype: StorageType,
) {
    let place = ABSOLUTE_POS;
    if place < elements as usize {
        let a = f32::cast_from(gate[place]);
        let b = f32::cast_from(up[place]);
        output[place] = F::cast_from(a / (1.0f32 + (-a).exp()) * b);
    }
}

#[cube(launch_unchecked)]
fn swiglu_backward_kernel<F: Float>(
    gate: &Array<F>,
    up: &Array<F>,
    gradient: &Array<F>,
    to_gate: &mut Array<F>,
    to_up: &mut Array<F>,
    elements: u32,
    #[define(F)] _dtype: StorageType,
) {
    let place = ABSOLUTE_POS;
    if place < elements as usize {
        let a = f32::cast_from(gate[place]);
        let b = f32::cast_from(up[place]);
        let g = f32::cast_from(gradient[place]);
        let s = 1.0f32 / (1.0f32 + (-a).exp());
        to_gate[place] = F::cast_from(g * b * s * (1.0f32 + a * (1.0f32 - s)));
        to_up[place] = F::cast_from(g * a * s);
    }
}

/// One unit a pair: the two coordinates of a rotation lie half a head apart.
#[cube(launch_unchecked)]
fn rotary_kernel<F: Float>(
    input: &Array<F>,
    cosine: &Array<f32>,
    sine: &Array<f32>,
    output: &mut Array<F>,
    pairs: u32,
    heads: u32,
    half: u32,
    turn: f32,
    #[define(F)] _dtype: StorageType,
) {
    let pair = ABSOLUTE_POS;
    if pair < pairs as usize {
        let half = half as usize;
        let head = pair / half;
        let within = pair % half;
        let angle = head / heads as usize * half + within;
        let first = head * half * 2 + within;
        let second = first + half;
        let c = cosine[angle];
        let s = sine[angle] * turn;
        let x1 = f32::cast_from(input[first]);
        let x2 = f32::cast_from(input[second]);
        output[first] = F::cast_from(x1 * c - x2 * s);
        output[second] = F::cast_from(x2 * c + x1 * s);
    }
}

/// Weight and moments are read and written once each; all arithmetic is in f32.
#[cube(launch_unchecked)]
fn adamw_kernel<F: Float>(
    weight: &mut Array<F>,
    first: &mut Array<F>,
    second: &mut Array<F>,
    gradient: &Array<F>,
    elements: u32,
    beta1: f32,
    beta2: f32,
    rest1: f32,
    rest2: f32,
    keep: f32,
    rate: f32,
    root_correction: f32,
    epsilon: f32,
    scale: f32,
    #[define(F)] _dtype: StorageType,
) {
    let place = ABSOLUTE_POS;
    if place < elements as usize {
        let g = f32::cast_from(gradient[place]) * scale;
        let mean = beta1 * f32::cast_from(first[place]) + rest1 * g;
        let square = beta2 * f32::cast_from(second[place]) + rest2 * g * g;
        let denominator = square.sqrt() / root_correction + epsilon;
        first[place] = F::cast_from(mean);
        second[place] = F::cast_from(square);
        weight[place] = F::cast_from(f32::cast_from(weight[place]) * keep - rate * mean / denominator);
    }
}

pub(super) fn swiglu<R: CubeRuntime>(gate: &CubeTensor<R>, up: &CubeTensor<R>) -> CubeTensor<R> {
    let (gate, up) = (contiguous(gate), contiguous(up));
    let output = empty_like(&gate, gate.dtype);
    let elements = gate.meta.num_elements();
    let dtype = gate.dtype.into();
    #[expect(unsafe_code, reason = "the kernel compares every place with the number of elements")]
    unsafe {
        swiglu_kernel::launch_unchecked::<R>(
            &output.client,
            cubes(elements.div_ceil(UNITS)),
            dim(UNITS),
            gate.into_array_arg(),
            up.into_array_arg(),
            output.clone().into_array_arg(),
            elements as u32,
            dtype,
        );
    }
    output
}

pub(super) fn swiglu_backward<R: CubeRuntime>(
    gate: &CubeTensor<R>,
    up: &CubeTensor<R>,
    gradient: &CubeTensor<R>,
) -> [CubeTensor<R>; 2] {
    let (gate, up, gradient) = (contiguous(gate), contiguous(up), contiguous(gradient));
    let (to_gate, to_up) = (empty_like(&gate, gate.dtype), empty_like(&up, up.dtype));
    let elements = gate.meta.num_elements();
    let dtype = gate.dtype.into();
    #[expect(unsafe_code, reason = "the kernel compares every place with the number of elements")]
    unsafe {
        swiglu_backward_kernel::launch_unchecked::<R>(
            &to_gate.client,
            cubes(elements.div_ceil(UNITS)),
            dim(UNITS),
            gate.into_array_arg(),
            up.into_array_arg(),
            gradient.into_array_arg(),
            to_gate.clone().into_array_arg(),
            to_up.clone().into_array_arg(),
            elements as u32,
            dtype,
        );
    }
    [to_gate, to_up]
}

/// # Shapes
/// - input, output: `[batch, time, heads, head width]`
/// - cosine, sine: `[batch, time, 1, head width / 2]`, f32
pub(super) fn rotary<R: CubeRuntime>(
    input: &CubeTensor<R>,
    cosine: &CubeTensor<R>,
    sine: &CubeTensor<R>,
    back: bool,
) -> CubeTensor<R> {
    let (input, cosine, sine) = (contiguous(input), contiguous(cosine), contiguous(sine));
    let output = empty_like(&input, input.dtype);
    let (heads, half) = (input.meta.shape()[2], input.meta.shape()[3] / 2);
    let pairs = input.meta.num_elements() / 2;
    let dtype = input.dtype.into();
    #[expect(unsafe_code, reason = "the kernel compares every pair with the number of pairs")]
    unsafe {
        rotary_kernel::launch_unchecked::<R>(
            &output.client,
            cubes(pairs.div_ceil(UNITS)),
            dim(UNITS),
            input.into_array_arg(),
            cosine.into_array_arg(),
            sine.into_array_arg(),
            output.clone().into_array_arg(),
            pairs as u32,
            heads as u32,
            half as u32,
            if back { -1.0 } else { 1.0 },
            dtype,
        );
    }
    output
}

pub(super) fn adamw<R: CubeRuntime>(
    state: [CubeTensor<R>; 3],
    gradient: &CubeTensor<R>,
    step: &AdamWStep,
) -> [CubeTensor<R>; 3] {
    let [weight, first, second] = state.map(owned);
    let gradient = contiguous(gradient);
    let elements = weight.meta.num_elements();
    let (correction1, correction2) = step.bias_corrections();
    let dtype = weight.dtype.into();
    #[expect(unsafe_code, reason = "the kernel compares every place with the number of elements")]
    unsafe {
        adamw_kernel::launch_unchecked::<R>(
            &weight.client,
            cubes(elements.div_ceil(UNITS)),
            dim(UNITS),
            weight.clone().into_array_arg(),
            first.clone().into_array_arg(),
            second.clone().into_array_arg(),
            gradient.into_array_arg(),
            elements as u32,
            step.beta1 as f32,
            step.beta2 as f32,
            (1.0 - step.beta1) as f32,
            (1.0 - step.beta2) as f32,
            (1.0 - step.lr * step.weight_decay) as f32,
            (step.lr / correction1) as f32,
            correction2.sqrt() as f32,
            step.epsilon as f32,
            step.gradient_scale as f32,
            dtype,
        );
    }
    [weight, first, second]
}
