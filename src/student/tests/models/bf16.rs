//! Training with bf16 between the layers: near f32 as PyTorch's is, exact when it goes on, and with weights that lose nothing.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::BTreeMap;

use crate::support::training::{InMemory, Rule, Setup, Watcher, adamw, batch_of, tiny, train_with};
use crate::support::{MODELS, expected, golden, largest_difference, load};
use stillhouse_student::backend::{Cpu, CpuTape};
use stillhouse_student::error::StudentError;
use stillhouse_student::init::fresh;
use stillhouse_student::loss::cross_entropy::CrossEntropy;
use stillhouse_student::loss::forward_kl::ForwardKl;
use stillhouse_student::loss::{Loss, Tail, Teacher, Weight};
use stillhouse_student::model::{DecoderConfig, RotaryTable};
use stillhouse_student::optimizer::{AdamW, Optimizer};
use stillhouse_student::precision::Precision;
use stillhouse_student::schedule::constant::Constant;
use stillhouse_student::trainer::{
    BatchSource, Checkpoint, LiveTeacher, Lora, Losses, Method, Options, State, StepBatch, Trained,
};
use stillhouse_student::weights::{LoadedModel, take_values};

const CROSS_ENTROPY: CrossEntropy = CrossEntropy { weight: Weight::Constant(1.0) };

fn cross_entropy() -> Losses<'static> {
    Losses::new([("cross-entropy", &CROSS_ENTROPY as &dyn Loss)])
}

fn method() -> Method<'static> {
    Method { precision: Precision::Bf16, ..Method::default() }
}

fn constant(steps: u64) -> Setup {
    Setup { schedule: Box::new(Constant { warmup: 2 }), steps, micro_rows: 4, checkpoint_every: 0 }
}

fn train(
    setup: &Setup,
    method: Method<'_>,
    checkpoints: &InMemory,
    watcher: &mut Watcher,
) -> Result<Trained, StudentError> {
    let options = Options { method, ..Options::default() };
    train_with(setup, &Optimizer::Adamw(adamw(3e-3)), options, checkpoints, watcher)
}

fn trained(setup: &Setup, method: Method<'_>) -> Trained {
    train(setup, method, &InMemory::default(), &mut Watcher::default()).unwrap()
}

/// Losses of ten steps, near those in f32 and about as far from them as PyTorch's under autocast (`bf16_reference.py`).
#[test]
fn ten_adamw_steps_stay_as_near_to_f32_as_pytorch_s() {
    let text = fs_err::read_to_string(golden("bf16.json")).unwrap();
    let autocast: BTreeMap<String, Vec<f64>> = serde_json::from_str(&text).unwrap();
    let (mut worst, mut worst_theirs) = (0.0f64, 0.0f64);
    for name in MODELS {
        let expected = expected(name);
        let model = load::<Cpu>(name);
        let mut state = State::<CpuTape>::begin(model.decoder, &model.config, &method()).unwrap();
        let batch = StepBatch { batch: batch_of(&expected.ids), teacher: Teacher::default() };
        let optimizer =
            AdamW { lr: 1e-2, beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.1, decay_norms: true };
        for (step, (in_f32, theirs)) in expected.adamw.losses.iter().zip(&autocast[name]).enumerate() {
            let (next, report) =
                state.advance(&batch, &cross_entropy(), &optimizer, optimizer.lr, Some(1.0), 2).unwrap();
            state = next;
            let apart = (report.loss - in_f32).abs() / in_f32;
            let theirs_apart = (theirs - in_f32).abs() / in_f32;
            (worst, worst_theirs) = (worst.max(apart), worst_theirs.max(theirs_apart));
            // The first loss has seen no update, so it differs by rounding alone; Adam's steps of 1e-2 then carry that far.
            let allowed = [1e-3, 1e-2, 1e-2].get(step).copied().unwrap_or(0.1);
            assert!(apart < allowed, "{name} step {step}: {} is not near {in_f32}", report.loss);
            assert!(apart > 0.0, "{name} step {step}: nothing was rounded");
        }
    }
    assert!(worst < 1.5 * worst_theirs, "{worst} {worst_theirs}");
}

#[test]
fn losses_fall_as_in_f32() {
    let losses = |precision: Precision| {
        let mut watcher = Watcher::default();
        train(&constant(40), Method { precision, ..Method::default() }, &InMemory::default(), &mut watcher).unwrap();
        watcher.reports.iter().map(|report| report.loss).collect::<Vec<_>>()
    };
    let (long, short) = (losses(Precision::F32), losses(Precision::Bf16));
    assert!(short[39] < 0.9 * short[0], "{short:?}");
    assert!((short[39] - long[39]).abs() < 2e-2 * long[39], "{} {}", short[39], long[39]);
    assert_ne!(short, long);
}

