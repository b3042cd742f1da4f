//! What each operation with a backward pass of its own saves beside the same written with burn's tensor operations, which
//! burn differentiates. Forward and backward together, on the processor. Prints figures, asserts none.
//!
//! ```text
//! cargo bench -p stillhouse-student --bench kernels
//! ```

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    missing_docs,
    reason = "a benchmark prints, and stops at a surprise"
)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use burn::tensor::{Distribution, Tensor};
use stillhouse_student::backend::{Cpu, CpuTape};
use stillhouse_student::kernels::{AdamWStep, Kernels, Moments, Visibility};

/// The plain forms are those that the tests compare with.
#[path = "../kernels/composed.rs"]
mod composed;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A model's measures: of 7 million parameters at 16 × 128 tokens, and of SmolLM2-135M at 1 × 128.
#[derive(Clone, Copy)]
struct Shape {
    name: &'static str,
    rows: usize,
    length: usize,
    width: usize,
    heads: usize,
    kv_heads: usize,
    inner: usize,
    vocabulary: usize,
}

const SHAPES: [Shape; 2] = [
    Shape {
        name: "7 M, 16 × 128",
        rows: 16,
        length: 128,
        width: 256,
        heads: 4,
        kv_heads: 4,
        inner: 672,
        vocabulary: 4096,
    },
    Shape {
        name: "SmolLM2-135M, 1 × 128",
        rows: 1,
        length: 128,
        width: 576,
        heads: 9,
        kv_heads: 3,
        inner: 1536,
        vocabulary: 49_152,
    },
];

fn main() {
    stillhouse_student::cpu::prepare(0);
    println!("{:<24} {:<16} {:>10} {:>10} {:>8}", "shape", "operation", "composed", "ours", "ratio");
    for shape in SHAPES {
        measure(shape);
    }
}

/// A tensor that a gradient is wanted of.
fn read<const D: usize>(shape: [usize; D]) -> Tensor<CpuTape, D> {
    Tensor::<CpuTape, D>::random(shape, Distribution::Normal(0.0, 1.0), &Default::default()).require_grad()
}

fn measure(shape: Shape) {
    let Shape { rows, length, width, heads, kv_heads, inner, vocabulary, .. } = shape;
    let (positions, head) = (rows * length, width / heads);
    let pass = |output: Tensor<CpuTape, 1>| drop(black_box(output.backward()));

    let (input, weight) = (read([positions, width]), read([width]));
    line(
        shape,
        "RMS norm",
        || pass(composed::rms_norm(input.clone(), weight.clone(), 1e-5).sum()),
        || pass(CpuTape::rms_norm(input.clone(), weight.clone(), 1e-5).sum()),
    );
    let (input, angle) = (read([rows, length, heads, head]), [rows, length, 1, head / 2]);
    let angle = Tensor::<CpuTape, 4>::random(angle, Distribution::Normal(0.0, 1.0), &Default::default());
    line(
        shape,
        "rotary",
        || pass(composed::rotary(input.clone(), angle.clone(), angle.clone()).sum()),
        || pass(CpuTape::rotary(input.clone(), angle.clone(), angle.clone()).sum()),
    );
    let (gate, up) = (read([positions, inner]), read([positions, inner]));
    line(
        shape,
        "SwiGLU",
        || pass(composed::swiglu(gate.clone(), up.clone()).sum()),
        || pass(CpuTape::swiglu(gate.clone(), up.clone()).sum()),
    );
    let query = read([rows, length, heads, head]);
    let (key, value) = (read([rows, length, kv_heads, head]), read([rows, length, kv_heads, head]));
    let visibility = Visibility::from_segments(&vec![1; positions], rows, length);
    let inputs = || (query.clone(), key.clone(), value.clone());
    let attend = |(query, key, value)| pass(composed::causal_attention(query, key, value, &visibility).sum());
    let attend_fused = |(query, key, value)| pass(CpuTape::causal_attention(query, key, value, &visibility).sum());
    line(shape, "attention", || attend(inputs()), || attend_fused(inputs()));
    let logits = read([positions, vocabulary]);
    line(
        shape,
        "log-softmax",
        || pass(composed::log_probabilities(logits.clone()).sum()),
        || pass(CpuTape::log_probabilities(logits.clone()).sum()),
    );
    let (input, weight) = (read([positions, width]), read([inner, width]));
    line(
        shape,
        "projection",
        || pass(composed::projection(input.clone(), weight.clone()).sum()),
        || pass(CpuTape::projection(input.clone(), weight.clone()).sum()),
    );
    let parameters = width * inner * 8;
    let numbers = || Tensor::<Cpu, 1>::random([parameters], Distribution::Default, &Default::default());
    let (weight, gradient) = (numbers(), numbers());
    let (first, second) = (weight.zeros_like(), weight.zeros_like());
    let state = || Moments { weight: weight.clone(), first: first.clone(), second: second.clone() };
    let step =
        AdamWStep { lr: 1e-3, beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.1, gradient_scale: 0.5, step: 3 };
    line(
        shape,
        "AdamW",
        || drop(black_box(composed::adamw(state(), gradient.clone(), &step))),
        || drop(black_box(Cpu::adamw(state(), gradient.clone(), &step))),
    );
    line(
        shape,
        "sum of squares",
        || drop(black_box(composed::sum_of_squares(gradient.clone()).into_data())),
        || drop(black_box(Cpu::sum_of_squares(gradient.clone()).into_data())),
    );
}

/// Both in turns, so that whatever else the machine does meets both.
fn line(shape: Shape, operation: &str, composed: impl Fn(), ours: impl Fn()) {
    let (mut plain, mut own) = (Vec::new(), Vec::new());
    for _ in 0..31 {
        plain.push(timed(&composed));
        own.push(timed(&ours));
    }
    let median = |mut times: Vec<Duration>| {
        times.sort();
        times[times.len() / 2].as_secs_f64() * 1e3
    };
    let (plain, own) = (median(plain), median(own));
    println!("{:<24} {operation:<16} {plain:>7.2} ms {own:>7.2} ms {:>7.1}×", shape.name, plain / own);
}

fn timed(work: impl Fn()) -> Duration {
    let started = Instant::now();
    work();
    started.elapsed()
}
