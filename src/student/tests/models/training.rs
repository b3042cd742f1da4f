//! Training does what it says, and the same again whatever interrupts it.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use crate::support::training::{InMemory, Rule, Setup, Watcher, adamw, batch_of, tiny, train};
use crate::support::{MODELS, expected, load};
use stillhouse_student::backend::{Cpu, CpuTape};
use stillhouse_student::error::StudentError;
use stillhouse_student::loss::cross_entropy::CrossEntropy;
use stillhouse_student::loss::{Loss, Teacher, Weight};
use stillhouse_student::optimizer::AdamW;
use stillhouse_student::schedule::constant::Constant;
use stillhouse_student::schedule::cosine::Cosine;
use stillhouse_student::schedule::wsd::Wsd;
use stillhouse_student::trainer::{Losses, State, StepBatch, Trained};
use stillhouse_student::weights::take_values;

const CROSS_ENTROPY: CrossEntropy = CrossEntropy { weight: Weight::Constant(1.0) };

fn cross_entropy() -> Losses<'static> {
    Losses::new([("cross-entropy", &CROSS_ENTROPY as &dyn Loss)])
}

fn constant(steps: u64) -> Setup {
    Setup { schedule: Box::new(Constant { warmup: 2 }), steps, micro_rows: 4, checkpoint_every: 0 }
}

fn finished(setup: &Setup) -> Trained {
    train(setup, &InMemory::default(), &mut Watcher::default()).unwrap()
}

#[test]
fn ten_adamw_steps_are_those_of_pytorch() {
    for name in MODELS {
        let expected = expected(name);
        let model = load::<Cpu>(name);
        let mut state = State::<CpuTape>::new(model.decoder, &model.config);
        let batch = StepBatch { batch: batch_of(&expected.ids), teacher: Teacher::default() };
        let optimizer =
            AdamW { lr: 1e-2, beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.1, decay_norms: true };
        let losses = cross_entropy();
        for (step, reference) in expected.adamw.losses.iter().enumerate() {
            let (next, report) = state.advance(&batch, &losses, &optimizer, optimizer.lr, Some(1.0), 2).unwrap();
            state = next;
            assert!((report.loss - reference).abs() < 2e-3, "{name} step {step}: {} is not {reference}", report.loss);
        }
        for (tensor, values) in take_values(state.decoder()) {
            let norm = values.data.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
            let reference = expected.adamw.norms[&tensor];
            assert!((norm - reference).abs() < 2e-3 * reference, "{name} {tensor}: {norm} is not {reference}");
        }
    }
}

#[test]
fn one_batch_can_be_learnt_by_heart() {
    let config = tiny();
    let device = Default::default();
    let mut state = State::<CpuTape>::new(stillhouse_student::init::fresh(&config, 1, &device).unwrap(), &config);
    let rows: Vec<Vec<u32>> =
        (0..4u32).map(|row| (0..17u32).map(|place| (place * place * 5 + row * 11) % 32).collect()).collect();
    let batch = StepBatch { batch: batch_of(&rows), teacher: Teacher::default() };
    let mut last = f64::INFINITY;
    for _ in 0..150 {
        let (next, report) = state.advance(&batch, &cross_entropy(), &adamw(1e-2), 1e-2, Some(1.0), 4).unwrap();
        state = next;
        last = report.loss;
    }
    assert!(last < 0.1, "{last}");
}

#[test]
fn splitting_a_step_changes_nothing_but_rounding() {
    let whole = finished(&constant(5));
    let split = finished(&Setup { micro_rows: 1, ..constant(5) });
    let (whole, split) = (whole.last.unwrap(), split.last.unwrap());
    assert!((whole.loss - split.loss).abs() < 1e-5, "{} {}", whole.loss, split.loss);
    assert!((whole.gradient_norm - split.gradient_norm).abs() < 1e-4 * whole.gradient_norm);
    assert_eq!(whole.parts[1].positions, split.parts[1].positions);
    assert!((whole.parts[1].mean.unwrap() - split.parts[1].mean.unwrap()).abs() < 1e-5);
}

#[test]
fn the_same_training_gives_the_same_bits() {
    assert!(finished(&constant(6)).checkpoint == finished(&constant(6)).checkpoint);
}

