//! Every way to train: each learns what it should, holds what it says, and is the same again whatever interrupts it.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::cell::RefCell;
use std::sync::Arc;

use crate::support::training::{InMemory, Rule, Setup, Watcher, adamw, tiny, train_with};
use stillhouse_student::backend::{Cpu, CpuTape};
use stillhouse_student::error::StudentError;
use stillhouse_student::init::fresh;
use stillhouse_student::loss::cross_entropy::CrossEntropy;
use stillhouse_student::loss::{Loss, Weight};
use stillhouse_student::optimizer::{AdamW, Muon, Optimizer};
use stillhouse_student::schedule::constant::Constant;
use stillhouse_student::trainer::{
    BatchSource, EarlyStop, Lora, Losses, Method, Options, State, Trained, Validation, peft_names,
};
use stillhouse_student::weights::{NamedValues, take_values};

fn constant(steps: u64) -> Setup {
    Setup { schedule: Box::new(Constant { warmup: 2 }), steps, micro_rows: 4, checkpoint_every: 0 }
}

fn by_adamw() -> Optimizer {
    Optimizer::Adamw(adamw(3e-3))
}

fn by_muon() -> Optimizer {
    Optimizer::Muon(Muon { lr: 0.02, momentum: 0.95, nesterov: true, weight_decay: 0.01, adamw: adamw(3e-3) })
}

fn trained(setup: &Setup, optimizer: &Optimizer, method: Method<'_>) -> Trained {
    let options = Options { method, ..Options::default() };
    train_with(setup, optimizer, options, &InMemory::default(), &mut Watcher::default()).unwrap()
}

/// The weights that a training begins with.
fn beginning() -> NamedValues {
    take_values(&fresh::<Cpu>(&tiny(), 3, &Default::default()).unwrap())
}

fn lora(targets: &[&str]) -> Lora {
    Lora { rank: 2, alpha: 4.0, targets: targets.iter().map(|name| (*name).to_owned()).collect() }
}

/// Stops after some steps, goes on, and compares with a training that nobody stopped.
fn resumes_exactly(optimizer: &Optimizer, method: Method<'_>) -> Trained {
    let undisturbed = trained(&constant(7), optimizer, method);
    for stop_after in [1, 5] {
        let checkpoints = InMemory::default();
        let options = || Options { method, ..Options::default() };
        let mut watcher = Watcher { stop_after: Some(stop_after), ..Watcher::default() };
        let stopped = train_with(&constant(7), optimizer, options(), &checkpoints, &mut watcher);
        assert!(matches!(stopped, Err(StudentError::Cancelled)));
        let mut watcher = Watcher::default();
        let resumed = train_with(&constant(7), optimizer, options(), &checkpoints, &mut watcher).unwrap();
        assert_eq!(watcher.reports.len(), 7 - stop_after);
        assert!(resumed.checkpoint == undisturbed.checkpoint, "stopped after {stop_after}");
        assert!(resumed.weights == undisturbed.weights, "stopped after {stop_after}");
    }
    undisturbed
}

mod freezing {
    use super::*;

    #[test]
    fn leaves_what_it_names_and_moves_everything_else() {
        let freeze = ["embed".to_owned(), "layers.0".to_owned(), "norms".to_owned()];
        for gradient_checkpointing in [false, true] {
            let method = Method { freeze: &freeze, gradient_checkpointing, ..Method::default() };
            let done = trained(&constant(4), &by_adamw(), method);
            let before = beginning();
            assert_eq!(done.weights.len(), before.len());
            for (name, values) in &done.weights {
                let frozen = name.contains("embed") || name.contains("layers.0.") || name.contains("norm");
                assert_eq!(*values == before[name], frozen, "{name}");
                assert_eq!(done.checkpoint.weights.contains_key(name), !frozen, "{name} in the checkpoint");
                assert_eq!(done.checkpoint.optimizer.first.contains_key(name), !frozen, "{name} in the optimizer");
            }
        }
    }