#[test]
fn a_stopped_training_ends_with_the_bits_of_an_undisturbed_one() {
    let lora = Lora { rank: 2, alpha: 4.0, targets: vec!["q".into(), "down".into()] };
    for method in [method(), Method { lora: Some(&lora), ema: Some(0.9), ..method() }] {
        let undisturbed = trained(&constant(7), method);
        for stop_after in [1, 5] {
            let checkpoints = InMemory::default();
            let mut watcher = Watcher { stop_after: Some(stop_after), ..Watcher::default() };
            let stopped = train(&constant(7), method, &checkpoints, &mut watcher);
            assert!(matches!(stopped, Err(StudentError::Cancelled)));
            let resumed = train(&constant(7), method, &checkpoints, &mut Watcher::default()).unwrap();
            assert_eq!(resumed.resumed_from, stop_after as u64);
            assert!(resumed.checkpoint == undisturbed.checkpoint, "stopped after {stop_after}");
        }
    }
}

#[test]
fn gradient_checkpointing_changes_no_bit() {
    let plain = trained(&constant(6), method());
    let again = trained(&constant(6), Method { gradient_checkpointing: true, ..method() });
    assert!(plain.checkpoint == again.checkpoint);
}

#[test]
fn threads_change_no_bit() {
    let config = DecoderConfig { hidden: 192, intermediate: 512, head_width: 48, ..tiny() };
    let rows: Vec<Vec<u32>> =
        (0..16u32).map(|row| (0..65u32).map(|place| (place * (row + 3)) % 32).collect()).collect();
    let batch = StepBatch { batch: batch_of(&rows), teacher: Teacher::default() };
    let trained_on = |threads: usize| -> Checkpoint {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let decoder = fresh(&config, 1, &Default::default()).unwrap();
            let mut state = State::<CpuTape>::begin(decoder, &config, &method()).unwrap();
            for _ in 0..2 {
                state = state.advance(&batch, &cross_entropy(), &adamw(1e-2), 1e-2, Some(1.0), 16).unwrap().0;
            }
            state.checkpoint()
        })
    };
    assert!(trained_on(1) == trained_on(3));
}

/// A weight of 0.02 has neighbours 1e-4 away in bf16: a step of 1e-7 would be lost every time.
#[test]
fn an_update_smaller_than_bf16_can_tell_is_kept() {
    let config = tiny();
    let decoder = fresh::<Cpu>(&config, 3, &Default::default()).unwrap();
    let before = take_values(&decoder);
    let mut state = State::<CpuTape>::begin(decoder, &config, &method()).unwrap();
    let batch = Rule { vocabulary: 32, with_teacher: false }.step(0).unwrap();
    let optimizer = AdamW { weight_decay: 0.0, ..adamw(1e-7) };
    for _ in 0..20 {
        state = state.advance(&batch, &cross_entropy(), &optimizer, 1e-7, Some(1.0), 4).unwrap().0;
    }
    let after = state.checkpoint().weights;
    let (old, new) =
        (&before["model.layers.0.mlp.up_proj.weight"].data, &after["model.layers.0.mlp.up_proj.weight"].data);
    let moved = largest_difference(old, new);
    assert!((1e-6..3e-6).contains(&moved), "{moved}");
    // Far below what a bf16 number near a typical weight can tell.
    let same =
        old.iter().zip(new.iter()).filter(|(old, new)| half::bf16::from_f32(**old) == half::bf16::from_f32(**new));
    assert!(same.count() > old.len() * 9 / 10);
}

#[test]
fn a_teacher_beside_it_reads_in_bf16_too_and_says_nearly_the_same() {
    let teacher = |precision: Precision| {
        let config = DecoderConfig { layers: 3, hidden: 48, head_width: 12, initializer_range: 0.3, ..tiny() };
        let decoder = fresh::<Cpu>(&config, 11, &Default::default()).unwrap();
        let model = LoadedModel { decoder, rotary: RotaryTable::new(&config), config };
        LiveTeacher::new(model, 32).in_precision(precision)
    };
    let weight = Weight::Constant(1.0);
    let kl = ForwardKl { weight, temperature: 1.0, t_squared: true, tail: Tail::Bucket };
    let losses = Losses::new([("forward-kl", &kl as &dyn Loss)]);
    let config = tiny();
    let loss = |precision: Precision| {
        let decoder = fresh(&config, 3, &Default::default()).unwrap();
        let method = Method { precision, ..Method::default() };
        let state = State::<CpuTape>::begin(decoder, &config, &method).unwrap().beside(Some(teacher(precision)));
        let batch = Rule { vocabulary: 32, with_teacher: false }.step(0).unwrap();
        state.advance(&batch, &losses, &adamw(1e-3), 1e-3, Some(1.0), 4).unwrap().1.loss
    };
    let (long, short) = (loss(Precision::F32), loss(Precision::Bf16));
    assert!(long != short && (long - short).abs() < 2e-2 * long, "{long} {short}");
}