#[test]
fn a_stopped_training_ends_with_the_bits_of_an_undisturbed_one() {
    let undisturbed = finished(&constant(9));
    for stop_after in [1, 4, 8] {
        let checkpoints = InMemory::default();
        let mut watcher = Watcher { stop_after: Some(stop_after), ..Watcher::default() };
        let stopped = train(&constant(9), &checkpoints, &mut watcher);
        assert!(matches!(stopped, Err(StudentError::Cancelled)));
        let mut watcher = Watcher::default();
        let resumed = train(&constant(9), &checkpoints, &mut watcher).unwrap();
        assert_eq!(resumed.resumed_from, stop_after as u64);
        assert_eq!(watcher.reports.len(), 9 - stop_after);
        assert!(resumed.checkpoint == undisturbed.checkpoint, "stopped after {stop_after}");
    }
}

#[test]
fn a_killed_training_goes_on_from_its_latest_checkpoint() {
    let setup = Setup { checkpoint_every: 3, ..constant(9) };
    let checkpoints = InMemory::default();
    let undisturbed = train(&setup, &checkpoints, &mut Watcher::default()).unwrap();
    // What a crash after step 7 would have left behind: no final state.
    let keys: Vec<_> = checkpoints.0.borrow().iter().map(|(key, state)| (*key, state.step)).collect();
    assert_eq!(keys.iter().map(|(_, step)| *step).max(), Some(9));
    let crashed = InMemory::default();
    let mut watcher = Watcher { stop_after: Some(7), ..Watcher::default() };
    let _ = train(&setup, &crashed, &mut watcher);
    crashed.0.borrow_mut().retain(|_, state| state.step == 6);
    let resumed = train(&setup, &crashed, &mut Watcher::default()).unwrap();
    assert!(resumed.checkpoint == undisturbed.checkpoint);
}

#[test]
fn a_longer_training_trains_only_what_is_new() {
    let checkpoints = InMemory::default();
    train(&constant(4), &checkpoints, &mut Watcher::default()).unwrap();
    let mut watcher = Watcher::default();
    let longer = train(&constant(9), &checkpoints, &mut watcher).unwrap();
    assert_eq!((watcher.resumed, watcher.reports.len()), (Some(4), 5));
    assert!(longer.checkpoint == finished(&constant(9)).checkpoint);
    let mut watcher = Watcher::default();
    train(&constant(9), &checkpoints, &mut watcher).unwrap();
    assert_eq!(watcher.reports.len(), 0);
}

#[test]
fn two_decays_share_the_stable_phase_and_a_cosine_shares_nothing() {
    let resumed_at = |short: Setup, long: Setup| {
        let checkpoints = InMemory::default();
        train(&short, &checkpoints, &mut Watcher::default()).unwrap();
        let mut watcher = Watcher::default();
        train(&long, &checkpoints, &mut watcher).unwrap();
        watcher.resumed
    };
    let wsd = |steps| Setup { schedule: Box::new(Wsd { warmup: 1, decay: 2, floor: 0.0 }), ..constant(steps) };
    let cosine = |steps| Setup { schedule: Box::new(Cosine { warmup: 0, floor: 0.0 }), ..constant(steps) };
    // The first step of the decay still has the full rate, so it is shared as well.
    assert_eq!(resumed_at(wsd(5), wsd(8)), Some(4));
    assert_eq!(resumed_at(cosine(5), cosine(8)), Some(1));
}

#[test]
fn a_loss_that_is_no_number_stops_and_keeps_the_last_checkpoint() {
    use stillhouse_student::trainer::{BatchSource, CheckpointStore};
    let config = tiny();
    let device = Default::default();
    let decoder = stillhouse_student::weights::load_into(
        stillhouse_student::model::Decoder::<Cpu>::empty(&config, &device),
        &device,
        |_, shape| Ok(vec![f32::MAX; shape.iter().product()]),
    );
    let state = State::<CpuTape>::new(decoder.unwrap(), &config);
    let batch = Rule { vocabulary: 32, with_teacher: false }.step(0).unwrap();
    let error = state.advance(&batch, &cross_entropy(), &adamw(1.0), 1.0, None, 4).err().unwrap();
    let message = error.to_string();
    assert!(message.starts_with("step 1: the ") && message.contains(" is NaN on batch "), "{message}");
    assert!(error.hint().unwrap().contains("no step was taken yet"));
    let _: &dyn CheckpointStore = &InMemory::default();
}

