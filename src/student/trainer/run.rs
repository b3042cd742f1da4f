//! The training loop: find the longest stored prefix, go on from there, keep checkpoints.

use std::time::Instant;

use super::checkpoint::{Checkpoint, CheckpointStore};
use super::live_teacher::LiveTeacher;
use super::source::BatchSource;
use super::state::{Losses, State, StepReport};
use super::trajectory::{StepIdentity, Trajectory};
use crate::backend::{Device, Inner, TrainBackend};
use crate::error::{Result, StudentError};
use crate::model::{Decoder, DecoderConfig};
use crate::optimizer::AdamW;
use crate::schedule::Schedule;

/// Who watches a training.
pub trait Observer {
    /// It goes on from a stored state.
    fn resumed(&mut self, step: u64, steps: u64);
    /// A step was taken.
    fn stepped(&mut self, report: &StepReport, steps: u64, tokens_per_second: f64);
    /// Something the user should know.
    fn warn(&mut self, message: String);
    /// Whether to stop at the next step, with a checkpoint.
    fn is_cancelled(&self) -> bool;
}

/// Everything a training needs.
pub struct Training<'a> {
    /// Canonical JSON of all that the weights depend on beyond what each step names.
    pub description: &'a str,
    /// Shape of the model.
    pub config: &'a DecoderConfig,
    /// What to make small.
    pub losses: Losses<'a>,
    /// How weights follow gradients.
    pub optimizer: &'a AdamW,
    /// How the learning rate moves.
    pub schedule: &'a dyn Schedule,
    /// Steps in all.
    pub steps: u64,
    /// Largest norm of all gradients.
    pub clip: Option<f64>,
    /// Rows on the device at once.
    pub micro_rows: usize,
    /// Steps between checkpoints; 0 keeps only what later trainings may share.
    pub checkpoint_every: u64,
}

/// What a training made.
pub struct Trained {
    /// The final state.
    pub checkpoint: Checkpoint,
    /// The step it went on from; 0 for a fresh start.
    pub resumed_from: u64,
    /// The last step's report; none if everything was there already.
    pub last: Option<StepReport>,
    /// Tokens trained on in this run.
    pub tokens: usize,
    /// Wall time of the steps of this run.
    pub seconds: f64,
}

