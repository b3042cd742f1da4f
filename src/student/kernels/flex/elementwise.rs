//! Kernels that look at each number by itself.

use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::super::AdamWStep;
use super::numbers::{numbers, tensor};
use super::rows::exp;
use super::simd::vectorised;

/// Elements a task takes.
const ELEMENTS: usize = 1 << 14;

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// `gate · σ(gate) · up`.
pub(super) fn swiglu(gate: &FlexTensor, up: &FlexTensor) -> FlexTensor {
    let (gate, up) = (numbers(gate), numbers(up));
    let (a, b) = (gate.storage::<f32>(), up.storage::<f32>());
    let mut out = vec![0.0; a.len()];
    out.par_chunks_mut(ELEMENTS).zip(a.par_chunks(ELEMENTS)).zip(b.par_chunks(ELEMENTS)).for_each(|((out, a), b)| {
        vectorised(|| {
            for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
                *out = a * sigmoid(*a) * b;
            }
        });
    });
    tensor(gate.layout().shape().clone(), out)
}

/// Gradients of [`swiglu`]'s gate and up: with `s = σ(gate)`, `dgate = g·up·s·(1 + gate·(1 − s))`, `dup = g·gate·s`.
pub(super) fn swiglu_backward(gate: &FlexTensor, up: &FlexTensor, gradient: &FlexTensor) -> (FlexTensor, FlexTensor) {
    let (gate, up, gradient) = (numbers(gate), numbers(up), numbers(gradient));
    let (a, b, g) = (gate.storage::<f32>(), up.storage::<f32>(), gradient.storage::<f32>());
    let (mut da, mut db) = (vec![0.0; a.len()], vec![0.0; a.len()]);
    let inputs = a.par_chunks(ELEMENTS).zip(b.par_chunks(ELEMENTS)).zip(g.par_chunks(ELEMENTS));
    da.par_chunks_mut(ELEMENTS).zip(db.par_chunks_mut(ELEMENTS)).zip(inputs).for_each(|((da, db), ((a, b), g))| {
        vectorised(|| {
            for ((((da, db), a), b), g) in da.iter_mut().zip(db).zip(a).zip(b).zip(g) {
                let s = sigmoid(*a);
                *da = g * b * s * (1.0 + a * (1.0 - s));
                *db = g * a * s;
            }
        });
    });
    let shape = gate.layout().shape().clone();
    (tensor(shape.clone(), da), tensor(shape, db))
}

/// Rotates the two halves of every head; `back` turns the other way, which is also the gradient.
///
/// # Shapes
/// - input, output: `[batch, time, heads, head width]`
/// - cosine, sine: `[batch, time, 1, head width / 2]`
pub(super) fn rotary(input: &FlexTensor, cosine: &FlexTensor, sine: &FlexTensor, back: bool) -> FlexTensor {
    let (input, cosine, sine) = (numbers(input), numbers(cosine), numbers(sine));
    let shape = input.layout().shape().clone();
    let (heads, width) = (shape[2], shape[3]);
    let half = width / 2;
    let (x, cosine, sine) = (input.storage::<f32>(), cosine.storage::<f32>(), sine.storage::<f32>());
    let turn = if back { -1.0 } else { 1.0 };
    let mut out = vec![0.0; x.len()];
    out.par_chunks_mut(heads * width).zip(x.par_chunks(heads * width)).enumerate().with_min_len(16).for_each(
        |(position, (out, x))| {
            let cosine = &cosine[position * half..][..half];
            let sine = &sine[position * half..][..half];
            vectorised(|| {
                for (out, x) in out.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
                    let ((out1, out2), (x1, x2)) = (out.split_at_mut(half), x.split_at(half));
                    let (out2, x1, x2) = (&mut out2[..half], &x1[..half], &x2[..half]);
                    for i in 0..half {
                        let s = turn * sine[i];
                        out1[i] = x1[i] * cosine[i] - x2[i] * s;
                        out2[i] = x2[i] * cosine[i] + x1[i] * s;
                    }
                }
            });
        },
    );
    tensor(shape, out)
}

/// One AdamW update in place (where nobody else holds the tensors), in one pass over memory.
pub(super) fn adamw(
    weight: &mut FlexTensor,
    first: &mut FlexTensor,
    second: &mut FlexTensor,
    gradient: &FlexTensor,
    step: &AdamWStep,
) {
    let gradient = numbers(gradient);
    let (correction1, correction2) = step.bias_corrections();
    let (beta1, beta2) = (step.beta1 as f32, step.beta2 as f32);
    let (rest1, rest2) = ((1.0 - step.beta1) as f32, (1.0 - step.beta2) as f32);
    let keep = (1.0 - step.lr * step.weight_decay) as f32;
    let rate = (step.lr / correction1) as f32;
    let root_correction = correction2.sqrt() as f32;
    let (epsilon, scale) = (step.epsilon as f32, step.gradient_scale as f32);
    weight
        .storage_mut::<f32>()
        .par_chunks_mut(ELEMENTS)
        .zip(first.storage_mut::<f32>().par_chunks_mut(ELEMENTS))
        .zip(second.storage_mut::<f32>().par_chunks_mut(ELEMENTS))
        .zip(gradient.storage::<f32>().par_chunks(ELEMENTS))
        .for_each(|(((weight, first), second), gradient)| {
            vectorised(|| {
                for (((weight, first), second), gradient) in weight.iter_mut().zip(first).zip(second).zip(gradient) {
                    let g = gradient * scale;
                    *first = beta1 * *first + rest1 * g;
                    *second = beta2 * *second + rest2 * g * g;
                    let denominator = second.sqrt() / root_correction + epsilon;
                    *weight = *weight * keep - rate * *first / denominator;
                }
            });
        });
}
