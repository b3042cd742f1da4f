//! A small training in memory.

use std::cell::RefCell;
use std::collections::BTreeMap;

use stillhouse_data::batch::{Batch, Placement};
use stillhouse_data::signals::TopK;
use stillhouse_store::Key;
use stillhouse_student::backend::{Cpu, CpuTape};
use stillhouse_student::error::Result;
use stillhouse_student::init::fresh;
use stillhouse_student::loss::Teacher;
use stillhouse_student::loss::cross_entropy::CrossEntropy;
use stillhouse_student::loss::forward_kl::ForwardKl;
use stillhouse_student::loss::{Loss, Tail, Weight};
use stillhouse_student::model::{Biases, DecoderConfig};
use stillhouse_student::optimizer::{AdamW, Optimizer};
use stillhouse_student::schedule::Schedule;
use stillhouse_student::trainer::{
    BatchSource, Checkpoint, CheckpointStore, Losses, Measured, Observer, Options, StepReport, Trained, Training,
};

/// A batch of whole rows in which every next token is scored.
pub fn batch_of(rows: &[Vec<u32>]) -> Batch {
    let length = rows[0].len() - 1;
    Batch {
        rows: rows.len(),
        length,
        inputs: rows.iter().flat_map(|row| row[..length].to_vec()).collect(),
        targets: rows.iter().flat_map(|row| row[1..].to_vec()).collect(),
        scored: vec![true; rows.len() * length],
        segments: vec![1; rows.len() * length],
        positions: rows.iter().flat_map(|_| 0..length as u32).collect(),
        placements: (0..rows.len()).map(|row| Placement { row, offset: 0, example: row }).collect(),
    }
}

/// Made-up sequences with a rule in them, a teacher that is sure of the rule, and padding at the ends of rows.
pub struct Rule {
    pub vocabulary: u32,
    pub with_teacher: bool,
}

impl BatchSource for Rule {
    fn batch(&mut self, step: u64) -> Result<Batch> {
        let rows: Vec<Vec<u32>> = (0..4u32)
            .map(|row| {
                (0..13u32).map(|place| (step as u32 * 7 + row * 3 + place * (row + 1)) % self.vocabulary).collect()
            })
            .collect();
        let mut batch = batch_of(&rows);
        for row in 0..4 {
            let end = (row + 1) * batch.length;
            for place in end - row..end {
                batch.scored[place] = false;
                batch.segments[place] = 0;
            }
        }
        Ok(batch)
    }

    fn teacher(&mut self, batch: &Batch) -> Result<Teacher> {
        if !self.with_teacher {
            return Ok(Teacher::default());
        }
        let counted = batch.targets.iter().zip(&batch.scored).filter(|(_, scored)| **scored);
        let said = counted.enumerate().map(|(number, (target, _))| match number % 3 {
            0 => TopK::default(),
            _ => {
                TopK { ids: vec![*target, (target + 1) % self.vocabulary], log_probs: vec![0.8f32.ln(), 0.15f32.ln()] }
            }
        });
        Ok(Teacher::new(said.collect()))
    }
}

/// Checkpoints in memory.
#[derive(Default)]
pub struct InMemory(pub RefCell<BTreeMap<Key, Checkpoint>>);

impl InMemory {
    /// Steps of the states that are there.
    pub fn steps(&self) -> Vec<u64> {
        let mut steps: Vec<u64> = self.0.borrow().values().map(|state| state.step).collect();
        steps.sort_unstable();
        steps
    }
}

