//! Learning from a teacher's distributions: stored or live, in any parts, stopped and resumed, with weights that move.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use crate::support::training::{InMemory, Rule, Watcher, adamw, tiny};
use burn::tensor::{Int, Tensor, TensorData};
use stillhouse_data::batch::Batch;
use stillhouse_data::signals::TopK;
use stillhouse_student::backend::{Cpu, CpuTape};
use stillhouse_student::error::{Result, StudentError};
use stillhouse_student::init::fresh;
use stillhouse_student::kernels::{Kernels, Visibility};
use stillhouse_student::loss::adaptive_kl::AdaptiveKl;
use stillhouse_student::loss::cross_entropy::CrossEntropy;
use stillhouse_student::loss::forward_kl::ForwardKl;
use stillhouse_student::loss::jsd::Jsd;
use stillhouse_student::loss::sampled_cross_entropy::SampledCrossEntropy;
use stillhouse_student::loss::{Comparison, Loss, StoredStates, Tail, Teacher, Weight, WeightLine};
use stillhouse_student::model::{DecoderConfig, ModelInput, RotaryTable};
use stillhouse_student::optimizer::Optimizer;
use stillhouse_student::schedule::constant::Constant;
use stillhouse_student::trainer::{
    BatchSource, LiveTeacher, Losses, Options, State, StepReport, TeacherHead, TeacherOnDevice, Trained, Training,
};
use stillhouse_student::weights::LoadedModel;

const NONE: Option<LiveTeacher<Cpu>> = None;
const ONE: Weight = Weight::Constant(1.0);
const COMPARISON: Comparison = Comparison { temperature: 1.0, t_squared: true, tail: Tail::Bucket };

fn cross_entropy(weight: Weight) -> CrossEntropy {
    CrossEntropy { weight }
}

fn forward_kl() -> ForwardKl {
    ForwardKl { weight: ONE, temperature: 2.0, t_squared: true, tail: Tail::Bucket }
}

fn jsd(weight: Weight) -> Jsd {
    Jsd { weight, beta: 0.5, comparison: COMPARISON }
}

fn sampled() -> SampledCrossEntropy {
    SampledCrossEntropy { weight: ONE, samples: 4, proposal: 1.0, comparison: COMPARISON }
}

fn adaptive() -> AdaptiveKl {
    AdaptiveKl { weight: ONE, alpha: 0.5, comparison: COMPARISON }
}

/// Wider and deeper than the student, with a vocabulary padded to another length.
fn teacher_config() -> DecoderConfig {
    DecoderConfig { vocabulary: 40, layers: 3, hidden: 48, head_width: 12, initializer_range: 0.3, ..tiny() }
}

fn teacher_model() -> LoadedModel<Cpu> {
    let config = teacher_config();
    let decoder = fresh(&config, 11, &Default::default()).unwrap();
    LoadedModel { decoder, rotary: RotaryTable::new(&config), config }
}

fn live() -> LiveTeacher<Cpu> {
    LiveTeacher::new(teacher_model(), 32)
}

/// The teacher's hidden states at a batch's counted positions.
fn counted_states(batch: &Batch) -> Tensor<Cpu, 2> {
    let model = teacher_model();
    let input = ModelInput {
        tokens: batch.inputs.clone(),
        positions: batch.positions.clone(),
        visibility: Visibility::from_segments(&batch.segments, batch.rows, batch.length),
    };
    let hidden = model.decoder.hidden(&input, &model.rotary, None);
    let places: Vec<i32> = (0..).zip(&batch.scored).filter(|(_, scored)| **scored).map(|(place, _)| place).collect();
    let count = places.len();
    let places = Tensor::<Cpu, 1, Int>::from_data(TensorData::new(places, [count]), &Default::default());
    hidden.select(0, places)
}

/// The rule's batches with the teacher's whole distributions stored beside them.
struct Stored(Rule);

impl BatchSource for Stored {
    fn batch(&mut self, step: u64) -> Result<Batch> {
        self.0.batch(step)
    }

    fn teacher(&mut self, batch: &Batch) -> Result<Teacher> {
        let logits = teacher_model().decoder.logits(counted_states(batch)).narrow(1, 0, 32);
        let log_probs: Vec<f32> = Cpu::log_probabilities(logits).into_data().to_vec().unwrap();
        Ok(Teacher::new(log_probs.chunks(32).map(|row| TopK { ids: vec![], log_probs: row.to_vec() }).collect()))
    }
}

