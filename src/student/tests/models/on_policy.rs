//! Learning from the student's own text: what it writes, that it helps, and that an interruption changes nothing.

use stillhouse_student::backend::{Cpu, CpuTape};
use stillhouse_student::error::StudentError;
use stillhouse_student::init::fresh;
use stillhouse_student::loss::reverse_kl::ReverseKl;
use stillhouse_student::loss::{Comparison, Loss, Tail, Weight};
use stillhouse_student::model::{DecoderConfig, RotaryTable};
use stillhouse_student::optimizer::Optimizer;
use stillhouse_student::schedule::constant::Constant;
use stillhouse_student::trainer::{
    BatchSource, LiveTeacher, Losses, OnPolicy, OnPolicySampler, Options, Trained, Training,
};
use stillhouse_student::weights::LoadedModel;

use crate::support::training::{InMemory, Rule, Watcher, adamw, tiny};

/// The rule's batches with three tokens of prompt in each row.
struct Prompts(Rule);

impl BatchSource for Prompts {
    fn batch(&mut self, step: u64) -> stillhouse_student::error::Result<stillhouse_data::batch::Batch> {
        let mut batch = self.0.batch(step)?;
        for row in 0..batch.rows {
            batch.scored[row * batch.length..][..2].fill(false);
        }
        Ok(batch)
    }

    fn teacher(
        &mut self,
        batch: &stillhouse_data::batch::Batch,
    ) -> stillhouse_student::error::Result<stillhouse_student::loss::Teacher> {
        self.0.teacher(batch)
    }
}

fn teacher() -> LiveTeacher<Cpu> {
    let config = DecoderConfig { initializer_range: 0.3, ..tiny() };
    let decoder = fresh(&config, 11, &Default::default()).unwrap();
    LiveTeacher::new(LoadedModel { decoder, rotary: RotaryTable::new(&config), config }, 32)
}

fn rule(share: f64) -> OnPolicy {
    OnPolicy { share, temperature: 1.0, max_tokens: Some(6) }
}

fn train(share: f64, steps: u64, checkpoints: &InMemory, watcher: &mut Watcher) -> Result<Trained, StudentError> {
    train_of(&tiny(), share, steps, checkpoints, watcher)
}

fn train_of(
    config: &DecoderConfig,
    share: f64,
    steps: u64,
    checkpoints: &InMemory,
    watcher: &mut Watcher,
) -> Result<Trained, StudentError> {
    stillhouse_student::cpu::flush_subnormals();
    let comparison = Comparison { temperature: 1.0, t_squared: true, tail: Tail::Bucket };
    let reverse_kl = ReverseKl { weight: Weight::Constant(1.0), comparison };
    let losses: [(&str, &dyn Loss); 1] = [("reverse-kl", &reverse_kl)];
    let (optimizer, device) = (Optimizer::Adamw(adamw(5e-3)), Default::default());
    let rule = rule(share);
    let training = Training {
        description: "{}",
        config,
        losses: Losses::new(losses),
        optimizer: &optimizer,
        schedule: &Constant { warmup: 0 },
        steps,
        clip: Some(1.0),
        micro_rows: 2,
        checkpoint_every: 0,
        options: Options {
            on_policy: Some(OnPolicySampler { rule: &rule, stop_ids: &[31], vocabulary: 32 }),
            ..Options::default()
        },
    };
    let mut source = Prompts(Rule { vocabulary: 32, with_teacher: false });
    training.run_beside::<CpuTape>(Some(teacher()), &mut source, checkpoints, watcher, &device, || {
        fresh(config, 3, &device)
    })
}

#[test]
fn the_student_continues_the_prompts_of_the_data_within_their_rows() {
    let trained = train(1.0, 3, &InMemory::default(), &mut Watcher::default()).unwrap();
    assert_eq!(trained.rollouts.len(), 3 * 4);
    for (number, rollout) in trained.rollouts.iter().enumerate() {
        let (step, row) = (number as u32 / 4, number as u32 % 4);
        assert_eq!((rollout.step, rollout.example), (u64::from(step) + 1, row as usize));
        let expected: Vec<u32> = (0..3).map(|place| (step * 7 + row * 3 + place * (row + 1)) % 32).collect();
        assert_eq!(rollout.prompt, expected);
        assert!((1..=6).contains(&rollout.completion.len()), "{rollout:?}");
        let ended = rollout.completion.last() == Some(&31);
        assert_eq!(rollout.finish, if ended { "stop" } else { "length" }, "{rollout:?}");
        assert!(ended || rollout.completion.len() == 6, "{rollout:?}");
    }
}

#[test]
fn a_student_with_more_rows_than_tokens_writes_only_tokens() {
    // Three of four of its rows are no tokens, and the teacher has none of these.
    let config = DecoderConfig { vocabulary: 128, ..tiny() };
    let trained = train_of(&config, 1.0, 3, &InMemory::default(), &mut Watcher::default()).unwrap();
    assert_eq!(trained.rollouts.len(), 3 * 4);
    let written: Vec<u32> = trained.rollouts.iter().flat_map(|rollout| rollout.completion.clone()).collect();
    assert!(written.iter().all(|token| *token < 32), "{written:?}");
    assert!(written.iter().collect::<std::collections::BTreeSet<_>>().len() > 5, "{written:?}");
}

#[test]
fn a_share_of_the_examples_is_written_and_none_at_zero() {
    let written = |share| train(share, 30, &InMemory::default(), &mut Watcher::default()).unwrap().rollouts.len();
    assert_eq!(written(0.0), 0);
    let half = written(0.5);
    assert!((40..=80).contains(&half), "{half} of 120");
}

#[test]
fn an_interrupted_training_writes_and_learns_the_same() {
    let undisturbed = train(0.7, 8, &InMemory::default(), &mut Watcher::default()).unwrap();
    let checkpoints = InMemory::default();
    let mut watcher = Watcher { stop_after: Some(3), ..Watcher::default() };
    assert!(matches!(train(0.7, 8, &checkpoints, &mut watcher), Err(StudentError::Cancelled)));
    let mut watcher = Watcher::default();
    let resumed = train(0.7, 8, &checkpoints, &mut watcher).unwrap();
    assert_eq!((watcher.resumed, resumed.resumed_from), (Some(3), 3));
    assert_eq!(resumed.rollouts, undisturbed.rollouts);
    assert_eq!(resumed.weights, undisturbed.weights);
}

#[test]
fn judged_by_the_teacher_its_own_text_comes_closer_to_the_teachers() {
    let mut watcher = Watcher::default();
    train(1.0, 150, &InMemory::default(), &mut watcher).unwrap();
    let mean = |reports: &[stillhouse_student::trainer::StepReport]| {
        reports.iter().map(|report| report.loss).sum::<f64>() / reports.len() as f64
    };
    let (first, last) = (mean(&watcher.reports[..10]), mean(&watcher.reports[140..]));
    assert!(last < 0.9 * first, "{first} → {last}");
    // What counts is what was written: at most six tokens in each of four rows.
    assert!(watcher.reports.iter().all(|report| report.parts[0].positions <= 24));
}
