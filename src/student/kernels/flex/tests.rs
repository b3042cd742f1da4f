use burn::backend::{Autodiff, Flex};
use burn::tensor::{Distribution, FloatDType, Tensor};

use super::super::fused::storage;
use super::super::{AdamWStep, Kernels, Moments, Visibility, composed};
use super::rows::exp;

type Tape = Autodiff<Flex>;

fn random<const D: usize>(shape: [usize; D]) -> Tensor<Tape, D> {
    Tensor::<Tape, D>::random(shape, Distribution::Normal(0.0, 1.0), &Default::default()).detach().require_grad()
}

fn difference<const D: usize>(left: Tensor<Flex, D>, right: Tensor<Flex, D>) -> f32 {
    (left - right).abs().max().into_scalar()
}

/// Output and every input's gradient of two forms of an operation must agree.
macro_rules! assert_same {
    ([$($input:expr),+], $ours:expr, $theirs:expr) => {{
        let (ours, theirs) = ($ours, $theirs);
        let weights = ours.clone().detach().random_like(Distribution::Normal(0.0, 1.0));
        assert!(difference(ours.clone().inner(), theirs.clone().inner()) < 2e-5, "output");
        let mut our_gradients = (ours * weights.clone()).sum().backward();
        let mut their_gradients = (theirs * weights).sum().backward();
        $(
            let ours = $input.grad_remove(&mut our_gradients).unwrap();
            let theirs = $input.grad_remove(&mut their_gradients).unwrap();
            let apart = difference(ours, theirs);
            assert!(apart < 1e-4, "gradient of {}: {apart}", stringify!($input));
        )+
    }};
}

#[test]
fn projection_agrees_with_its_plain_form() {
    let (input, weight) = (random([37, 24]), random([19, 24]));
    let ours = <Tape as Kernels>::projection(input.clone(), weight.clone());
    assert_same!([input, weight], ours, composed::projection(input.clone(), weight.clone()));
}

#[test]
fn a_frozen_side_of_a_projection_gets_no_gradient_and_the_other_gets_the_same() {
    let (input, weight) = (random([37, 24]), random([19, 24]));
    let factors = random([37, 19]).detach();
    let gradients = |input: &Tensor<Tape, 2>, weight: &Tensor<Tape, 2>| {
        let output = <Tape as Kernels>::projection(input.clone(), weight.clone());
        let mut gradients = (output * factors.clone()).sum().backward();
        let read = |gradient: Tensor<Flex, 2>| gradient.into_data().to_vec::<f32>().unwrap();
        [input, weight].map(|side| side.grad_remove(&mut gradients).map(read))
    };
    let [to_input, to_weight] = gradients(&input, &weight);
    assert!(to_input.is_some() && to_weight.is_some());
    let frozen = |side: &Tensor<Tape, 2>| Tensor::from_inner(side.clone().inner());
    assert_eq!(gradients(&input, &frozen(&weight)), [to_input, None]);
    assert_eq!(gradients(&frozen(&input), &weight), [None, to_weight]);
}

#[test]
fn rms_norm_agrees_with_its_plain_form() {
    let (input, weight) = (random([77, 21]), random([21]));
    let ours = <Tape as Kernels>::rms_norm(input.clone(), weight.clone(), 1e-5);
    assert_same!([input, weight], ours, composed::rms_norm(input.clone(), weight.clone(), 1e-5));
}

#[test]
fn swiglu_agrees_with_its_plain_form() {
    let (gate, up) = (random([77, 21]) * 4.0, random([77, 21]));
    let gate = gate.detach().require_grad();
    let ours = <Tape as Kernels>::swiglu(gate.clone(), up.clone());
    assert_same!([gate, up], ours, composed::swiglu(gate.clone(), up.clone()));
}

#[test]
fn log_softmax_agrees_with_its_plain_form() {
    let input = (random([70, 33]) * 8.0).detach().require_grad();
    let ours = <Tape as Kernels>::log_probabilities(input.clone());
    assert_same!([input], ours, composed::log_probabilities(input.clone()));
}

#[test]
fn rotary_agrees_with_its_plain_form() {
    let input = random([2, 5, 3, 8]);
    let angles = random([2, 5, 1, 4]).detach();
    let (cosine, sine) = (angles.clone().cos(), angles.sin());
    let ours = <Tape as Kernels>::rotary(input.clone(), cosine.clone(), sine.clone());
    assert_same!([input], ours, composed::rotary(input.clone(), cosine.clone(), sine.clone()));
}