/// The rule's batches with the teacher's hidden states stored beside them, at every position or at every third.
struct StoredHidden {
    rule: Rule,
    every: usize,
}

impl BatchSource for StoredHidden {
    fn batch(&mut self, step: u64) -> Result<Batch> {
        self.rule.batch(step)
    }

    fn teacher(&mut self, batch: &Batch) -> Result<Teacher> {
        let states = counted_states(batch);
        let [_, width] = states.dims();
        let numbers: Vec<f32> = states.into_data().to_vec().unwrap();
        let mut stored = StoredStates::new(width);
        (0u32..).zip(numbers.chunks(width)).step_by(self.every).for_each(|(place, state)| stored.push(place, state));
        Ok(Teacher::default().with_states(stored))
    }
}

fn head() -> TeacherHead<Cpu> {
    TeacherHead::new(teacher_model().decoder.head(), 32)
}

fn rule(with_teacher: bool) -> Rule {
    Rule { vocabulary: 32, with_teacher }
}

/// Steps and parts of a training; everything else is the same for all tests here.
struct Parts {
    steps: u64,
    micro_rows: usize,
}

const FIVE: Parts = Parts { steps: 5, micro_rows: 4 };

fn train(
    losses: &[(&str, &dyn Loss)],
    teacher: Option<impl Into<TeacherOnDevice<Cpu>>>,
    source: &mut dyn BatchSource,
    parts: &Parts,
    checkpoints: &InMemory,
    watcher: &mut Watcher,
) -> Result<Trained> {
    stillhouse_student::cpu::flush_subnormals();
    let (config, optimizer, device) = (tiny(), Optimizer::Adamw(adamw(3e-3)), Default::default());
    let training = Training {
        description: "{}",
        config: &config,
        losses: Losses::new(losses.iter().copied()),
        optimizer: &optimizer,
        schedule: &Constant { warmup: 0 },
        steps: parts.steps,
        clip: Some(1.0),
        micro_rows: parts.micro_rows,
        checkpoint_every: 0,
        options: Options::default(),
    };
    training.run_beside::<CpuTape>(teacher, source, checkpoints, watcher, &device, || fresh(&config, 3, &device))
}

fn reports(
    losses: &[(&str, &dyn Loss)],
    teacher: Option<impl Into<TeacherOnDevice<Cpu>>>,
    source: &mut dyn BatchSource,
    parts: &Parts,
) -> Vec<StepReport> {
    let mut watcher = Watcher::default();
    train(losses, teacher, source, parts, &InMemory::default(), &mut watcher).unwrap();
    watcher.reports
}

fn close(one: &[StepReport], other: &[StepReport]) {
    assert_eq!(one.len(), other.len());
    for (one, other) in one.iter().zip(other) {
        assert!((one.loss - other.loss).abs() < 2e-5, "step {}: {} {}", one.step, one.loss, other.loss);
        assert!(
            (one.gradient_norm - other.gradient_norm).abs() < 1e-4 * one.gradient_norm.max(1.0),
            "step {}",
            one.step
        );
        let positions = |report: &StepReport| report.parts.iter().map(|part| part.positions).collect::<Vec<_>>();
        assert_eq!(positions(one), positions(other));
    }
}

#[test]
fn a_live_teacher_teaches_what_its_stored_distributions_teach() {
    let (forward_kl, jsd, adaptive, sampled) = (forward_kl(), jsd(ONE), adaptive(), sampled());
    let losses: [(&str, &dyn Loss); 4] =
        [("forward-kl", &forward_kl), ("jsd", &jsd), ("adaptive-kl", &adaptive), ("sampled-cross-entropy", &sampled)];
    let live = reports(&losses, Some(live()), &mut rule(false), &FIVE);
    let stored = reports(&losses, NONE, &mut Stored(rule(false)), &FIVE);
    close(&live, &stored);
    // Padding at the ends of rows is in neither count: 4 rows of 12 places, of which 0 + 1 + 2 + 3 are padding.
    assert_eq!(live[0].parts[0].positions, 4 * 12 - 6);
}

