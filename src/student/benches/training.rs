//! Tokens a second of one training step on the processor, forward and backward apart. Prints figures, asserts none.
//!
//! ```text
//! cargo bench -p stillhouse-student --bench training
//! cargo bench -p stillhouse-student --bench training -- --ways    # what each way to train costs, in time and memory
//! cargo bench -p stillhouse-student --bench training -- --long    # steps 1–10 beside 91–100, subnormals flushed and not
//! python src/student/benches/training.py        # the same in PyTorch and transformers, where they are installed
//! ```

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    missing_docs,
    reason = "a benchmark prints, and stops at a surprise"
)]

use std::time::{Duration, Instant};

use stillhouse_data::batch::Batch;
use stillhouse_data::signals::TopK;
use stillhouse_student::backend::{Cpu, CpuTape};
use stillhouse_student::init::fresh;
use stillhouse_student::loss::cross_entropy::CrossEntropy;
use stillhouse_student::loss::forward_kl::ForwardKl;
use stillhouse_student::loss::{Loss, Tail, Teacher, Weight};
use stillhouse_student::model::FreshShape;
use stillhouse_student::model::llama::LlamaShape;
use stillhouse_student::model::{DecoderConfig, ModelInput};
use stillhouse_student::optimizer::{AdamW, Muon, Optimizer};
use stillhouse_student::precision::Precision;
use stillhouse_student::trainer::{Lora, Losses, Method, State, StepBatch};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(place) = arguments.iter().position(|argument| argument == "--way") {
        return measure_way(&arguments[place + 1]);
    }
    if arguments.iter().any(|argument| argument == "--ways") {
        return measure_ways();
    }
    if arguments.iter().any(|argument| argument == "--long-one") {
        return measure_long(arguments.iter().any(|argument| argument == "flushed"));
    }
    if arguments.iter().any(|argument| argument == "--long") {
        return ["flushed", "kept"].into_iter().for_each(|mode| again(&["--long-one", mode]));
    }
    stillhouse_student::cpu::prepare(0);
    println!(
        "{:<22} {:>10} {:>9} {:>9} {:>9} {:>10}",
        "model", "parameters", "forward", "backward", "update", "tokens/s"
    );
    let quickstart = shape(4, 160, 4, 512, 128);
    measure("quickstart 1.3 M", &quickstart, 16, 128, false);
    measure("quickstart 1.3 M + KL", &quickstart, 16, 128, true);
    measure("7 M", &shape(6, 256, 4, 4096, 128), 16, 128, false);
    measure("SmolLM2-135M, 1 × 128", &smollm2(), 1, 128, false);
}

/// The shape of SmolLM2-135M.
fn smollm2() -> DecoderConfig {
    let shape = LlamaShape {
        layers: 30,
        hidden: 576,
        heads: 9,
        kv_heads: Some(3),
        head_width: None,
        intermediate: Some(1536),
        context: Some(2048),
        tied: true,
        rope_theta: 1e5,
        norm_epsilon: 1e-5,
    };
    shape.config(49_152, 128)
}

/// The ways to train that are measured.
const WAYS: [&str; 7] = ["plain", "gradient-checkpointing", "ema", "lora", "freeze", "muon", "bf16"];

/// Each way in a process of its own, so that its peak of memory is its own.
fn measure_ways() {
    println!("{:<24} {:>10} {:>12}", "7 M, 16 × 128", "step", "peak memory");
    WAYS.into_iter().for_each(|way| again(&["--way", way]));
}

/// This benchmark in a process of its own.
fn again(arguments: &[&str]) {
    let status = std::process::Command::new(std::env::current_exe().unwrap()).args(arguments).status().unwrap();
    assert!(status.success(), "{arguments:?}");
}

/// Whether steps grow slower as numbers shrink. A whole training of small rows on few tokens, so that gradients and moments
/// of the tokens that never come fade away.
fn measure_long(flushed: bool) {
    if flushed {
        stillhouse_student::cpu::prepare(0);
    }
    let config = shape(6, 256, 4, 4096, 128);
    let optimizer = Optimizer::Adamw(adamw());
    let cross_entropy = CrossEntropy { weight: Weight::Constant(1.0) };
    let losses = Losses::new([("cross-entropy", &cross_entropy as &dyn Loss)]);
    let step = StepBatch { batch: batch(64, 4, 128), teacher: Teacher::default() };
    let decoder = fresh::<Cpu>(&config, 1, &Default::default()).unwrap();
    let mut state = Some(State::<CpuTape>::new(decoder, &config));
    let mut times = Vec::new();
    for _ in 0..100 {
        let started = Instant::now();
        let taken = state.take().unwrap();
        state = Some(taken.advance(&step, &losses, &optimizer, 1e-2, Some(1.0), 4).unwrap().0);
        times.push(started.elapsed());
    }
    let middle = |times: &[Duration]| {
        let mut times = times.to_vec();
        times.sort();
        milliseconds(times[times.len() / 2])
    };
    let (first, last) = (middle(&times[..10]), middle(&times[90..]));
    let mode = if flushed { "flushed to zero" } else { "kept" };
    println!("subnormals {mode:<16} steps 1–10: {first:.0} ms each, steps 91–100: {last:.0} ms ({:.2}×)", last / first);
}

fn adamw() -> AdamW {
    AdamW { lr: 1e-3, beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.1, decay_norms: false }
}

