//! Every kernel of a GPU against the processor's: outputs and gradients, on shapes that fit no tile.

use std::time::{Duration, Instant};

use burn::backend::{Autodiff, Flex};
use burn::tensor::{FloatDType, Tensor, TensorData};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{AdamWStep, FusedKernels, Kernels, Moments, Visibility};
use crate::backend::Device;

/// How far a kernel is from the processor's.
#[derive(Debug, Clone)]
pub struct Difference {
    /// The kernel and its shapes.
    pub what: String,
    /// Largest difference of a number, as a fraction of the largest number of its tensor (or of 1, if that is more).
    pub largest: f32,
    /// How much that may be: sums in another order differ in their last places.
    pub allowed: f32,
    /// Time on the device, compilation of the kernels included.
    pub took: Duration,
}

impl Difference {
    /// Whether the two agree. A number that is none agrees with nothing.
    pub fn is_fine(&self) -> bool {
        self.largest <= self.allowed
    }
}

/// Compares every kernel on every shape, in f32.
pub fn compare<B: FusedKernels>(device: &Device<B>) -> Vec<Difference> {
    cases().iter().map(|case| compared::<B>(case, FloatDType::F32, device)).collect()
}

/// Compares the kernels that layers are made of, with what layers hand to each other in another type: whatever the device
/// does with such numbers, each result is at most rounded to the next one.
pub fn compare_in<B: FusedKernels>(stored: FloatDType, device: &Device<B>) -> Vec<Difference> {
    cases().iter().filter(|case| case.is_of_layers()).map(|case| compared::<B>(case, stored, device)).collect()
}

fn compared<B: FusedKernels>(case: &Case, stored: FloatDType, device: &Device<B>) -> Difference {
    let started = Instant::now();
    let theirs = case.compute::<B>(stored, device);
    let took = started.elapsed();
    let ours = case.compute::<Flex>(stored, &Default::default());
    let largest = ours.iter().zip(&theirs).map(|(ours, theirs)| difference(ours, theirs)).fold(0.0, worse);
    // A tensor that is missing is as far off as can be.
    let largest = if ours.len() == theirs.len() { largest } else { f32::INFINITY };
    let what = match stored {
        FloatDType::F32 => format!("{case:?}"),
        other => format!("{case:?} in {other:?}"),
    };
    Difference { what, largest, allowed: case.allowed(stored), took }
}

/// The larger of two, where no number is larger than any.
fn worse(left: f32, right: f32) -> f32 {
    if left.is_nan() || left > right { left } else { right }
}

fn difference(ours: &[f32], theirs: &[f32]) -> f32 {
    if ours.len() != theirs.len() {
        return f32::INFINITY;
    }
    let scale = ours.iter().fold(1.0f32, |most, number| most.max(number.abs()));
    ours.iter().zip(theirs).map(|(ours, theirs)| (ours - theirs).abs() / scale).fold(0.0, worse)
}

/// A kernel and the shapes to run it on.
#[derive(Debug)]
enum Case {
    Projection { rows: usize, inner: usize, columns: usize },
    RmsNorm { rows: usize, width: usize },
    Rotary { shape: [usize; 4] },
    SwiGlu { rows: usize, width: usize },
    LogSoftmax { rows: usize, width: usize },
    Attention { seen: Seen, heads: usize, groups: usize, width: usize },
    SumOfSquares { elements: usize },
    AdamW { elements: usize },
}

/// What queries see.
#[derive(Debug, Clone, Copy)]
enum Seen {
    /// Packed examples of uneven lengths, with padding behind them.
    Packed { batch: usize, time: usize },
    /// New positions after cached ones, the first row behind left padding.
    Cached { batch: usize, queries: usize, before: usize },
}

impl Seen {
    fn visibility(self) -> (Visibility, usize, usize, usize) {
        match self {
            Self::Packed { batch, time } => {
                let segment = |row: usize, place: usize| match row {
                    0 => 1,
                    1 if place >= time - time / 7 => 0,
                    _ => 1 + place * (row + 1) / (time / 2 + 3),
                };
                let segments: Vec<u32> = (0..batch * time).map(|at| segment(at / time, at % time) as u32).collect();
                (Visibility::from_segments(&segments, batch, time), batch, time, time)
            }
            Self::Cached { batch, queries, before } => {
                let padding: Vec<usize> =
                    (0..batch).map(|row| if row == 0 { (before + queries) / 2 } else { 0 }).collect();
                (Visibility::with_cache(&padding, queries, before), batch, queries, before + queries)
            }
        }
    }
}