impl Training<'_> {
    /// Trains, from the longest stored prefix of the trajectory; `fresh` gives the weights of step 0.
    ///
    /// # Errors
    /// Data that does not fit, divergence, a full disk; [`StudentError::Cancelled`] after a last checkpoint.
    pub fn run<B: TrainBackend>(
        &self,
        source: &mut dyn BatchSource,
        checkpoints: &dyn CheckpointStore,
        observer: &mut dyn Observer,
        device: &Device<B>,
        fresh: impl FnOnce() -> Result<Decoder<Inner<B>>>,
    ) -> Result<Trained> {
        self.run_beside::<B>(None, source, checkpoints, observer, device, fresh)
    }

    /// [`Training::run`] beside a live teacher, from whose distributions losses then read instead of stored ones.
    ///
    /// # Errors
    /// As [`Training::run`].
    pub fn run_beside<B: TrainBackend>(
        &self,
        teacher: Option<LiveTeacher<Inner<B>>>,
        source: &mut dyn BatchSource,
        checkpoints: &dyn CheckpointStore,
        observer: &mut dyn Observer,
        device: &Device<B>,
        fresh: impl FnOnce() -> Result<Decoder<Inner<B>>>,
    ) -> Result<Trained> {
        let trajectory = self.trajectory(source)?;
        let (state, resumed_from) = self.starting_state::<B>(&trajectory, checkpoints, observer, device, fresh)?;
        self.train(state.beside(teacher), resumed_from, &trajectory, source, checkpoints, observer)
    }

    /// The keys of all states. Reads every batch once, which is far cheaper than training on one.
    pub fn trajectory(&self, source: &mut dyn BatchSource) -> Result<Trajectory> {
        Trajectory::new(
            self.description,
            (0..self.steps).map(|step| {
                let weights = self.losses.at(step).iter().map(|loss| loss.weight).collect();
                Ok(StepIdentity { lr: self.lr(step), weights, batch: source.batch(step)?.digest() })
            }),
        )
    }

    fn lr(&self, step: u64) -> f64 {
        self.optimizer.lr * self.schedule.factor(step, self.steps)
    }

    fn starting_state<B: TrainBackend>(
        &self,
        trajectory: &Trajectory,
        checkpoints: &dyn CheckpointStore,
        observer: &mut dyn Observer,
        device: &Device<B>,
        fresh: impl FnOnce() -> Result<Decoder<Inner<B>>>,
    ) -> Result<(State<B>, u64)> {
        let mut limit = self.steps;
        loop {
            let step = trajectory.longest_prefix_up_to(limit, |key| checkpoints.has(key))?;
            let Some(key) = trajectory.key(step).filter(|_| step > 0) else {
                return Ok((State::new(fresh()?, self.config), 0));
            };
            if let Some(checkpoint) = checkpoints.load(key)? {
                observer.resumed(step, self.steps);
                return Ok((State::restore(&checkpoint, self.config, device)?, step));
            }
            observer.warn(format!("the checkpoint of step {step} is damaged, an earlier one is taken"));
            checkpoints.remove(key)?;
            limit = step - 1;
        }
    }

    fn train<B: TrainBackend>(
        &self,
        mut state: State<B>,
        resumed_from: u64,
        trajectory: &Trajectory,
        source: &mut dyn BatchSource,
        checkpoints: &dyn CheckpointStore,
        observer: &mut dyn Observer,
    ) -> Result<Trained> {
        let started = Instant::now();
        let mut keeper = Keeper { training: self, trajectory, checkpoints, passing: None };
        let (mut tokens, mut last) = (0, None);
        while state.steps() < self.steps {
            if observer.is_cancelled() {
                keeper.keep(&state)?;
                return Err(StudentError::Cancelled);
            }
            let batch = source.step(state.steps())?;
            let lr = self.lr(state.steps());
            let began = Instant::now();
            let losses = self.losses.at(state.steps());
            let (next, report) = state.advance(&batch, &losses, self.optimizer, lr, self.clip, self.micro_rows)?;
            state = next;
            tokens += report.tokens;
            observer.stepped(&report, self.steps, report.tokens as f64 / began.elapsed().as_secs_f64().max(1e-9));
            last = Some(report);
            keeper.after_step(&state)?;
        }
        let checkpoint = state.checkpoint();
        Ok(Trained { checkpoint, resumed_from, last, tokens, seconds: started.elapsed().as_secs_f64() })
    }
}

/// Decides which states are kept: the last, the one that longer trainings share, and for a crash the latest passing one.
struct Keeper<'a> {
    training: &'a Training<'a>,
    trajectory: &'a Trajectory,
    checkpoints: &'a dyn CheckpointStore,
    /// Step of the latest checkpoint that only a crash would need.
    passing: Option<u64>,
}

impl Keeper<'_> {
    fn after_step<B: TrainBackend>(&mut self, state: &State<B>) -> Result<()> {
        let (step, steps) = (state.steps(), self.training.steps);
        let shared = self.training.schedule.shared_steps(steps);
        let worth_keeping = step == steps || step == shared;
        let every = self.training.checkpoint_every;
        let passing = every > 0 && step.is_multiple_of(every);
        if !worth_keeping && !passing {
            return Ok(());
        }
        self.keep(state)?;
        // Only now that a later one is safe may the earlier one go.
        if let Some(key) = self.passing.take().and_then(|step| self.trajectory.key(step)) {
            self.checkpoints.remove(key)?;
        }
        self.passing = (!worth_keeping).then_some(step);
        Ok(())
    }

    fn keep<B: TrainBackend>(&self, state: &State<B>) -> Result<()> {
        match self.trajectory.key(state.steps()).filter(|_| state.steps() > 0) {
            Some(key) => self.checkpoints.save(key, &state.checkpoint()),
            None => Ok(()),
        }
    }
}