    #[test]
    fn gives_what_is_left_the_gradients_that_it_has_anyway() {
        let batch = Rule { vocabulary: 32, with_teacher: false }.step(0).unwrap();
        let cross_entropy = CrossEntropy { weight: Weight::Constant(1.0) };
        let losses = Losses::new([("cross-entropy", &cross_entropy as &dyn Loss)]);
        // With β₁ = 0 the first moment is the gradient.
        let optimizer = AdamW { beta1: 0.0, ..adamw(1e-3) };
        let gradients = |freeze: &[String]| {
            let model = fresh::<Cpu>(&tiny(), 3, &Default::default()).unwrap();
            let method = Method { freeze, ..Method::default() };
            let state = State::<CpuTape>::begin(model, &tiny(), &method).unwrap();
            state.advance(&batch, &losses, &optimizer, 1e-3, None, 4).unwrap().0.checkpoint().optimizer.first
        };
        let (all, some) = (gradients(&[]), gradients(&["mlp".into(), "layers.1".into()]));
        assert!(!some.is_empty() && some.len() < all.len());
        assert!(some.iter().all(|(name, values)| *values == all[name]));
    }

    #[test]
    fn resumes_exactly_from_a_checkpoint_without_the_frozen_weights() {
        let freeze = ["embed".to_owned(), "attention".to_owned()];
        resumes_exactly(&by_adamw(), Method { freeze: &freeze, ..Method::default() });
    }

    #[test]
    fn refuses_a_pattern_that_fits_nothing() {
        let freeze = ["layer.1".to_owned()];
        let options = Options { method: Method { freeze: &freeze, ..Method::default() }, ..Options::default() };
        let refused = train_with(&constant(2), &by_adamw(), options, &InMemory::default(), &mut Watcher::default());
        assert_eq!(refused.err().unwrap().to_string(), "`freeze` names `layer.1`, which no weight fits");
    }
}

mod adapters {
    use super::*;

    #[test]
    fn learn_while_the_weights_beside_them_stay() {
        let lora = lora(&["q", "v", "down"]);
        let method = Method { lora: Some(&lora), seed: 5, ..Method::default() };
        let setup = constant(60);
        let checkpoints = InMemory::default();
        let mut watcher = Watcher::default();
        let optimizer = Optimizer::Adamw(adamw(2e-2));
        let options = Options { method, ..Options::default() };
        let done = train_with(&setup, &optimizer, options, &checkpoints, &mut watcher).unwrap();
        let (first, last) = (watcher.reports[0].loss, watcher.reports[59].loss);
        assert!(last < 0.97 * first, "{first} {last}");
        let before = beginning();
        for (name, values) in &done.weights {
            let adapted = ["q_proj", "v_proj", "down_proj"].iter().any(|target| name.contains(target));
            assert_eq!(*values != before[name], adapted, "{name}");
        }
        // Two layers with three adapters of two matrices; everything else is in no checkpoint.
        assert_eq!(done.checkpoint.weights.len(), 12);
        let whole: usize = before.values().map(|values| 4 * values.data.len()).sum();
        assert!(done.checkpoint.bytes() < whole as u64 / 2, "{} {whole}", done.checkpoint.bytes());
    }

    #[test]
    fn are_merged_into_the_student_as_their_formula_says() {
        let lora = lora(&["q"]);
        let method = Method { lora: Some(&lora), seed: 5, ..Method::default() };
        let done = trained(&constant(5), &by_adamw(), method);
        let name = "model.layers.1.self_attn.q_proj.weight";
        let thin = done.adapters.unwrap();
        let (down, up) = (&thin[&format!("{name}.lora_A")], &thin[&format!("{name}.lora_B")]);
        assert_eq!((down.shape.as_slice(), up.shape.as_slice()), (&[2, 32][..], &[32, 2][..]));
        let (before, merged) = (&beginning()[name].data, &done.weights[name].data);
        for place in 0..merged.len() {
            let (row, column) = (place / 32, place % 32);
            let product: f32 = (0..2).map(|r| up.data[row * 2 + r] * down.data[r * 32 + column]).sum();
            assert!((merged[place] - before[place] - 2.0 * product).abs() < 1e-6);
        }
        let named = peft_names(&thin);
        assert!(
            named.contains_key("base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"),
            "{:?}",
            named.keys()
        );
    }

