//! Kernels on bf16 numbers: what the same kernels make of these numbers in f32, rounded once.

use std::cell::Cell;

use burn::backend::{Autodiff, Flex};
use burn::tensor::{DType, Tensor, TensorData};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore as _, SeedableRng as _};

use super::super::{Kernels, Visibility};

type Tape = Autodiff<Flex>;

/// Half the distance between neighbours is at most this part of a number: bf16 keeps eight significant bits.
const HALF_STEP: f32 = 1.0 / 256.0;

/// Normal numbers, the same in every run: each tensor of a test has a stream of its own.
fn random<const D: usize>(shape: [usize; D]) -> Tensor<Tape, D> {
    thread_local! { static STREAM: Cell<u64> = const { Cell::new(0) }; }
    let mut draw = ChaCha8Rng::seed_from_u64(STREAM.replace(STREAM.get() + 1));
    let mut uniform = || (draw.next_u32() >> 8) as f32 / (1u32 << 24) as f32;
    // The sum of twelve uniform numbers has variance 1.
    let mut normal = || (0..12).map(|_| uniform()).sum::<f32>() - 6.0;
    let numbers: Vec<f32> = (0..shape.iter().product()).map(|_| normal()).collect();
    Tensor::from_data(TensorData::new(numbers, shape), &Default::default())
}

/// Random numbers that bf16 holds exactly, in f32.
fn short<const D: usize>(shape: [usize; D]) -> Tensor<Tape, D> {
    random(shape).cast(DType::BF16).cast(DType::F32).detach().require_grad()
}

fn long<const D: usize>(shape: [usize; D]) -> Tensor<Tape, D> {
    random(shape).detach().require_grad()
}

fn numbers<const D: usize>(tensor: Tensor<Flex, D>) -> Vec<f32> {
    tensor.into_data().convert::<f32>().into_vec().unwrap()
}

/// Each number within half a step of the exact one, or within a part of the largest.
fn assert_near<const D: usize>(what: &str, got: Tensor<Flex, D>, exact: Tensor<Flex, D>, half: f32, of_largest: f32) {
    let (got, exact) = (numbers(got), numbers(exact));
    assert_eq!(got.len(), exact.len());
    let largest = exact.iter().fold(0.0f32, |most, number| most.max(number.abs()));
    assert!(largest > 0.0, "{what} is all zero");
    for (got, exact) in got.iter().zip(&exact) {
        let allowed = exact.abs() * half + largest * of_largest;
        assert!((got - exact).abs() <= allowed, "{what}: {got} is not {exact}");
    }
}

/// Runs an operation on the same numbers twice, in f32 and with `$input`s in bf16, and compares outputs and gradients.
/// `$weight`s are f32 both times. What may differ beyond the last rounding is a part of a tensor's largest number.
macro_rules! assert_rounded_once {
    ([$($input:ident),+], [$($weight:ident),*], $of_largest:expr, $operation:expr) => {{
        let exact = $operation;
        let factors = short(exact.dims()).detach();
        let mut exact_gradients = (exact.clone() * factors.clone()).sum().backward();
        $(let $input = ($input.clone(), $input.clone().cast(DType::BF16).detach().require_grad());)+
        $(let $weight = ($weight.clone(), $weight.clone().detach().require_grad());)*
        let got = {
            $(let $input = $input.1.clone();)+
            $(let $weight = $weight.1.clone();)*
            $operation
        };
        assert_eq!(got.dtype(), DType::BF16);
        assert_near("output", got.clone().inner(), exact.inner(), HALF_STEP, 1e-5);
        let mut gradients = (got * factors.cast(DType::BF16)).sum().backward();
        $(
            let gradient = $input.1.grad_remove(&mut gradients).unwrap();
            assert_eq!(gradient.dtype(), DType::BF16);
            let exact = $input.0.grad_remove(&mut exact_gradients).unwrap();
            assert_near(stringify!($input), gradient, exact, HALF_STEP, $of_largest);
        )+
        $(
            let gradient = $weight.1.grad_remove(&mut gradients).unwrap();
            assert_eq!(gradient.dtype(), DType::F32, "a weight's gradient is never rounded");
            let exact = $weight.0.grad_remove(&mut exact_gradients).unwrap();
            assert_near(stringify!($weight), gradient, exact, 0.0, 1e-5);
        )*
    }};
}

#[test]
fn projection_is_rounded_once() {
    let (input, weight) = (short([37, 24]), short([19, 24]));
    assert_rounded_once!([input], [weight], 1e-5, <Tape as Kernels>::projection(input.clone(), weight.clone()));
}

#[test]
fn projection_rounds_a_weight_where_it_is_used_and_leaves_it_alone() {
    let (input, weight) = (short([5, 24]), long([19, 24]));
    let rounded = weight.clone().detach().cast(DType::BF16).cast(DType::F32);
    let exact = <Tape as Kernels>::projection(input.clone(), rounded).inner();
    let got = <Tape as Kernels>::projection(input.clone().cast(DType::BF16), weight.clone());
    assert_near("output", got.clone().inner(), exact, HALF_STEP, 1e-5);
    let gradients = got.sum().backward();
    // The gradient of a sum of outputs is the sum of the inputs, the same for every row of the weight.
    let expected = input.inner().sum_dim(0).expand([19, 24]);
    assert_near("weight", weight.grad(&gradients).unwrap(), expected, 0.0, 1e-6);
    assert_eq!(weight.dtype(), DType::F32);
}

#[test]
fn rms_norm_is_rounded_once() {
    let (input, weight) = (short([77, 21]), long([21]));
    assert_rounded_once!([input], [weight], 1e-5, <Tape as Kernels>::rms_norm(input.clone(), weight.clone(), 1e-5));
}

#[test]
fn swiglu_is_rounded_once() {
    let (gate, up) = (short([77, 21]), short([77, 21]));
    assert_rounded_once!([gate, up], [], 1e-5, <Tape as Kernels>::swiglu(gate.clone(), up.clone()));
}

#[test]
fn rotary_is_rounded_once_and_its_angles_never() {
    let input = short([2, 5, 3, 8]);
    let angles = long([2, 5, 1, 4]).detach();
    let (cosine, sine) = (angles.clone().cos(), angles.sin());
    assert_rounded_once!([input], [], 1e-5, <Tape as Kernels>::rotary(input.clone(), cosine.clone(), sine.clone()));
}

#[test]
fn attention_is_rounded_once_forward_and_its_gradients_feel_the_rounded_output() {
    let segments: Vec<u32> = (0..150).map(|place| 1 + place / 40).collect();
    let visibility = Visibility::from_segments(&segments, 1, 150);
    let (query, key, value) = (short([1, 150, 4, 8]), short([1, 150, 2, 8]), short([1, 150, 2, 8]));
    // Backward, scores lose Σ g·out of the output as it was stored, and a gradient adds up over many of them.
    assert_rounded_once!(
        [query, key, value],
        [],
        2.0 * HALF_STEP,
        <Tape as Kernels>::causal_attention(query.clone(), key.clone(), value.clone(), &visibility)
    );
}