fn cases() -> Vec<Case> {
    let mut cases = vec![
        Case::Projection { rows: 37, inner: 24, columns: 19 },
        Case::Projection { rows: 130, inner: 96, columns: 257 },
        Case::RmsNorm { rows: 1, width: 1 },
        Case::RmsNorm { rows: 77, width: 21 },
        Case::RmsNorm { rows: 301, width: 64 },
        Case::RmsNorm { rows: 9, width: 576 },
        Case::RmsNorm { rows: 5, width: 2049 },
        Case::Rotary { shape: [2, 5, 3, 6] },
        Case::Rotary { shape: [1, 33, 9, 64] },
        Case::Rotary { shape: [3, 7, 2, 128] },
        Case::SwiGlu { rows: 1, width: 1 },
        Case::SwiGlu { rows: 77, width: 321 },
        Case::LogSoftmax { rows: 70, width: 33 },
        Case::LogSoftmax { rows: 3, width: 9001 },
        Case::LogSoftmax { rows: 2, width: 151_936 },
        Case::SumOfSquares { elements: 1 },
        Case::SumOfSquares { elements: 300_001 },
        Case::AdamW { elements: 20_011 },
    ];
    let attention = |seen, (heads, groups), width| Case::Attention { seen, heads, groups, width };
    let packed = Seen::Packed { batch: 3, time: 70 };
    for width in [8, 24, 40, 64, 80, 128] {
        cases.push(attention(packed, (4, 2), width));
    }
    for heads in [(1, 1), (3, 3), (9, 3), (8, 1)] {
        cases.push(attention(Seen::Packed { batch: 2, time: 33 }, heads, 16));
    }
    for seen in [
        Seen::Packed { batch: 1, time: 1 },
        Seen::Packed { batch: 2, time: 150 },
        Seen::Cached { batch: 2, queries: 1, before: 83 },
        Seen::Cached { batch: 3, queries: 5, before: 40 },
        Seen::Cached { batch: 2, queries: 37, before: 0 },
        Seen::Cached { batch: 2, queries: 19, before: 64 },
    ] {
        cases.push(attention(seen, (4, 2), 32));
    }
    cases
}

/// The same made-up numbers for both: normal enough, and never the same twice in a case.
struct Numbers<'a, B: FusedKernels> {
    generator: ChaCha8Rng,
    /// The type of what layers hand to each other.
    stored: FloatDType,
    device: &'a Device<B>,
}

impl<B: FusedKernels> Numbers<'_, B> {
    fn plain<const D: usize>(&mut self, shape: [usize; D]) -> Tensor<B, D> {
        let count = shape.iter().product();
        let numbers: Vec<f32> =
            (0..count).map(|_| (0..4).map(|_| self.generator.random_range(-1.0f32..1.0)).sum()).collect();
        Tensor::from_data(TensorData::new(numbers, shape), self.device)
    }

    /// What a layer reads.
    fn read<const D: usize>(&mut self, shape: [usize; D]) -> Tensor<Autodiff<B>, D> {
        let stored = self.stored;
        Tensor::from_inner(self.plain(shape).cast(stored)).require_grad()
    }

    /// What a layer has: f32 whatever it reads.
    fn weight<const D: usize>(&mut self, shape: [usize; D]) -> Tensor<Autodiff<B>, D> {
        Tensor::from_inner(self.plain(shape)).require_grad()
    }

    fn fixed<const D: usize>(&mut self, shape: [usize; D]) -> Tensor<Autodiff<B>, D> {
        Tensor::from_inner(self.plain(shape))
    }
}

fn read<B: FusedKernels, const D: usize>(tensor: Tensor<B, D>) -> Vec<f32> {
    // f32 by the conversion, so the fallback is never taken.
    tensor.into_data().convert::<f32>().into_vec().unwrap_or_default()
}

/// Reads the output and the gradient of every input.
macro_rules! output_and_gradients {
    ($numbers:expr, $output:expr, [$($input:expr),+]) => {{
        let output = $output;
        let factors = $numbers.fixed(output.dims()).cast(output.dtype());
        let mut read_all = vec![read(output.clone().inner())];
        let mut gradients = (output * factors).sum().backward();
        $(read_all.extend($input.grad_remove(&mut gradients).map(read));)+
        read_all
    }};
}

/// Keys in a cache that has room behind them, those after the first `before` written into it.
fn in_cache<B: FusedKernels>(keys: Tensor<B, 4>, before: usize) -> Tensor<B, 4> {
    let [_, count, ..] = keys.dims();
    let room = keys.full_like(f32::NAN);
    <B as Kernels>::write_keys(Tensor::cat(vec![keys.clone(), room], 1), before, keys.narrow(1, before, count - before))
}

impl Case {
    /// Whether its numbers may be shorter than f32.
    fn is_of_layers(&self) -> bool {
        !matches!(self, Self::LogSoftmax { .. } | Self::SumOfSquares { .. } | Self::AdamW { .. })
    }

