//! What is left of a training whose device has too little memory.

use crate::support::training::{Rule, tiny};
use stillhouse_data::batch::Batch;
use stillhouse_spec::Config;
use stillhouse_student::backend::{Cpu, CpuTape};
use stillhouse_student::kernels::Kernels;
use stillhouse_student::loss::Teacher;
use stillhouse_student::loss::cross_entropy::CrossEntropy;
use stillhouse_student::loss::{Formula, Loss, LossSum, Positions, Reads, Weight};
use stillhouse_student::trainer::{BatchSource, EarlyStop, Losses, StepBatch, Trained, Training, Validation};

use super::*;

/// Cross-entropy on a device that has room for a few positions.
#[derive(Clone, Debug, Config)]
struct Narrow {
    /// Positions that fit.
    room: usize,
}

impl Formula for Narrow {
    fn weight(&self) -> Weight {
        Weight::Constant(1.0)
    }
    fn reads(&self) -> Reads<'_> {
        Reads::Labels
    }
    fn sum<B: Kernels>(&self, positions: &Positions<'_, B>) -> LossSum<B> {
        let asked = positions.labels.len();
        assert!(asked <= self.room, "CUDA_ERROR_OUT_OF_MEMORY: no room for {asked} positions");
        CrossEntropy { weight: Weight::Constant(1.0) }.sum(positions)
    }
}

#[derive(Default)]
struct Listener(Vec<String>);

impl Observer for Listener {
    fn resumed(&mut self, _: u64, _: u64) {}
    fn stepped(&mut self, _: &StepReport, _: u64, _: f64) {}
    fn warn(&mut self, message: String) {
        self.0.push(message);
    }
    fn is_cancelled(&self) -> bool {
        false
    }
}

/// Four rows of 12 positions, of which 48 − 6 count.
fn trained(room: usize, micro_rows: usize, memory: Option<u64>) -> (Result<Trained>, Vec<String>) {
    let options = Options { memory, ..Options::default() };
    let mut source = Rule { vocabulary: 32, with_teacher: false };
    trained_on(&mut source, room, micro_rows, 3, options, &InMemory::default())
}

fn trained_on(
    source: &mut dyn BatchSource,
    room: usize,
    micro_rows: usize,
    steps: u64,
    options: Options<'_>,
    checkpoints: &InMemory,
) -> (Result<Trained>, Vec<String>) {
    let loss = Narrow { room };
    let config = tiny();
    let optimizer = Optimizer::Adamw(adamw(3e-3));
    let schedule = Constant { warmup: 0 };
    let training = Training {
        description: "{}",
        config: &config,
        losses: Losses::new([("narrow", &loss as &dyn Loss)]),
        optimizer: &optimizer,
        schedule: &schedule,
        steps,
        clip: Some(1.0),
        micro_rows,
        checkpoint_every: 0,
        options,
    };
    let mut listener = Listener::default();
    let device = Default::default();
    let fresh = || stillhouse_student::init::fresh::<Cpu>(&config, 3, &device);
    let done = training.run::<CpuTape>(source, checkpoints, &mut listener, &device, fresh);
    (done, listener.0)
}

/// Data that can't be read at one step, as long as `broken` says so.
struct Breaks {
    at: u64,
    broken: bool,
}

impl BatchSource for Breaks {
    fn batch(&mut self, step: u64) -> Result<Batch> {
        Rule { vocabulary: 32, with_teacher: false }.batch(step)
    }
    fn teacher(&mut self, batch: &Batch) -> Result<Teacher> {
        Rule { vocabulary: 32, with_teacher: false }.teacher(batch)
    }
    fn step(&mut self, step: u64) -> Result<StepBatch> {
        match self.broken && step == self.at {
            true => Err(StudentError::Request { message: "unreadable".into() }),
            false => Rule { vocabulary: 32, with_teacher: false }.step(step),
        }
    }
}

