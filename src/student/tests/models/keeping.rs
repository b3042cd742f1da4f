//! Which checkpoints stay, and what is left when a training can not go on.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod memory;

use std::cell::Cell;
use std::path::PathBuf;

use crate::support::training::{InMemory, Setup, Watcher, adamw, train, train_with};
use stillhouse_store::{Key, Store, StoreError};
use stillhouse_student::error::{Result, StudentError};
use stillhouse_student::optimizer::Optimizer;
use stillhouse_student::schedule::constant::Constant;
use stillhouse_student::schedule::wsd::Wsd;
use stillhouse_student::trainer::{
    Checkpoint, CheckpointStore, History, Keep, Observer, Options, Spike, StepReport, StoredCheckpoints,
};

fn constant(steps: u64, checkpoint_every: u64) -> Setup {
    Setup { schedule: Box::new(Constant { warmup: 2 }), steps, micro_rows: 4, checkpoint_every }
}

fn kept_steps(setup: &Setup, keep: Keep) -> Vec<u64> {
    let checkpoints = InMemory::default();
    let options = Options { keep, ..Options::default() };
    train_with(setup, &Optimizer::Adamw(adamw(3e-3)), options, &checkpoints, &mut Watcher::default()).unwrap();
    checkpoints.steps()
}

#[test]
fn the_final_state_and_what_longer_trainings_share_stay_whatever_the_policy() {
    let wsd = || Setup { schedule: Box::new(Wsd { warmup: 1, decay: 3, floor: 0.0 }), ..constant(9, 2) };
    assert_eq!(kept_steps(&wsd(), Keep::default()), [7, 9]);
    assert_eq!(kept_steps(&wsd(), Keep { max_bytes: 1, ..Keep::default() }), [7, 9]);
    assert_eq!(kept_steps(&constant(9, 2), Keep::default()), [9]);
}

#[test]
fn the_policy_says_what_else_stays() {
    assert_eq!(kept_steps(&constant(9, 2), Keep { last: 3, ..Keep::default() }), [6, 8, 9]);
    assert_eq!(kept_steps(&constant(9, 2), Keep { branches: 2, ..Keep::default() }), [4, 6, 9], "before 5 and 7");
    assert_eq!(kept_steps(&constant(9, 0), Keep { every: 4, ..Keep::default() }), [4, 8, 9]);
    let one = train(&constant(2, 0), &InMemory::default(), &mut Watcher::default()).unwrap().checkpoint.bytes();
    let keep = Keep { last: 9, max_bytes: 2 * one, ..Keep::default() };
    assert_eq!(kept_steps(&constant(9, 2), keep), [8, 9]);
}

#[test]
fn what_an_interrupted_run_left_goes_when_it_is_no_longer_needed() {
    let checkpoints = InMemory::default();
    let mut watcher = Watcher { stop_after: Some(5), ..Watcher::default() };
    assert!(train(&constant(9, 2), &checkpoints, &mut watcher).is_err());
    assert_eq!(checkpoints.steps(), [4, 5]);
    train(&constant(9, 2), &checkpoints, &mut Watcher::default()).unwrap();
    assert_eq!(checkpoints.steps(), [9]);
    // The end of a shorter training is no leftover.
    train(&constant(14, 3), &checkpoints, &mut Watcher::default()).unwrap();
    assert_eq!(checkpoints.steps(), [9, 14]);
}

/// Runs another training in the middle of one.
struct Meanwhile<F: FnMut()> {
    step: u64,
    work: F,
}

impl<F: FnMut()> Observer for Meanwhile<F> {
    fn resumed(&mut self, _: u64, _: u64) {}
    fn stepped(&mut self, report: &StepReport, _: u64, _: f64) {
        if report.step == self.step {
            (self.work)();
        }
    }
    fn warn(&mut self, message: String) {
        panic!("{message}");
    }
    fn is_cancelled(&self) -> bool {
        false
    }
}

#[test]
fn a_longer_training_leaves_a_shorter_one_what_it_goes_on_from() {
    let checkpoints = InMemory::default();
    let mut watcher = Watcher { stop_after: Some(5), ..Watcher::default() };
    assert!(train(&constant(6, 2), &checkpoints, &mut watcher).is_err());
    train(&constant(12, 1), &checkpoints, &mut Watcher::default()).unwrap();
    assert_eq!(checkpoints.steps(), [4, 5, 12]);
    let mut watcher = Watcher::default();
    train(&constant(6, 2), &checkpoints, &mut watcher).unwrap();
    assert_eq!((watcher.resumed, checkpoints.steps()), (Some(5), vec![6, 12]));
}