    fn allowed(&self, stored: FloatDType) -> f32 {
        // One step from number to number, as a part of the largest: sums that differ in their last places may be rounded to
        // neighbours. Attention's gradients then go on from an output that was.
        let step = match stored {
            FloatDType::BF16 => 1.0 / 128.0,
            FloatDType::F16 => 1.0 / 1024.0,
            _ => 0.0,
        };
        let steps = if matches!(self, Self::Attention { .. }) { 2.0 } else { 1.0 };
        self.allowed_in_f32() + steps * step
    }

    fn allowed_in_f32(&self) -> f32 {
        match self {
            // Matrix units may round their factors to 11 bits (tf32).
            Self::Projection { .. } => 2e-3,
            // Thousands of terms a sum, and a device's exponential and logarithm.
            Self::LogSoftmax { .. } | Self::Attention { .. } => 5e-5,
            _ => 1e-5,
        }
    }

    fn compute<B: FusedKernels>(&self, stored: FloatDType, device: &Device<B>) -> Vec<Vec<f32>> {
        let mut numbers = Numbers::<B> { generator: ChaCha8Rng::seed_from_u64(7), stored, device };
        match *self {
            Self::Projection { rows, inner, columns } => {
                let (input, weight) = (numbers.read([rows, inner]), numbers.weight([columns, inner]));
                let output = Autodiff::<B>::projection(input.clone(), weight.clone());
                output_and_gradients!(numbers, output, [input, weight])
            }
            Self::RmsNorm { rows, width } => {
                let (input, weight) = (numbers.read([rows, width]), numbers.weight([width]));
                let output = <Autodiff<B> as Kernels>::rms_norm(input.clone(), weight.clone(), 1e-5);
                output_and_gradients!(numbers, output, [input, weight])
            }
            Self::Rotary { shape } => {
                let [batch, time, _, width] = shape;
                let input = numbers.read(shape);
                let tables = [batch, time, 1, width / 2];
                let (cosine, sine) = (numbers.fixed(tables), numbers.fixed(tables));
                let output = <Autodiff<B> as Kernels>::rotary(input.clone(), cosine, sine);
                output_and_gradients!(numbers, output, [input])
            }
            Self::SwiGlu { rows, width } => {
                let (gate, up) = (numbers.read([rows, width]), numbers.read([rows, width]));
                let output = <Autodiff<B> as Kernels>::swiglu(gate.clone(), up.clone());
                output_and_gradients!(numbers, output, [gate, up])
            }
            Self::LogSoftmax { rows, width } => {
                let input = Tensor::from_inner(numbers.plain([rows, width]) * 8.0).require_grad();
                let output = Autodiff::<B>::log_probabilities(input.clone());
                output_and_gradients!(numbers, output, [input])
            }
            Self::Attention { seen, heads, groups, width } => {
                let (visibility, batch, queries, keys) = seen.visibility();
                let query = numbers.read([batch, queries, heads, width]);
                let key = numbers.read([batch, keys, groups, width]);
                let value = numbers.read([batch, keys, groups, width]);
                let output = Autodiff::<B>::causal_attention(query.clone(), key.clone(), value.clone(), &visibility);
                let mut read_all = output_and_gradients!(numbers, output, [query, key, value]);
                if let Seen::Cached { before, .. } = seen {
                    let cached = |keys: Tensor<Autodiff<B>, 4>| in_cache(keys.inner(), before);
                    read_all.push(read(B::causal_attention(query.inner(), cached(key), cached(value), &visibility)));
                }
                read_all
            }
            Self::SumOfSquares { elements } => {
                vec![read(<B as Kernels>::sum_of_squares(numbers.plain([elements])))]
            }
            Self::AdamW { elements } => {
                let mut state = Moments {
                    weight: numbers.plain([elements]),
                    first: numbers.plain([elements]),
                    second: numbers.plain([elements]).square(),
                };
                let mut before = state.weight.clone();
                for step in 1..4 {
                    let step = AdamWStep {
                        lr: 1e-2,
                        beta1: 0.9,
                        beta2: 0.95,
                        epsilon: 1e-8,
                        weight_decay: 0.1,
                        gradient_scale: 0.7,
                        step,
                    };
                    // Two of the three steps take a weight that is held elsewhere too, and must not change there.
                    if step.step < 3 {
                        before = state.weight.clone();
                    }
                    state = <B as Kernels>::adamw(state, numbers.plain([elements]), &step);
                }
                vec![read(state.weight), read(state.first), read(state.second), read(before)]
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_not_fine() {
        let fine = |ours: &[f32], theirs: &[f32]| {
            let largest = difference(ours, theirs);
            Difference { what: String::new(), largest, allowed: 1e-5, took: Duration::ZERO }.is_fine()
        };
        assert!(fine(&[1.0, 1000.0], &[1.0, 1000.005]));
        assert!(!fine(&[1.0, 1000.0], &[1.0, 1000.5]));
        assert!(!fine(&[1.0, 2.0], &[f32::NAN, 2.0]));
        assert!(!fine(&[1.0, 2.0], &[1.0]));
    }
}