#[test]
fn a_batch_without_a_scored_token_is_an_error_that_names_the_step() {
    use stillhouse_student::trainer::BatchSource;
    let config = tiny();
    let mut batch = Rule { vocabulary: 32, with_teacher: false }.step(0).unwrap();
    batch.batch.scored.fill(false);
    let fresh = stillhouse_student::init::fresh(&config, 1, &Default::default()).unwrap();
    let state = State::<CpuTape>::new(fresh, &config);
    let error = state.advance(&batch, &cross_entropy(), &adamw(1.0), 1.0, None, 4).err().unwrap().to_string();
    assert_eq!(error, "no token of step 1's batch is scored, so there is nothing to learn from it");
}

#[test]
fn whole_model_gradients_are_the_slopes_of_the_loss() {
    use crate::support::training::Rule;
    use stillhouse_student::trainer::BatchSource;
    let config = tiny();
    let device = Default::default();
    let batch = Rule { vocabulary: 32, with_teacher: false }.step(0).unwrap();
    let weights = take_values(&stillhouse_student::init::fresh::<Cpu>(&config, 5, &device).unwrap());
    // A step of plain gradient descent hides in AdamW's first moment: with β₁ = 0 it is the gradient itself.
    let optimizer = AdamW { beta1: 0.0, weight_decay: 0.0, ..adamw(1e-12) };
    let loss_and_gradient = |weights: &stillhouse_student::weights::NamedValues| {
        let empty = stillhouse_student::model::Decoder::<Cpu>::empty(&config, &device);
        let decoder = stillhouse_student::weights::load_into(empty, &device, |name, _| Ok(weights[name].data.to_vec()));
        let state = State::<CpuTape>::new(decoder.unwrap(), &config);
        let (state, report) = state.advance(&batch, &cross_entropy(), &optimizer, 1e-12, None, 4).unwrap();
        (report.loss, state.checkpoint().optimizer.first)
    };
    let (_, gradients) = loss_and_gradient(&weights);
    for name in [
        "model.embed_tokens.weight",
        "model.layers.0.self_attn.k_proj.weight",
        "model.layers.1.mlp.gate_proj.weight",
        "model.norm.weight",
    ] {
        let gradient = &gradients[name].data;
        let steepest = (0..gradient.len()).max_by(|a, b| gradient[*a].abs().total_cmp(&gradient[*b].abs())).unwrap();
        let moved = |by: f32| {
            let mut weights = weights.clone();
            let mut data = weights[name].data.to_vec();
            data[steepest] += by;
            weights[name].data = std::sync::Arc::new(data);
            loss_and_gradient(&weights).0
        };
        let slope = (moved(5e-3) - moved(-5e-3)) / 1e-2;
        let computed = f64::from(gradient[steepest]);
        assert!((slope - computed).abs() < 0.02 * computed.abs() + 1e-5, "{name}: {computed} is not {slope}");
    }
}

/// The tiny model's products are too small to be spread over threads; these are not.
#[test]
fn products_spread_over_threads_give_the_same_bits_as_on_one() {
    let config = stillhouse_student::model::DecoderConfig { hidden: 192, intermediate: 512, head_width: 48, ..tiny() };
    let rows: Vec<Vec<u32>> =
        (0..16u32).map(|row| (0..65u32).map(|place| (place * (row + 3)) % 32).collect()).collect();
    let batch = StepBatch { batch: batch_of(&rows), teacher: Teacher::default() };
    let trained_on = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let fresh = stillhouse_student::init::fresh(&config, 1, &Default::default()).unwrap();
            let mut state = State::<CpuTape>::new(fresh, &config);
            for _ in 0..3 {
                state = state.advance(&batch, &cross_entropy(), &adamw(1e-2), 1e-2, Some(1.0), 16).unwrap().0;
            }
            state.checkpoint()
        })
    };
    let alone = trained_on(1);
    for threads in [2, 2, 3] {
        assert!(trained_on(threads) == alone, "{threads} threads");
    }
}
