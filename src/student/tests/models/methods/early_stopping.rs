//! Trainings that end when held-out loss gets no better.

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