#[test]
fn trainings_that_run_at_once_forget_only_what_none_of_them_needs() {
    let checkpoints = InMemory::default();
    let seen = Cell::new(0);
    let longer = || {
        let mut watcher = Watcher::default();
        train(&constant(10, 1), &checkpoints, &mut watcher).unwrap();
        assert_eq!((watcher.resumed, checkpoints.steps()), (Some(2), vec![2, 10]));
        seen.set(seen.get() + 1);
    };
    train(&constant(6, 2), &checkpoints, &mut Meanwhile { step: 3, work: longer }).unwrap();
    assert_eq!((checkpoints.steps(), seen.get()), (vec![6, 10], 1));

    // The other way round: a shorter one ends where the longer one saves in passing.
    let checkpoints = InMemory::default();
    let shorter = || drop(train(&constant(6, 2), &checkpoints, &mut Watcher::default()).unwrap());
    train(&constant(10, 2), &checkpoints, &mut Meanwhile { step: 3, work: shorter }).unwrap();
    assert_eq!(checkpoints.steps(), [6, 10]);
}

#[test]
fn what_every_keeps_stays_whatever_a_longer_training_and_a_limit_say() {
    let checkpoints = InMemory::default();
    let run = |steps, every, keep| {
        let options = Options { keep, ..Options::default() };
        let optimizer = Optimizer::Adamw(adamw(3e-3));
        train_with(&constant(steps, every), &optimizer, options, &checkpoints, &mut Watcher::default()).unwrap();
        checkpoints.steps()
    };
    assert_eq!(run(9, 0, Keep { every: 4, max_bytes: 1, ..Keep::default() }), [4, 8, 9]);
    assert_eq!(run(14, 3, Keep::default()), [4, 8, 9, 14]);
}

/// A store on a disk that has room for a few checkpoints.
struct FillsUp {
    stored: InMemory,
    room: Cell<usize>,
}

impl CheckpointStore for FillsUp {
    fn has(&self, key: &Key) -> Result<bool> {
        self.stored.has(key)
    }
    fn load(&self, key: &Key) -> Result<Option<Checkpoint>> {
        self.stored.load(key)
    }
    fn save(&self, key: &Key, checkpoint: &Checkpoint) -> Result<()> {
        let Some(left) = self.room.get().checked_sub(1) else {
            let source = std::io::ErrorKind::StorageFull.into();
            let full = StoreError::DiskFull { doing: "write", path: PathBuf::from("cache/tmp/x"), source };
            return Err(StudentError::Store(Box::new(full)));
        };
        self.room.set(left);
        self.stored.save(key, checkpoint)
    }
    fn passing(&self, key: &Key, owner: &Key) -> Result<Option<u64>> {
        self.stored.passing(key, owner)
    }
    fn discard(&self, keys: &[Key], owner: &Key) -> Result<()> {
        self.stored.discard(keys, owner)
    }
    fn remove(&self, key: &Key) -> Result<()> {
        self.stored.remove(key)
    }
}

#[test]
fn a_full_disk_is_one_error_and_the_last_checkpoint_stays_good() {
    let undisturbed = train(&constant(9, 2), &InMemory::default(), &mut Watcher::default()).unwrap();
    let disk = FillsUp { stored: InMemory::default(), room: Cell::new(2) };
    let error = train(&constant(9, 2), &disk, &mut Watcher::default()).err().unwrap();
    assert_eq!(error.to_string(), "no space left to write cache/tmp/x: no storage space");
    assert!(error.hint().unwrap().contains("cache gc"));
    assert_eq!(disk.stored.steps(), [4], "the second one, which took the first one's place");
    disk.room.set(9);
    let mut watcher = Watcher::default();
    let resumed = train(&constant(9, 2), &disk, &mut watcher).unwrap();
    assert_eq!(watcher.resumed, Some(4));
    assert!(resumed.checkpoint == undisturbed.checkpoint);
}

#[test]
fn the_store_gives_every_part_back_and_takes_a_damaged_state_for_absent() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("cache")).unwrap();
    let stored = StoredCheckpoints::new(&store);
    let mut checkpoint = train(&constant(2, 0), &InMemory::default(), &mut Watcher::default()).unwrap().checkpoint;
    checkpoint.average = Some(checkpoint.weights.clone());
    checkpoint.history = History { measured: vec![(1, 2.5), (2, 0.1 + 0.2)], best: Some(checkpoint.weights.clone()) };
    let (key, owner) = (Key::of("test", b"state"), Key::of("test", b"last"));
    checkpoint.passing_for = [owner].into();
    stored.save(&key, &checkpoint).unwrap();
    // The order of tensors in a file is the file's.
    let loaded = stored.load(&key).unwrap().unwrap();
    assert!(loaded == checkpoint);
    assert!(stored.passing(&key, &owner).unwrap().unwrap() >= checkpoint.bytes());
    checkpoint.passing_for.clear();
    stored.save(&key, &checkpoint).unwrap();
    assert_eq!(stored.passing(&key, &owner).unwrap(), None);

    // Same length, other bytes: only a look at the content tells.
    let blob = store.blob_path(&store.checkpoint(&key).unwrap().unwrap().files["first-moments"].digest);
    let mut bytes = fs_err::read(&blob).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs_err::remove_file(&blob).unwrap();
    fs_err::write(&blob, bytes).unwrap();
    assert!(stored.load(&key).unwrap().is_none());
}