    #[test]
    fn have_the_slopes_of_the_loss_as_gradients() {
        let lora = lora(&["k", "up"]);
        let method = Method { lora: Some(&lora), seed: 5, ..Method::default() };
        let batch = Rule { vocabulary: 32, with_teacher: false }.step(0).unwrap();
        let cross_entropy = CrossEntropy { weight: Weight::Constant(1.0) };
        let losses = Losses::new([("cross-entropy", &cross_entropy as &dyn Loss)]);
        let optimizer = AdamW { beta1: 0.0, weight_decay: 0.0, ..adamw(1e-12) };
        let device = Default::default();
        let state = || State::<CpuTape>::begin(fresh::<Cpu>(&tiny(), 3, &device).unwrap(), &tiny(), &method).unwrap();
        // B begins with zeros, where A has no slope: begin somewhere else.
        let mut start = state().checkpoint();
        for (name, values) in &mut start.weights {
            if name.ends_with("lora_B") {
                values.data = Arc::new((0..values.data.len()).map(|place| (place % 7) as f32 * 0.02 - 0.06).collect());
            }
        }
        let loss_and_gradients = |start: &stillhouse_student::trainer::Checkpoint| {
            let state = state().take_up(start, &device).unwrap();
            let (state, report) = state.advance(&batch, &losses, &optimizer, 1e-12, None, 4).unwrap();
            (report.loss, state.checkpoint().optimizer.first)
        };
        let (_, gradients) = loss_and_gradients(&start);
        assert_eq!(gradients.len(), 8);
        for (name, gradient) in &gradients {
            let gradient = &gradient.data;
            let steepest =
                (0..gradient.len()).max_by(|a, b| gradient[*a].abs().total_cmp(&gradient[*b].abs())).unwrap();
            let moved = |by: f32| {
                let mut start = start.clone();
                let mut data = start.weights[name].data.to_vec();
                data[steepest] += by;
                start.weights[name].data = Arc::new(data);
                loss_and_gradients(&start).0
            };
            let slope = (moved(1e-2) - moved(-1e-2)) / 2e-2;
            let computed = f64::from(gradient[steepest]);
            assert!((slope - computed).abs() < 0.03 * computed.abs() + 1e-5, "{name}: {computed} is not {slope}");
        }
    }

    #[test]
    fn resume_exactly_with_an_average_beside_them() {
        let lora = lora(&["q", "v"]);
        resumes_exactly(&by_adamw(), Method { lora: Some(&lora), seed: 5, ema: Some(0.9), ..Method::default() });
    }

    #[test]
    fn on_projections_that_are_not_there_are_refused() {
        let model = || fresh::<Cpu>(&tiny(), 3, &Default::default()).unwrap();
        let begun = |lora: &Lora| {
            let method = Method { lora: Some(lora), ..Method::default() };
            State::<CpuTape>::begin(model(), &tiny(), &method).err().unwrap()
        };
        let refused = |targets: &[&str]| begun(&lora(targets));
        let wide = begun(&Lora { rank: 1_000_000, ..lora(&["q"]) });
        assert!(wide.to_string().starts_with("`lora.rank` is 1000000, but `model.layers.0.self_attn.q_proj.weight`"));
        let error = refused(&["q", "gates"]);
        assert_eq!(error.to_string(), "`lora.targets` names `gates`, which the model does not have");
        assert_eq!(error.hint().unwrap(), "did you mean `gate`?");
        assert!(refused(&[]).to_string().contains("is empty"));
    }
}

mod averaging {
    use super::*;