#[test]
fn a_teachers_head_teaches_of_stored_states_what_the_teacher_teaches() {
    let (forward_kl, jsd, adaptive, sampled) = (forward_kl(), jsd(ONE), adaptive(), sampled());
    let losses: [(&str, &dyn Loss); 4] =
        [("forward-kl", &forward_kl), ("jsd", &jsd), ("adaptive-kl", &adaptive), ("sampled-cross-entropy", &sampled)];
    let every = |every: usize| StoredHidden { rule: rule(false), every };
    let live = reports(&losses, Some(live()), &mut rule(false), &FIVE);
    // The same rows are read at once, so the states and all that follows have the same bits.
    assert_eq!(live, reports(&losses, Some(head()), &mut every(1), &FIVE));
    for micro_rows in [1, 3] {
        close(&live, &reports(&losses, Some(head()), &mut every(1), &Parts { micro_rows, ..FIVE }));
    }
    // Where only some positions have a state, only they count, in any parts.
    let some = reports(&losses, Some(head()), &mut every(3), &FIVE);
    assert_eq!(some[0].parts[0].positions, (4 * 12 - 6) / 3);
    close(&some, &reports(&losses, Some(head()), &mut every(3), &Parts { micro_rows: 1, ..FIVE }));
    // A head says nothing of its own.
    let nothing =
        reports(&[("cross-entropy", &cross_entropy(ONE)), ("jsd", &jsd)], Some(head()), &mut rule(false), &FIVE);
    assert_eq!((nothing[0].parts[1].positions, nothing[0].parts[1].mean), (0, None));
}

#[test]
fn a_live_teacher_is_preferred_to_stored_signals() {
    let forward_kl = forward_kl();
    let losses: [(&str, &dyn Loss); 1] = [("forward-kl", &forward_kl)];
    let beside = reports(&losses, Some(live()), &mut rule(true), &FIVE);
    assert_eq!(beside, reports(&losses, Some(live()), &mut rule(false), &FIVE));
    assert_ne!(beside, reports(&losses, NONE, &mut rule(true), &FIVE));
}

#[test]
fn splitting_a_step_beside_a_live_teacher_changes_nothing_but_rounding() {
    let (cross_entropy, jsd, sampled) = (cross_entropy(ONE), jsd(ONE), sampled());
    let losses: [(&str, &dyn Loss); 3] =
        [("cross-entropy", &cross_entropy), ("jsd", &jsd), ("sampled-cross-entropy", &sampled)];
    let whole = reports(&losses, Some(live()), &mut rule(false), &FIVE);
    for micro_rows in [1, 3] {
        close(&whole, &reports(&losses, Some(live()), &mut rule(false), &Parts { micro_rows, ..FIVE }));
    }
    // Stored signals that only some positions have: the divisor is the step's count all the same.
    let whole = reports(&losses, NONE, &mut rule(true), &FIVE);
    close(&whole, &reports(&losses, NONE, &mut rule(true), &Parts { micro_rows: 1, ..FIVE }));
}

#[test]
fn the_loss_is_divided_by_the_counted_tokens_of_the_whole_step() {
    let (cross_entropy, jsd) = (cross_entropy(Weight::Constant(0.25)), jsd(Weight::Constant(2.0)));
    let losses: [(&str, &dyn Loss); 2] = [("cross-entropy", &cross_entropy), ("jsd", &jsd)];
    for micro_rows in [1, 4] {
        for report in reports(&losses, NONE, &mut rule(true), &Parts { micro_rows, ..FIVE }) {
            let counted = report.parts[0].positions as f64;
            assert!(report.parts[1].positions < report.parts[0].positions);
            let sum: f64 = [0.25, 2.0]
                .iter()
                .zip(&report.parts)
                .map(|(weight, part)| weight * part.mean.unwrap() * part.positions as f64)
                .sum();
            assert!((report.loss - sum / counted).abs() < 1e-9);
        }
    }
}

#[test]
fn what_stands_in_padding_is_never_counted() {
    let (cross_entropy, forward_kl) = (cross_entropy(ONE), forward_kl());
    let losses = Losses::new([("cross-entropy", &cross_entropy as &dyn Loss), ("forward-kl", &forward_kl)]);
    let step = |padding: u32| {
        let mut source = rule(true);
        let mut step = source.step(0).unwrap();
        let places =
            step.batch.scored.iter().zip(&step.batch.segments).map(|(scored, segment)| !scored && *segment == 0);
        for (place, is_padding) in places.collect::<Vec<bool>>().into_iter().enumerate() {
            if is_padding {
                step.batch.inputs[place] = padding;
                step.batch.targets[place] = padding;
            }
        }
        let state =
            State::<CpuTape>::new(fresh(&tiny(), 3, &Default::default()).unwrap(), &tiny()).beside(Some(live()));
        let (state, report) = state.advance(&step, &losses, &adamw(1e-3), 1e-3, None, 2).unwrap();
        (state.checkpoint().weights, report.loss)
    };
    assert!(step(0) == step(31));
}

