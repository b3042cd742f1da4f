//! Learning from a teacher's hidden states: with what gradients, in any parts, whatever is trained, stopped and resumed.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod gradients;
mod refused;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::support::training::{InMemory, Rule, Watcher, adamw, batch_of, tiny};
use crate::support::{expected, golden, load};
use serde::Deserialize;
use stillhouse_data::batch::Batch;
use stillhouse_student::backend::{Cpu, CpuTape};
use stillhouse_student::error::{Result, StudentError};
use stillhouse_student::init::fresh;
use stillhouse_student::loss::cross_entropy::CrossEntropy;
use stillhouse_student::loss::hidden_cosine::HiddenCosine;
use stillhouse_student::loss::hidden_mse::HiddenMse;
use stillhouse_student::loss::{HiddenLayers, LayerPair, Loss, Projection, Teacher, Weight, WeightLine};
use stillhouse_student::model::{DecoderConfig, RotaryTable};
use stillhouse_student::optimizer::{AdamW, Muon, Optimizer};
use stillhouse_student::schedule::constant::Constant;
use stillhouse_student::trainer::{
    BatchSource, Checkpoint, ComparedLayers, EarlyStop, LiveTeacher, Lora, Losses, Method, Options, State, StepBatch,
    Trained, Training, Validation,
};
use stillhouse_student::weights::{LoadedModel, Values};

const ONE: Weight = Weight::Constant(1.0);

fn layers(pairs: &[(usize, usize)]) -> HiddenLayers {
    let pairs = pairs.iter().map(|(student, teacher)| LayerPair::new(*student, *teacher)).collect();
    HiddenLayers { pairs, projection: Projection::Learned }
}

/// The last layers as they are.
fn unprojected() -> HiddenLayers {
    HiddenLayers { projection: Projection::None, ..layers(&[]) }
}

fn mse(pairs: &[(usize, usize)]) -> HiddenMse {
    HiddenMse { weight: ONE, layers: layers(pairs) }
}

fn cosine(pairs: &[(usize, usize)]) -> HiddenCosine {
    HiddenCosine { weight: ONE, layers: layers(pairs) }
}

const CROSS_ENTROPY: CrossEntropy = CrossEntropy { weight: Weight::Constant(0.5) };

/// Wider and deeper than the student.
fn teacher_config() -> DecoderConfig {
    DecoderConfig { vocabulary: 40, layers: 3, hidden: 48, head_width: 12, initializer_range: 0.3, ..tiny() }
}

fn teacher_of(config: DecoderConfig) -> LiveTeacher<Cpu> {
    let decoder = fresh(&config, 11, &Default::default()).unwrap();
    LiveTeacher::new(LoadedModel { decoder, rotary: RotaryTable::new(&config), config }, 32)
}

fn teacher() -> LiveTeacher<Cpu> {
    teacher_of(teacher_config())
}

fn rule() -> Rule {
    Rule { vocabulary: 32, with_teacher: false }
}

/// What differs from test to test.
struct Setup<'a> {
    optimizer: Optimizer,
    options: Options<'a>,
    steps: u64,
    micro_rows: usize,
}

impl Default for Setup<'_> {
    fn default() -> Self {
        let method = Method { seed: 5, ..Method::default() };
        let options = Options { method, ..Options::default() };
        Self { optimizer: Optimizer::Adamw(adamw(3e-3)), options, steps: 5, micro_rows: 4 }
    }
}

