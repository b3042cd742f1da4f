//! Kernels that reduce rows: norms, softmax, sums.

use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::numbers::{numbers, tensor, width};
use super::simd::vectorised;

/// Rows a task takes: enough to be worth a task, and fixed, so that sums over tasks have one order.
const ROWS: usize = 32;
/// Elements a task takes of a flat sum.
const ELEMENTS: usize = 1 << 15;

/// `x · weight / √(mean(x²) + ε)`, row by row.
///
/// # Shapes
/// - input, output: `[rows, width]`
/// - weight: `[width]`
pub(super) fn rms_norm(input: &FlexTensor, weight: &FlexTensor, epsilon: f32) -> FlexTensor {
    let (input, weight) = (numbers(input), numbers(weight));
    let (x, w, width) = (input.storage::<f32>(), weight.storage::<f32>(), width(&input));
    let mut out = vec![0.0; x.len()];
    out.par_chunks_mut(ROWS * width).zip(x.par_chunks(ROWS * width)).for_each(|(out, x)| {
        vectorised(|| {
            for (out, x) in out.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
                let scale = inverse_root(x, epsilon);
                for ((out, x), w) in out.iter_mut().zip(x).zip(w) {
                    *out = x * scale * w;
                }
            }
        });
    });
    tensor(input.layout().shape().clone(), out)
}

/// Gradients of [`rms_norm`]'s input and weight.
///
/// With `s = 1/√(mean(x²) + ε)` and `g` the gradient of the output: `dx = s·w·g − x·s³·mean(w·g·x)`, `dw = Σ g·x·s`.
pub(super) fn rms_norm_backward(
    input: &FlexTensor,
    weight: &FlexTensor,
    epsilon: f32,
    gradient: &FlexTensor,
) -> (FlexTensor, FlexTensor) {
    let (input, weight, gradient) = (numbers(input), numbers(weight), numbers(gradient));
    let (x, w, g, width) = (input.storage::<f32>(), weight.storage::<f32>(), gradient.storage::<f32>(), width(&input));
    let mut dx = vec![0.0; x.len()];
    let parts: Vec<Vec<f32>> = dx
        .par_chunks_mut(ROWS * width)
        .zip(x.par_chunks(ROWS * width))
        .zip(g.par_chunks(ROWS * width))
        .map(|((dx, x), g)| {
            let mut dw = vec![0.0; width];
            vectorised(|| {
                let rows = dx.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(g.chunks_exact(width));
                for ((dx, x), g) in rows {
                    // Slices of one length, so that no index has to be checked in the loop.
                    let (w, dw) = (&w[..width], &mut dw[..width]);
                    let (dx, x, g) = (&mut dx[..width], &x[..width], &g[..width]);
                    let scale = inverse_root(x, epsilon);
                    let along = sum(width, |i| w[i] * g[i] * x[i]);
                    let pull = along / width as f32 * scale * scale * scale;
                    for i in 0..width {
                        dx[i] = scale * w[i] * g[i] - x[i] * pull;
                        dw[i] += g[i] * x[i] * scale;
                    }
                }
            });
            dw
        })
        .collect();
    let mut dw = vec![0.0; width];
    for part in parts {
        dw.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
    }
    (tensor(input.layout().shape().clone(), dx), tensor([width], dw))
}

#[inline(always)]
fn inverse_root(row: &[f32], epsilon: f32) -> f32 {
    1.0 / (sum(row.len(), |i| row[i] * row[i]) / row.len() as f32 + epsilon).sqrt()
}

/// `x − log Σ exp(x)`, row by row.
///
/// # Shapes
/// - input, output: `[rows, width]`
pub(super) fn log_softmax(input: &FlexTensor) -> FlexTensor {
    let input = numbers(input);
    let (x, width) = (input.storage::<f32>(), width(&input));
    let mut out = vec![0.0; x.len()];
    out.par_chunks_mut(ROWS * width).zip(x.par_chunks(ROWS * width)).for_each(|(out, x)| {
        vectorised(|| {
            for (out, x) in out.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
                let largest = largest(x);
                let mass = sum(width, |i| exp(x[i] - largest));
                let log_mass = largest + mass.ln();
                out.iter_mut().zip(x).for_each(|(out, x)| *out = x - log_mass);
            }
        });
    });
    tensor(input.layout().shape().clone(), out)
}

