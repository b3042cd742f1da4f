//! Every way to train: each learns what it should, holds what it says, and is the same again whatever interrupts it.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod adapters;
mod early_stopping;

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