fn by(method: Method<'_>) -> Setup<'_> {
    Setup { options: Options { method, ..Options::default() }, ..Setup::default() }
}

fn train(
    losses: &[(&str, &dyn Loss)],
    teacher: Option<LiveTeacher<Cpu>>,
    setup: Setup<'_>,
    checkpoints: &InMemory,
    watcher: &mut Watcher,
) -> Result<Trained> {
    stillhouse_student::cpu::flush_subnormals();
    let (config, device) = (tiny(), Default::default());
    let training = Training {
        description: "{}",
        config: &config,
        losses: Losses::new(losses.iter().copied()),
        optimizer: &setup.optimizer,
        schedule: &Constant { warmup: 0 },
        steps: setup.steps,
        clip: Some(1.0),
        micro_rows: setup.micro_rows,
        checkpoint_every: 0,
        options: setup.options,
    };
    training.run_beside::<CpuTape>(teacher, &mut rule(), checkpoints, watcher, &device, || fresh(&config, 3, &device))
}

fn trained(losses: &[(&str, &dyn Loss)], setup: Setup<'_>) -> (Trained, Watcher) {
    let mut watcher = Watcher::default();
    let done = train(losses, Some(teacher()), setup, &InMemory::default(), &mut watcher).unwrap();
    (done, watcher)
}

#[test]
fn splitting_a_step_changes_nothing_but_rounding() {
    let (mse, cosine) = (mse(&[(1, 2), (2, 3)]), cosine(&[]));
    let losses: [(&str, &dyn Loss); 3] =
        [("cross-entropy", &CROSS_ENTROPY), ("hidden-mse", &mse), ("hidden-cosine", &cosine)];
    let whole = trained(&losses, Setup::default()).1.reports;
    // Padding at the ends of rows is in no count: 4 rows of 12 places, of which 0 + 1 + 2 + 3 are padding.
    assert!(whole[0].parts.iter().all(|part| part.positions == 4 * 12 - 6));
    for micro_rows in [1, 3] {
        let parts = trained(&losses, Setup { micro_rows, ..Setup::default() }).1.reports;
        for (one, other) in whole.iter().zip(&parts) {
            assert!((one.loss - other.loss).abs() < 2e-5 * one.loss, "step {}: {} {}", one.step, one.loss, other.loss);
            let (norm, again) = (one.gradient_norm, other.gradient_norm);
            assert!((norm - again).abs() < 1e-4 * norm, "step {}: {norm} {again}", one.step);
        }
    }
}

#[test]
fn what_stands_in_padding_is_never_compared() {
    let mse = mse(&[(0, 0), (2, 3)]);
    let losses = Losses::new([("hidden-mse", &mse as &dyn Loss)]);
    let compared = ComparedLayers::of(&losses, &tiny(), Some(&teacher_config())).unwrap();
    let step = |padding: u32| {
        let mut step = rule().step(0).unwrap();
        for place in 0..step.batch.inputs.len() {
            if step.batch.segments[place] == 0 {
                step.batch.inputs[place] = padding;
            }
        }
        let state = State::<CpuTape>::new(fresh(&tiny(), 3, &Default::default()).unwrap(), &tiny());
        let state = state.comparing(compared.clone(), 5).beside(Some(teacher()));
        let (state, report) = state.advance(&step, &losses, &adamw(1e-3), 1e-3, None, 2).unwrap();
        let Checkpoint { weights, projections, .. } = state.checkpoint();
        (weights, projections, report.loss)
    };
    assert!(step(0) == step(31));
}

#[test]
fn gradient_checkpointing_changes_no_bit() {
    let (mse, cosine) = (mse(&[(0, 0), (1, 2)]), cosine(&[(1, 1), (2, 3)]));
    let losses: [(&str, &dyn Loss); 3] =
        [("cross-entropy", &CROSS_ENTROPY), ("hidden-mse", &mse), ("hidden-cosine", &cosine)];
    let (lora, freeze) =
        (Lora { rank: 2, alpha: 4.0, targets: vec!["q".into(), "up".into()] }, ["layers.0".to_owned()]);
    let plain = Method { seed: 5, ..Method::default() };
    for method in [plain, Method { lora: Some(&lora), ..plain }, Method { freeze: &freeze, ..plain }] {
        for micro_rows in [4, 1] {
            let done = |gradient_checkpointing| {
                let method = Method { gradient_checkpointing, ..method };
                trained(&losses, Setup { micro_rows, ..by(method) }).0
            };
            let (one, other) = (done(false), done(true));
            assert_eq!(one.last, other.last);
            assert!(one.checkpoint == other.checkpoint, "{method:?}, {micro_rows} rows at once");
        }
    }
}

#[test]
fn a_stopped_training_ends_with_the_bits_of_an_undisturbed_one() {
    let moving = Weight::Line(WeightLine { from: 1.0, to: 0.0, over: 4, after: 1 });
    let (mse, cosine) = (HiddenMse { weight: moving, ..mse(&[]) }, cosine(&[(1, 1), (0, 0)]));
    let losses: [(&str, &dyn Loss); 3] =
        [("cross-entropy", &CROSS_ENTROPY), ("hidden-mse", &mse), ("hidden-cosine", &cosine)];
    let lora = Lora { rank: 2, alpha: 4.0, targets: vec!["q".into(), "v".into()] };
    let freeze = ["embed".to_owned(), "attention".to_owned()];
    let plain = Method { seed: 5, ..Method::default() };
    let muon = Muon { lr: 0.02, momentum: 0.95, nesterov: true, weight_decay: 0.01, adamw: adamw(3e-3) };
    let by_adamw = Optimizer::Adamw(adamw(3e-3));
    for (optimizer, method) in [
        (&by_adamw, plain),
        (&Optimizer::Muon(muon), plain),
        (&by_adamw, Method { ema: Some(0.9), ..plain }),
        (&by_adamw, Method { freeze: &freeze, ..plain }),
        (&by_adamw, Method { lora: Some(&lora), ema: Some(0.5), ..plain }),
    ] {
        let setup = || Setup { optimizer: optimizer.clone(), steps: 7, micro_rows: 2, ..by(method) };
        let undisturbed = trained(&losses, setup()).0;
        for stop_after in [1, 5] {
            let checkpoints = InMemory::default();
            let mut watcher = Watcher { stop_after: Some(stop_after), ..Watcher::default() };
            let stopped = train(&losses, Some(teacher()), setup(), &checkpoints, &mut watcher);
            assert!(matches!(stopped, Err(StudentError::Cancelled)));
            let resumed = train(&losses, Some(teacher()), setup(), &checkpoints, &mut Watcher::default()).unwrap();
            assert_eq!(resumed.resumed_from, stop_after as u64);
            assert!(resumed.checkpoint == undisturbed.checkpoint, "{method:?} stopped after {stop_after}");
            assert!(resumed.weights == undisturbed.weights, "{method:?} stopped after {stop_after}");
        }
    }
}

#[test]
fn the_result_does_not_depend_on_the_number_of_threads() {
    let (mse, cosine) = (mse(&[(1, 2)]), cosine(&[]));
    let losses: [(&str, &dyn Loss); 2] = [("hidden-mse", &mse), ("hidden-cosine", &cosine)];
    let trained_on = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| trained(&losses, Setup::default()).0.checkpoint)
    };
    let alone = trained_on(1);
    assert!(trained_on(2) == alone && trained_on(3) == alone);
}