#[test]
fn a_stopped_training_beside_a_teacher_ends_with_the_bits_of_an_undisturbed_one() {
    let moving = Weight::Line(WeightLine { from: 1.0, to: 0.0, over: 6, after: 1 });
    let (cross_entropy, jsd, sampled) = (cross_entropy(moving), jsd(ONE), sampled());
    let losses: [(&str, &dyn Loss); 3] =
        [("cross-entropy", &cross_entropy), ("jsd", &jsd), ("sampled-cross-entropy", &sampled)];
    let eight = Parts { steps: 8, micro_rows: 2 };
    let undisturbed =
        train(&losses, Some(live()), &mut rule(false), &eight, &InMemory::default(), &mut Watcher::default()).unwrap();
    for stop_after in [1, 5] {
        let checkpoints = InMemory::default();
        let mut watcher = Watcher { stop_after: Some(stop_after), ..Watcher::default() };
        let stopped = train(&losses, Some(live()), &mut rule(false), &eight, &checkpoints, &mut watcher);
        assert!(matches!(stopped, Err(StudentError::Cancelled)));
        let resumed =
            train(&losses, Some(live()), &mut rule(false), &eight, &checkpoints, &mut Watcher::default()).unwrap();
        assert_eq!(resumed.resumed_from, stop_after as u64);
        assert!(resumed.checkpoint == undisturbed.checkpoint, "stopped after {stop_after}");
    }
}

#[test]
fn the_result_does_not_depend_on_the_number_of_threads() {
    let (forward_kl, jsd, adaptive) = (forward_kl(), jsd(ONE), adaptive());
    let losses: [(&str, &dyn Loss); 3] = [("forward-kl", &forward_kl), ("jsd", &jsd), ("adaptive-kl", &adaptive)];
    let trained_on = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let (checkpoints, mut watcher) = (InMemory::default(), Watcher::default());
            train(&losses, Some(live()), &mut rule(false), &FIVE, &checkpoints, &mut watcher).unwrap().checkpoint
        })
    };
    let alone = trained_on(1);
    assert!(trained_on(2) == alone && trained_on(3) == alone);
}

#[test]
fn a_weight_that_moves_is_used_at_every_step_and_shares_what_came_before() {
    let line = |to| Weight::Line(WeightLine { from: 1.0, to, over: 2, after: 3 });
    let run = |weight: Weight, checkpoints: &InMemory| {
        let (cross_entropy, forward_kl) = (cross_entropy(weight), forward_kl());
        let losses: [(&str, &dyn Loss); 2] = [("cross-entropy", &cross_entropy), ("forward-kl", &forward_kl)];
        let mut watcher = Watcher::default();
        train(&losses, NONE, &mut rule(true), &Parts { steps: 7, micro_rows: 4 }, checkpoints, &mut watcher).unwrap();
        watcher
    };
    let checkpoints = InMemory::default();
    let watcher = run(line(0.0), &checkpoints);
    for report in &watcher.reports {
        let weight = [1.0, 1.0, 1.0, 1.0, 0.5, 0.0, 0.0][report.step as usize - 1];
        let [cross_entropy, forward_kl] = &report.parts[..] else { panic!("{report:?}") };
        let expected = weight * cross_entropy.mean.unwrap()
            + forward_kl.mean.unwrap() * forward_kl.positions as f64 / cross_entropy.positions as f64;
        assert!((report.loss - expected).abs() < 1e-9, "step {}: {} is not {expected}", report.step, report.loss);
    }
    // Checkpoints of every step, as if each had been kept, so that what is shared can be seen.
    let every = InMemory::default();
    for steps in 1..=7 {
        let (cross_entropy, forward_kl) = (cross_entropy(line(0.0)), forward_kl());
        let losses: [(&str, &dyn Loss); 2] = [("cross-entropy", &cross_entropy), ("forward-kl", &forward_kl)];
        train(&losses, NONE, &mut rule(true), &Parts { steps, micro_rows: 4 }, &every, &mut Watcher::default())
            .unwrap();
    }
    // Steps 1 to 4 have the weight 1 in all of them.
    assert_eq!(run(line(0.5), &every).resumed, Some(4));
    assert_eq!(run(ONE, &every).resumed, Some(4));
}