#[test]
fn an_error_in_a_step_loses_none_of_the_steps_before() {
    let mut source = Breaks { at: 5, broken: true };
    let checkpoints = InMemory::default();
    let error = trained_on(&mut source, 48, 4, 8, Options::default(), &checkpoints).0.err().unwrap();
    assert_eq!((error.to_string().as_str(), checkpoints.steps()), ("unreadable", vec![5]));
    source.broken = false;
    let resumed = trained_on(&mut source, 48, 4, 8, Options::default(), &checkpoints).0.unwrap();
    let undisturbed = trained_on(&mut source, 48, 4, 8, Options::default(), &InMemory::default()).0.unwrap();
    assert_eq!((resumed.resumed_from, checkpoints.steps()), (5, vec![8]));
    assert!(resumed.checkpoint == undisturbed.checkpoint && resumed.weights == undisturbed.weights);
}

#[test]
fn that_runs_out_in_a_measurement_loses_no_step_and_the_measurement_is_made_up_for() {
    let rule = EarlyStop { patience: 0, every: 3, metric: "loss".into() };
    let checkpoints = InMemory::default();
    // Steps take two rows at once, at most 24 positions; the measurement does too, but for its room.
    let run = |room: usize, steps: u64, checkpoints: &InMemory| {
        let mut holdout = Wide;
        let source: &mut dyn BatchSource = &mut holdout;
        let options = Options {
            validation: Some(Validation { rule: &rule, source: source.into(), batches: 1 }),
            ..Options::default()
        };
        trained_on(&mut Rule { vocabulary: 32, with_teacher: false }, room, 2, steps, options, checkpoints).0
    };
    // The last step is one to measure at, too.
    for steps in [3, 7] {
        checkpoints.0.borrow_mut().clear();
        let error = run(24, steps, &checkpoints).err().unwrap();
        let message = error.to_string();
        assert!(
            message.starts_with("out of memory measuring on held-out data after step 3: CUDA_ERROR_OUT"),
            "{message}"
        );
        assert!(error.hint().unwrap().contains("micro-batch"));
        assert_eq!(checkpoints.steps(), [3]);
        let (resumed, undisturbed) = (run(48, steps, &checkpoints), run(48, steps, &InMemory::default()));
        let (resumed, undisturbed) = (resumed.unwrap(), undisturbed.unwrap());
        assert_eq!((resumed.resumed_from, checkpoints.steps()), (3, vec![steps]));
        assert!(resumed.checkpoint == undisturbed.checkpoint && resumed.weights == undisturbed.weights);
        assert_eq!(undisturbed.checkpoint.history.measured.len() as u64, steps / 3);
    }
}

/// Held-out data in longer rows than the training's.
struct Wide;

impl BatchSource for Wide {
    fn batch(&mut self, _: u64) -> Result<Batch> {
        let row = |row: u32| (0..21).map(|place| (row + place) % 32).collect();
        Ok(crate::support::training::batch_of(&[row(1), row(2)]))
    }
    fn teacher(&mut self, _: &Batch) -> Result<Teacher> {
        Ok(Teacher::default())
    }
}

#[test]
fn that_runs_out_halves_the_rows_once_and_says_so() {
    let (done, said) = trained(24, 0, None);
    let (halves, silent) = trained(48, 2, None);
    assert!(done.unwrap().checkpoint == halves.unwrap().checkpoint);
    assert!(silent.is_empty());
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(
        said[0].starts_with("out of memory with 4 rows at once, goes on with 2 (CUDA_ERROR_OUT_OF_MEMORY: "),
        "{said:?}"
    );
}

#[test]
fn that_is_too_small_for_half_of_them_is_an_error_with_a_hint() {
    let (done, said) = trained(12, 0, None);
    let error = done.err().unwrap();
    assert!(
        error.to_string().starts_with("out of memory with 2 rows of 12 positions at once: CUDA_ERROR_OUT"),
        "{error}"
    );
    assert!(error.hint().unwrap().contains("gradient-checkpointing"));
    assert_eq!(said.len(), 1);
}

#[test]
fn that_clearly_does_not_do_is_seen_before_the_first_step() {
    let (done, said) = trained(48, 0, Some(1000));
    assert!(done.unwrap().checkpoint == trained(48, 2, None).0.unwrap().checkpoint);
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].starts_with("4 rows at once take about "), "{said:?}");
    assert!(trained(48, 0, Some(u64::MAX)).1.is_empty());
}