#[test]
fn the_distance_falls_and_the_maps_stay_out_of_the_student() {
    let (mse, cosine) = (mse(&[(1, 2), (2, 3)]), cosine(&[]));
    let of_hidden: [(&str, &dyn Loss); 2] = [("hidden-mse", &mse), ("hidden-cosine", &cosine)];
    let freeze = ["embed".to_owned(), "mlp".to_owned()];
    let lora = Lora { rank: 4, alpha: 8.0, targets: vec!["q".into(), "v".into(), "down".into()] };
    let plain = Method { seed: 5, ..Method::default() };
    let names: Vec<String> =
        trained(&of_hidden, Setup { steps: 1, ..Setup::default() }).0.weights.into_keys().collect();
    assert!(!names.is_empty() && names.iter().all(|name| !name.contains("projections")));
    for method in [plain, Method { freeze: &freeze, ..plain }, Method { lora: Some(&lora), ema: Some(0.9), ..plain }] {
        let optimizer = Optimizer::Adamw(adamw(1e-2));
        let (done, watcher) = trained(&of_hidden, Setup { optimizer, steps: 80, ..by(method) });
        for part in 0..2 {
            let mean = |step: usize| watcher.reports[step].parts[part].mean.unwrap();
            assert!(mean(79) < 0.95 * mean(0), "{method:?}: {} {}", mean(0), mean(79));
        }
        assert_eq!(done.weights.keys().collect::<Vec<_>>(), names.iter().collect::<Vec<_>>());
        let Checkpoint { weights, projections, average, optimizer, .. } = &done.checkpoint;
        let maps: Vec<&str> = projections.keys().map(String::as_str).collect();
        let expected = [
            "projections.hidden-mse.0.weight",
            "projections.hidden-mse.1.weight",
            "projections.hidden-cosine.0.weight",
        ];
        assert_eq!(maps, expected);
        for (name, map) in projections {
            assert_eq!(map.shape, [48, 32], "[the teacher's hidden, the student's hidden]");
            assert!(optimizer.first.contains_key(name) && !weights.contains_key(name));
            assert!(average.as_ref().is_none_or(|average| !average.contains_key(name)));
        }
    }
}