#[test]
fn a_loss_that_jumps_stops_before_the_step_and_keeps_the_state_there() {
    let rule = Spike { factor: 1.0 + 1e-9, window: 1 };
    let checkpoints = InMemory::default();
    // The first losses fall; sooner or later one is above the one before.
    let options = Options { spike: Some(&rule), ..Options::default() };
    let mut watcher = Watcher::default();
    let error = train_with(&constant(200, 0), &Optimizer::Adamw(adamw(3e-1)), options, &checkpoints, &mut watcher)
        .err()
        .unwrap();
    let good = watcher.reports.len() as u64;
    let message = error.to_string();
    assert!(message.starts_with(&format!("step {}: the loss is ", good + 1)), "{message}");
    assert!(message.ends_with(&format!("; training stopped, the checkpoint of step {good} is kept")), "{message}");
    assert!(error.hint().unwrap().contains("a lower learning rate"));
    assert_eq!(checkpoints.steps(), [good]);
    // What is kept is the state of a training that ends there.
    let shorter = train_with(
        &constant(good, 0),
        &Optimizer::Adamw(adamw(3e-1)),
        Options::default(),
        &checkpoints,
        &mut Watcher::default(),
    );
    assert_eq!(shorter.unwrap().resumed_from, good);
}

#[test]
fn a_checkpoint_of_another_model_is_refused_by_name() {
    use stillhouse_student::backend::{Cpu, CpuTape};
    use stillhouse_student::trainer::State;
    let checkpoint = train(&constant(2, 0), &InMemory::default(), &mut Watcher::default()).unwrap().checkpoint;
    let refused = |config: &stillhouse_student::model::DecoderConfig| {
        let device = Default::default();
        let model = stillhouse_student::init::fresh::<Cpu>(config, 1, &device).unwrap();
        State::<CpuTape>::new(model, config).take_up(&checkpoint, &device).err().unwrap()
    };
    let tiny = crate::support::training::tiny();
    let error = refused(&stillhouse_student::model::DecoderConfig { layers: 3, ..tiny.clone() });
    assert!(error.to_string().starts_with("the weights of the checkpoint of step 2 lack `model.layers.2."), "{error}");
    let error = refused(&stillhouse_student::model::DecoderConfig { intermediate: 48, ..tiny.clone() });
    assert!(error.to_string().contains("of shape [64, 32], where [48, 32] belongs"), "{error}");
    let error = refused(&stillhouse_student::model::DecoderConfig { layers: 1, ..tiny });
    assert!(error.to_string().contains("for which there is no place"), "{error}");
}

/// Keeps what it is warned of.
#[derive(Default)]
struct Warned {
    resumed: Option<u64>,
    warnings: Vec<String>,
}

impl Observer for Warned {
    fn resumed(&mut self, step: u64, _: u64) {
        self.resumed = Some(step);
    }
    fn stepped(&mut self, _: &StepReport, _: u64, _: f64) {}
    fn warn(&mut self, message: String) {
        self.warnings.push(message);
    }
    fn is_cancelled(&self) -> bool {
        false
    }
}

#[test]
fn a_foreign_checkpoint_is_set_aside_and_an_earlier_one_taken() {
    let keep = || Options { keep: Keep { last: 9, ..Keep::default() }, ..Options::default() };
    let train = |checkpoints: &InMemory, observer: &mut dyn Observer| {
        train_with(&constant(6, 2), &Optimizer::Adamw(adamw(3e-3)), keep(), checkpoints, observer).unwrap()
    };
    let undisturbed = InMemory::default();
    let whole = train(&undisturbed, &mut Watcher::default());
    let of = |step: u64| {
        let states = undisturbed.0.borrow();
        let (key, state) = states.iter().find(|(_, state)| state.step == step).unwrap();
        (*key, state.clone())
    };
    let (last, state) = of(6);
    let name = state.weights.keys().next().unwrap().clone();
    let without_a_weight = {
        let mut state = state.clone();
        state.weights.shift_remove(&name);
        state
    };
    let without_a_mean = {
        let mut state = state.clone();
        state.optimizer.first.shift_remove(&name);
        state
    };
    let with_a_short_mean = {
        let mut state = state.clone();
        state.optimizer.second[&name].data = vec![0.0; 3].into();
        state
    };
    for (planted, said) in [
        (of(4).1, "what is kept as the checkpoint of step 6 is one of step 4".to_owned()),
        (without_a_weight, format!("the weights of the checkpoint of step 6 lack `{name}`")),
        (without_a_mean, format!("the optimizer's means of the checkpoint of step 6 lack `{name}`")),
        (with_a_short_mean, format!("the optimizer's means of the checkpoint of step 6 hold 3 numbers for `{name}`")),
    ] {
        let checkpoints = InMemory(undisturbed.0.clone());
        checkpoints.0.borrow_mut().insert(last, planted);
        let mut warned = Warned::default();
        let again = train(&checkpoints, &mut warned);
        let [warning] = &warned.warnings[..] else { panic!("{:?}", warned.warnings) };
        assert!(warning.starts_with(&said) && warning.ends_with("an earlier one is taken"), "{warning}");
        assert_eq!(warned.resumed, Some(4));
        assert!(again.weights == whole.weights, "{said}");
        assert!(checkpoints.0.borrow()[&last].weights == state.weights, "made again");
    }
}