    #[test]
    fn gives_the_mean_of_the_states_passed() {
        let method = Method { ema: Some(0.75), ..Method::default() };
        let mut expected = beginning();
        for step in 1..=4 {
            let passed = trained(&constant(step), &by_adamw(), Method::default()).weights;
            for (name, values) in &mut expected {
                let mean = values.data.iter().zip(passed[name].data.iter()).map(|(mean, now)| mean * 0.75 + now * 0.25);
                values.data = Arc::new(mean.collect());
            }
        }
        let done = trained(&constant(4), &by_adamw(), method);
        for (name, values) in &done.weights {
            let difference = crate::support::largest_difference(&values.data, &expected[name].data);
            assert!(difference < 1e-6, "{name}: {difference}");
        }
        // It follows the weights and does not lead them.
        let plain = trained(&constant(4), &by_adamw(), Method::default());
        assert!(done.checkpoint.weights == plain.checkpoint.weights);
        assert!(done.weights != plain.weights);
    }

    #[test]
    fn resumes_exactly() {
        super::resumes_exactly(&by_adamw(), Method { ema: Some(0.9), ..Method::default() });
    }
}

mod gradient_checkpointing {
    use super::*;

    #[test]
    fn changes_no_bit() {
        for optimizer in [by_adamw(), by_muon()] {
            let plain = trained(&constant(6), &optimizer, Method::default());
            let method = Method { gradient_checkpointing: true, ..Method::default() };
            let again = trained(&constant(6), &optimizer, method);
            assert!(plain.checkpoint == again.checkpoint);
            assert_eq!(plain.last, again.last);
            // Also where a step is split.
            let split = Setup { micro_rows: 1, ..constant(6) };
            assert!(
                trained(&split, &optimizer, Method::default()).checkpoint
                    == trained(&split, &optimizer, method).checkpoint
            );
        }
    }
}

mod muon {
    use super::*;

    #[test]
    fn learns_and_keeps_one_mean_a_matrix() {
        let mut watcher = Watcher::default();
        let done =
            train_with(&constant(40), &by_muon(), Options::default(), &InMemory::default(), &mut watcher).unwrap();
        assert!(watcher.reports[39].loss < 0.9 * watcher.reports[0].loss, "{:?}", watcher.reports[39]);
        let state = &done.checkpoint.optimizer;
        assert_eq!(state.first.len(), done.weights.len());
        // Embedding, two norms a layer and the last one follow AdamW.
        assert_eq!(state.second.len(), 1 + 2 * 2 + 1);
    }

    #[test]
    fn resumes_exactly() {
        super::resumes_exactly(&by_muon(), Method::default());
    }
}

mod early_stopping {
    use super::*;

    /// Held-out batches that training steps can not know.
    struct Held;

    impl BatchSource for Held {
        fn batch(&mut self, number: u64) -> stillhouse_student::error::Result<stillhouse_data::batch::Batch> {
            let mut batch = Rule { vocabulary: 32, with_teacher: true }.batch(1000 + number)?;
            // Another rule than the training's: learning the one makes the other worse in time.
            batch.targets.iter_mut().for_each(|target| *target = (*target * 5 + 3) % 32);
            Ok(batch)
        }
        fn teacher(
            &mut self,
            batch: &stillhouse_data::batch::Batch,
        ) -> stillhouse_student::error::Result<stillhouse_student::loss::Teacher> {
            Rule { vocabulary: 32, with_teacher: true }.teacher(batch)
        }
    }

    fn run(
        steps: u64,
        patience: u64,
        ema: Option<f64>,
        checkpoints: &InMemory,
        watcher: &mut Watcher,
    ) -> stillhouse_student::error::Result<Trained> {
        let rule = EarlyStop { patience, every: 3, metric: "loss".into() };
        let mut held = Held;
        let validation = Validation { rule: &rule, source: RefCell::new(&mut held), batches: 2 };
        let method = Method { ema, ..Method::default() };
        let options = Options { validation: Some(validation), method, ..Options::default() };
        train_with(&constant(steps), &by_adamw(), options, checkpoints, watcher)
    }