#[test]
fn models_of_one_width_are_compared_without_a_map() {
    let mse = HiddenMse { weight: ONE, layers: unprojected() };
    let losses: [(&str, &dyn Loss); 1] = [("hidden-mse", &mse)];
    let beside = teacher_of(DecoderConfig { hidden: 32, head_width: 8, ..teacher_config() });
    let mut watcher = Watcher::default();
    let setup = Setup { optimizer: Optimizer::Adamw(adamw(1e-2)), steps: 60, ..Setup::default() };
    let done = train(&losses, Some(beside), setup, &InMemory::default(), &mut watcher).unwrap();
    assert!(done.checkpoint.projections.is_empty());
    let (first, last) = (watcher.reports[0].loss, watcher.reports[59].loss);
    assert!(last < 0.9 * first, "{first} {last}");
}

#[test]
fn maps_depend_on_seed_and_name_only() {
    let first = |seed: u64, pairs: &[(usize, usize)]| {
        let mse = mse(pairs);
        let losses = Losses::new([("hidden-mse", &mse as &dyn Loss)]);
        let compared = ComparedLayers::of(&losses, &tiny(), Some(&teacher_config())).unwrap();
        let state = State::<CpuTape>::new(fresh(&tiny(), 3, &Default::default()).unwrap(), &tiny());
        state.comparing(compared, seed).checkpoint().projections["projections.hidden-mse.0.weight"].clone()
    };
    let map = first(5, &[]);
    assert!(map == first(5, &[(0, 1), (1, 1)]) && map != first(6, &[]));
    let count = map.data.len() as f64;
    let spread = (map.data.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>() / count).sqrt();
    assert!((spread - 1.0 / 32f64.sqrt()).abs() < 0.01, "{spread}");
}

/// One batch for ever.
struct Same;

impl BatchSource for Same {
    fn batch(&mut self, _: u64) -> Result<Batch> {
        rule().batch(0)
    }
    fn teacher(&mut self, _: &Batch) -> Result<Teacher> {
        Ok(Teacher::default())
    }
}

#[test]
fn held_out_batches_are_measured_with_them_and_early_stopping_can_go_by_them() {
    let (mse, cosine) = (mse(&[(1, 2)]), cosine(&[]));
    let losses: [(&str, &dyn Loss); 3] =
        [("cross-entropy", &CROSS_ENTROPY), ("hidden-mse", &mse), ("hidden-cosine", &cosine)];
    let rule = EarlyStop { patience: 0, every: 1, metric: "hidden-cosine".into() };
    let mut held = Same;
    let validation = Validation { rule: &rule, source: RefCell::new(&mut held), batches: 1 };
    let options =
        Options { validation: Some(validation), method: Method { seed: 5, ..Method::default() }, ..Options::default() };
    let (done, watcher) = trained(&losses, Setup { options, ..Setup::default() });
    assert_eq!(watcher.measured.len(), 5);
    // What is measured after a step is what the next step on the same batch would report.
    let all = Losses::new(losses);
    let compared = ComparedLayers::of(&all, &tiny(), Some(&teacher_config())).unwrap();
    let state = State::<CpuTape>::new(fresh(&tiny(), 3, &Default::default()).unwrap(), &tiny());
    let state = state.comparing(compared, 5).beside(Some(teacher()));
    let batch = Same.step(0).unwrap();
    let state = state.advance(&batch, &all, &adamw(3e-3), 3e-3, Some(1.0), 4).unwrap().0;
    let report = state.advance(&batch, &all, &adamw(3e-3), 3e-3, None, 4).unwrap().1;
    let measured = &watcher.measured[0].1;
    assert_eq!((measured.loss, &measured.parts), (Some(report.loss), &report.parts));
    assert_eq!(Some(measured.value), report.parts[2].mean);
    assert!(done.best.unwrap().1 <= watcher.measured[0].1.value);
}

#[test]
fn a_loss_without_weight_takes_no_map_and_no_teacher() {
    let mse = HiddenMse { weight: Weight::Constant(0.0), ..mse(&[]) };
    let losses: [(&str, &dyn Loss); 2] = [("cross-entropy", &CROSS_ENTROPY), ("hidden-mse", &mse)];
    let alone: [(&str, &dyn Loss); 1] = [("cross-entropy", &CROSS_ENTROPY)];
    let done = |losses: &[(&str, &dyn Loss)]| {
        train(losses, None, Setup::default(), &InMemory::default(), &mut Watcher::default()).unwrap()
    };
    let (with, without) = (done(&losses), done(&alone));
    assert!(with.weights == without.weights && with.checkpoint.projections.is_empty());
}