fn measure_way(way: &str) {
    stillhouse_student::cpu::prepare(0);
    let config = shape(6, 256, 4, 4096, 128);
    let freeze = ["embed".to_owned(), "layers.0-2".to_owned()];
    let lora = Lora { rank: 8, alpha: 16.0, targets: vec!["q".into(), "v".into()] };
    let method = Method {
        freeze: if way == "freeze" { &freeze } else { &[] },
        lora: (way == "lora").then_some(&lora),
        seed: 1,
        ema: (way == "ema").then_some(0.999),
        gradient_checkpointing: way == "gradient-checkpointing",
        precision: if way == "bf16" { Precision::Bf16 } else { Precision::F32 },
    };
    let adamw = adamw();
    let optimizer = match way {
        "muon" => Optimizer::Muon(Muon { lr: 0.02, momentum: 0.95, nesterov: true, weight_decay: 0.0, adamw }),
        _ => Optimizer::Adamw(adamw),
    };
    let cross_entropy = CrossEntropy { weight: Weight::Constant(1.0) };
    let losses = Losses::new([("cross-entropy", &cross_entropy as &dyn Loss)]);
    let step = StepBatch { batch: batch(config.vocabulary as u32, 16, 128), teacher: Teacher::default() };
    let decoder = fresh::<Cpu>(&config, 1, &Default::default()).unwrap();
    let mut state = Some(State::<CpuTape>::begin(decoder, &config, &method).unwrap());
    let time = median(5, || {
        let taken = state.take().unwrap();
        state = Some(taken.advance(&step, &losses, &optimizer, 1e-3, Some(1.0), 16).unwrap().0);
    });
    let status = fs_err::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("not known").trim();
    println!("{way:<24} {:>8.1}ms {peak:>12}", milliseconds(time));
}

fn shape(layers: usize, hidden: usize, heads: usize, vocabulary: usize, length: usize) -> DecoderConfig {
    let shape = LlamaShape {
        layers,
        hidden,
        heads,
        kv_heads: None,
        head_width: None,
        intermediate: Some(hidden * 8 / 3 / 16 * 16),
        context: None,
        tied: false,
        rope_theta: 1e4,
        norm_epsilon: 1e-5,
    };
    shape.config(vocabulary, length)
}

fn measure(name: &str, config: &DecoderConfig, rows: usize, length: usize, with_teacher: bool) {
    let device = Default::default();
    let batch = batch(config.vocabulary as u32, rows, length);
    let input = ModelInput {
        tokens: batch.inputs.clone(),
        positions: batch.positions.clone(),
        visibility: stillhouse_student::kernels::Visibility::from_segments(&batch.segments, rows, length),
    };
    let teacher = if with_teacher { dense_teacher(&batch, config.vocabulary) } else { Teacher::default() };
    let step = StepBatch { batch, teacher };
    let decoder = fresh::<Cpu>(config, 1, &device).unwrap();
    let rotary = stillhouse_student::model::RotaryTable::new(config);
    let cross_entropy = CrossEntropy { weight: Weight::Constant(0.5) };
    let forward_kl =
        ForwardKl { weight: Weight::Constant(0.5), temperature: 2.0, t_squared: true, tail: Tail::RenormaliseTeacher };
    let both: [(&str, &dyn Loss); 2] = [("cross-entropy", &cross_entropy), ("forward-kl", &forward_kl)];
    let losses = Losses::new(both.into_iter().take(if with_teacher { 2 } else { 1 }));
    let optimizer = adamw();

    let forward = median(7, || {
        let hidden = decoder.hidden(&input, &rotary, None);
        drop(decoder.logits(hidden).into_data());
    });
    let mut state = Some(State::<CpuTape>::new(decoder.clone(), config));
    let whole = median(9, || {
        let taken = state.take().unwrap();
        let (next, _) = taken.advance(&step, &losses, &optimizer, 1e-3, Some(1.0), rows).unwrap();
        state = Some(next);
    });
    let gradients = median(7, || drop(state.as_ref().unwrap().measure_gradients(&step, &losses, rows)));
    println!(
        "{name:<22} {:>10} {:>7.1}ms {:>7.1}ms {:>7.1}ms {:>10.0}",
        config.parameters(),
        milliseconds(forward),
        milliseconds(gradients.saturating_sub(forward)),
        milliseconds(whole.saturating_sub(gradients)),
        (rows * length) as f64 / whole.as_secs_f64(),
    );
}

fn batch(vocabulary: u32, rows: usize, length: usize) -> Batch {
    let token = |place: usize| (((place as u64 * 2_654_435_761) >> 7) % u64::from(vocabulary)) as u32;
    let places = rows * length;
    Batch {
        rows,
        length,
        inputs: (0..places).map(token).collect(),
        targets: (1..=places).map(token).collect(),
        scored: vec![true; places],
        segments: vec![1; places],
        positions: (0..rows).flat_map(|_| 0..length as u32).collect(),
        placements: Vec::new(),
    }
}

fn dense_teacher(batch: &Batch, vocabulary: usize) -> Teacher {
    let said = batch.targets.iter().map(|target| {
        let mut log_probs = vec![(0.5 / (vocabulary - 1) as f32).ln(); vocabulary];
        log_probs[*target as usize] = 0.5f32.ln();
        TopK { ids: Vec::new(), log_probs }
    });
    Teacher::new(said.collect())
}

fn median(times: usize, mut work: impl FnMut()) -> Duration {
    work();
    let mut measured: Vec<Duration> = (0..times)
        .map(|_| {
            let started = Instant::now();
            work();
            started.elapsed()
        })
        .collect();
    measured.sort();
    measured[times / 2]
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