    #[test]
    fn ends_when_nothing_gets_better_and_takes_the_best_weights() {
        let mut watcher = Watcher::default();
        let done = run(200, 2, None, &InMemory::default(), &mut watcher).unwrap();
        let (best, _) = done.best.unwrap();
        assert!(done.checkpoint.step < 200, "never ended");
        assert_eq!(done.checkpoint.step, best + 6, "two measurements after the best");
        let values: Vec<f64> = watcher.measured.iter().map(|(_, measured)| measured.value).collect();
        assert!(values.iter().all(|value| *value >= done.best.unwrap().1));
        // The best weights are those that a training of that length ends with: measuring changed nothing.
        let shorter = trained(&constant(best), &by_adamw(), Method::default());
        assert!(done.weights == shorter.weights);
        assert!(done.weights != done.checkpoint.weights);
    }

    /// Held-out batches of which no teacher says anything.
    struct Untold;

    impl BatchSource for Untold {
        fn batch(&mut self, number: u64) -> stillhouse_student::error::Result<stillhouse_data::batch::Batch> {
            Held.batch(number)
        }
        fn teacher(
            &mut self,
            _: &stillhouse_data::batch::Batch,
        ) -> stillhouse_student::error::Result<stillhouse_student::loss::Teacher> {
            Ok(stillhouse_student::loss::Teacher::default())
        }
    }

    #[test]
    fn what_has_no_position_is_not_measured_as_perfect() {
        let measured = |metric: &str| {
            let rule = EarlyStop { patience: 0, every: 3, metric: metric.into() };
            let mut untold = Untold;
            let validation = Validation { rule: &rule, source: RefCell::new(&mut untold), batches: 2 };
            let options = Options { validation: Some(validation), ..Options::default() };
            let mut watcher = Watcher::default();
            (train_with(&constant(6), &by_adamw(), options, &InMemory::default(), &mut watcher), watcher)
        };
        let error = measured("forward-kl").0.err().unwrap();
        assert_eq!(
            error.to_string(),
            "after step 3 `early-stop` had nothing to measure: no held-out position counts for `forward-kl`"
        );
        assert!(error.hint().unwrap().contains("another `early-stop.metric`"));
        // The other loss is measured, and the one without a position is left out.
        let (done, watcher) = measured("cross-entropy");
        assert!(done.unwrap().best.unwrap().1 > 0.0);
        let [cross_entropy, forward_kl] = &watcher.measured[0].1.parts[..] else { panic!() };
        assert!(cross_entropy.mean.unwrap() > 0.0);
        assert_eq!((forward_kl.mean, forward_kl.positions), (None, 0));
    }

    #[test]
    fn is_the_same_when_interrupted_and_goes_on_with_more_patience() {
        let undisturbed = run(200, 2, Some(0.5), &InMemory::default(), &mut Watcher::default()).unwrap();
        let checkpoints = InMemory::default();
        let mut watcher = Watcher { stop_after: Some(4), ..Watcher::default() };
        assert!(run(200, 2, Some(0.5), &checkpoints, &mut watcher).is_err());
        let resumed = run(200, 2, Some(0.5), &checkpoints, &mut Watcher::default()).unwrap();
        assert!(resumed.checkpoint == undisturbed.checkpoint && resumed.weights == undisturbed.weights);

        // All is there: nothing is trained again.
        let mut watcher = Watcher::default();
        let again = run(200, 2, Some(0.5), &checkpoints, &mut watcher).unwrap();
        assert!(watcher.reports.is_empty() && again.weights == undisturbed.weights);

        // Three would have gone on one measurement longer, and so it does, from where two stopped.
        let mut watcher = Watcher::default();
        let patient = run(200, 3, Some(0.5), &checkpoints, &mut watcher).unwrap();
        assert_eq!(watcher.resumed, Some(undisturbed.checkpoint.step));
        assert!(patient.checkpoint.step > undisturbed.checkpoint.step);

        // And what the more patient one passed is no excuse for the less patient one.
        let mut watcher = Watcher::default();
        let back = run(200, 2, Some(0.5), &checkpoints, &mut watcher).unwrap();
        assert!(back.weights == undisturbed.weights && back.checkpoint.step == undisturbed.checkpoint.step);
    }
}