#[test]
fn attention_agrees_with_its_plain_form_packed_padded_grouped_and_in_blocks() {
    let segments = |row: usize| (0..150).map(move |place| [1, (place / 40) as u32, (place % 97 / 90) as u32 + 5][row]);
    let packed: Vec<u32> = (0..3).flat_map(segments).collect();
    for (visibility, batch, queries, keys) in [
        (Visibility::from_segments(&packed, 3, 150), 3, 150, 150),
        (Visibility::from_segments(&[1; 14], 2, 7), 2, 7, 7),
        (Visibility::with_cache(&[0, 6], 3, 80), 2, 3, 83),
        (Visibility::with_cache(&[2, 0], 9, 0), 2, 9, 9),
        (Visibility::from_segments(&packed, 3, 150).within(33), 3, 150, 150),
    ] {
        for (heads, groups) in [(4, 2), (3, 3), (4, 1)] {
            let query = random([batch, queries, heads, 8]);
            let (key, value) = (random([batch, keys, groups, 8]), random([batch, keys, groups, 8]));
            let ours = <Tape as Kernels>::causal_attention(query.clone(), key.clone(), value.clone(), &visibility);
            let theirs = composed::causal_attention(query.clone(), key.clone(), value.clone(), &visibility);
            assert_same!([query, key, value], ours, theirs);
        }
    }
}

#[test]
fn attention_does_not_look_at_room_behind_the_keys() {
    let visibility = Visibility::with_cache(&[0, 6], 3, 80);
    let plain = |shape| random(shape).inner();
    let (query, key, value) = (plain([2, 3, 4, 8]), plain([2, 83, 2, 8]), plain([2, 83, 2, 8]));
    let room = Tensor::<Flex, 4>::full([2, 21, 2, 8], f32::NAN, &Default::default());
    let with_room = |keys: &Tensor<Flex, 4>| Tensor::cat(vec![keys.clone(), room.clone()], 1);
    let roomy = Flex::causal_attention(query.clone(), with_room(&key), with_room(&value), &visibility);
    roomy.into_data().assert_eq(&Flex::causal_attention(query, key, value, &visibility).into_data(), true);
}

#[test]
fn keys_are_written_where_they_lie_unless_somebody_else_holds_the_cache() {
    let plain = |shape| random(shape).inner();
    let place = |cache: &Tensor<Flex, 4>| storage(cache.clone()).bytes().as_ptr();
    for dtype in [FloatDType::F32, FloatDType::BF16, FloatDType::F16] {
        let [cache, new] = [[2, 9, 3, 4], [2, 2, 3, 4]].map(|shape| plain(shape).cast(dtype));
        let expected = cache.clone().slice_assign([0..2, 5..7, 0..3, 0..4], new.clone()).into_data();
        let (held, before) = (cache.clone(), cache.to_data());
        let copied = Flex::write_keys(cache, 5, new.clone());
        assert_ne!(place(&copied), place(&held));
        held.to_data().assert_eq(&before, true);
        let there = place(&held);
        let written = Flex::write_keys(held, 5, new);
        assert_eq!(place(&written), there);
        for written in [copied, written] {
            written.into_data().assert_eq(&expected, true);
        }
    }
}

#[test]
fn adamw_agrees_with_its_plain_form() {
    let flat = |scale: f32| random([20_000]).inner() * scale;
    let state = Moments { weight: flat(1.0), first: flat(0.1), second: flat(0.1).square() };
    let gradient = flat(0.3);
    let step =
        AdamWStep { lr: 1e-2, beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.1, gradient_scale: 0.7, step: 3 };
    let ours = <Flex as Kernels>::adamw(state.clone(), gradient.clone(), &step);
    let theirs = composed::adamw(state, gradient.clone(), &step);
    assert!(difference(ours.weight, theirs.weight) < 1e-5);
    assert!(difference(ours.first, theirs.first) < 1e-6);
    assert!(difference(ours.second, theirs.second) < 1e-6);
    let squares = <Flex as Kernels>::sum_of_squares(gradient.clone()).into_scalar();
    let plain = composed::sum_of_squares(gradient).into_scalar();
    assert!((squares - plain).abs() < 1e-3 * plain, "{squares} {plain}");
}

#[test]
fn the_exponential_is_good_to_the_last_places() {
    let mut worst = 0.0f64;
    for step in -86_000..=87_000 {
        let x = step as f32 / 1_000.0;
        let right = f64::from(x).exp();
        worst = worst.max((f64::from(exp(x)) / right - 1.0).abs());
    }
    assert!(worst < 2.5e-7, "{worst}");
    assert_eq!((exp(f32::NEG_INFINITY), exp(-100.0), exp(0.0)), (0.0, 0.0, 1.0));
    assert!(exp(f32::NAN).is_nan());
}