impl CheckpointStore for InMemory {
    fn has(&self, key: &Key) -> Result<bool> {
        Ok(self.0.borrow().contains_key(key))
    }
    fn load(&self, key: &Key) -> Result<Option<Checkpoint>> {
        Ok(self.0.borrow().get(key).cloned())
    }
    fn save(&self, key: &Key, checkpoint: &Checkpoint) -> Result<()> {
        let mut states = self.0.borrow_mut();
        let checkpoint = match states.get(key) {
            Some(there) => checkpoint.clone().merged_with(there),
            None => checkpoint.clone(),
        };
        states.insert(*key, checkpoint);
        Ok(())
    }
    fn passing(&self, key: &Key, owner: &Key) -> Result<Option<u64>> {
        Ok(self.0.borrow().get(key).filter(|state| state.passing_for.contains(owner)).map(Checkpoint::bytes))
    }
    fn discard(&self, keys: &[Key], owner: &Key) -> Result<()> {
        let mut states = self.0.borrow_mut();
        for key in keys {
            let last = states.get_mut(key).is_some_and(|state| state.passing_for.remove(owner));
            if last && states[key].passing_for.is_empty() {
                states.remove(key);
            }
        }
        Ok(())
    }
    fn remove(&self, key: &Key) -> Result<()> {
        self.0.borrow_mut().remove(key);
        Ok(())
    }
}

/// Remembers what it saw; asks to stop after some steps.
#[derive(Default)]
pub struct Watcher {
    pub reports: Vec<StepReport>,
    pub measured: Vec<(u64, Measured)>,
    pub resumed: Option<u64>,
    pub stop_after: Option<usize>,
}

impl Observer for Watcher {
    fn resumed(&mut self, step: u64, _: u64) {
        self.resumed = Some(step);
    }
    fn stepped(&mut self, report: &StepReport, _: u64, _: f64) {
        self.reports.push(report.clone());
    }
    fn measured(&mut self, step: u64, measured: &Measured) {
        self.measured.push((step, measured.clone()));
    }
    fn warn(&mut self, message: String) {
        panic!("{message}");
    }
    fn is_cancelled(&self) -> bool {
        self.stop_after.is_some_and(|limit| self.reports.len() >= limit)
    }
}

pub fn tiny() -> DecoderConfig {
    DecoderConfig {
        family: "llama".into(),
        vocabulary: 32,
        layers: 2,
        hidden: 32,
        intermediate: 64,
        heads: 4,
        kv_heads: 2,
        head_width: 8,
        context: 64,
        rope_theta: 10_000.0,
        rope_scaling: None,
        norm_epsilon: 1e-5,
        tied: true,
        biases: Biases::default(),
        head_norms: false,
        sliding_window: None,
        initializer_range: 0.02,
        bos: None,
        eos: vec![],
        pad: None,
    }
}

pub fn adamw(lr: f64) -> AdamW {
    AdamW { lr, beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.1, decay_norms: false }
}

/// A training with both losses.
pub struct Setup {
    pub schedule: Box<dyn Schedule>,
    pub steps: u64,
    pub micro_rows: usize,
    pub checkpoint_every: u64,
}

pub fn train(setup: &Setup, checkpoints: &dyn CheckpointStore, watcher: &mut dyn Observer) -> Result<Trained> {
    train_with(setup, &Optimizer::Adamw(adamw(3e-3)), Options::default(), checkpoints, watcher)
}

pub fn train_with(
    setup: &Setup,
    optimizer: &Optimizer,
    options: Options<'_>,
    checkpoints: &dyn CheckpointStore,
    watcher: &mut dyn Observer,
) -> Result<Trained> {
    let cross_entropy = CrossEntropy { weight: Weight::Constant(0.5) };
    let forward_kl = ForwardKl { weight: Weight::Constant(0.5), temperature: 2.0, t_squared: true, tail: Tail::Bucket };
    let losses: [(&str, &dyn Loss); 2] = [("cross-entropy", &cross_entropy), ("forward-kl", &forward_kl)];
    let config = tiny();
    let training = Training {
        description: "{}",
        config: &config,
        losses: Losses::new(losses),
        optimizer,
        schedule: setup.schedule.as_ref(),
        steps: setup.steps,
        clip: Some(1.0),
        micro_rows: setup.micro_rows,
        checkpoint_every: setup.checkpoint_every,
        options,
    };
    let mut source = Rule { vocabulary: 32, with_teacher: true };
    let device = Default::default();
    stillhouse_student::cpu::flush_subnormals();
    training.run::<CpuTape>(&mut source, checkpoints, watcher, &device, || fresh::<Cpu>(&config, 3, &device))
}