/// Gradient of [`log_softmax`]'s input from its output `y`: `dx = g − exp(y) · Σ g`.
pub(super) fn log_softmax_backward(output: &FlexTensor, gradient: &FlexTensor) -> FlexTensor {
    let (output, gradient) = (numbers(output), numbers(gradient));
    let (y, g, width) = (output.storage::<f32>(), gradient.storage::<f32>(), width(&output));
    let mut dx = vec![0.0; y.len()];
    dx.par_chunks_mut(ROWS * width).zip(y.par_chunks(ROWS * width)).zip(g.par_chunks(ROWS * width)).for_each(
        |((dx, y), g)| {
            vectorised(|| {
                let rows = dx.chunks_exact_mut(width).zip(y.chunks_exact(width)).zip(g.chunks_exact(width));
                for ((dx, y), g) in rows {
                    let total = sum(width, |i| g[i]);
                    for ((dx, y), g) in dx.iter_mut().zip(y).zip(g) {
                        *dx = g - exp(*y) * total;
                    }
                }
            });
        },
    );
    tensor(output.layout().shape().clone(), dx)
}

/// Sum of squares, `[1]`.
pub(super) fn sum_of_squares(input: &FlexTensor) -> FlexTensor {
    let input = numbers(input);
    let parts: Vec<f64> = input
        .storage::<f32>()
        .par_chunks(ELEMENTS)
        .map(|part| vectorised(|| part.chunks(64).map(|few| f64::from(sum(few.len(), |i| few[i] * few[i]))).sum()))
        .collect();
    tensor([1], vec![parts.iter().sum::<f64>() as f32])
}

/// The largest number, in parts that vector instructions can follow. NaN is passed over, as `f32::max` does.
#[inline(always)]
pub(super) fn largest(row: &[f32]) -> f32 {
    let greater = |left: f32, right: f32| if right > left { right } else { left };
    let mut lanes = [f32::NEG_INFINITY; 16];
    let whole = row.chunks_exact(16);
    let rest = whole.remainder();
    for few in whole {
        for (lane, x) in lanes.iter_mut().zip(few) {
            *lane = greater(*lane, *x);
        }
    }
    lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, greater)
}

/// Sum in eight interleaved parts: one fixed order, and one that vector instructions can follow.
#[inline(always)]
pub(super) fn sum(count: usize, term: impl Fn(usize) -> f32) -> f32 {
    let mut lanes = [0.0f32; 8];
    let whole = count / 8 * 8;
    for start in (0..whole).step_by(8) {
        for (lane, total) in lanes.iter_mut().enumerate() {
            *total += term(start + lane);
        }
    }
    let rest: f32 = (whole..count).map(&term).sum();
    let [a, b, c, d, e, f, g, h] = lanes;
    ((a + e) + (b + f)) + ((c + g) + (d + h)) + rest
}

/// `eˣ` to within 2 units in the last place, in operations that vector instructions have; 0 below −87.
///
/// `x = n·ln 2 + r` with whole n and |r| ≤ ln 2 / 2; `eʳ` by its Taylor series to the seventh power, whose rest is under
/// 1e-8; `2ⁿ` by its bits. The standard library's is a call for each number.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 · 2²³: adding it rounds to a whole number
    const LN2_HIGH: f32 = 0.693_359_4; // few enough bits that n times it is exact
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let clamped = x.clamp(-87.0, 88.0);
    let n = (clamped * std::f32::consts::LOG2_E + ROUND) - ROUND;
    let r = clamped - n * LN2_HIGH - n * LN2_LOW;
    let mut series = 1.0 / 5040.0;
    for factor in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        series = series * r + factor;
    }
    let power = f32::from_bits(((n as i32 + 127) << 23) as u32);
    if x < -87.0 { 0.0 } else { series * power }
}
