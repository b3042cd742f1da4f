//! The training loop: find the longest stored prefix, go on from there, keep checkpoints.

use std::time::Instant;

use super::batch::StepBatch;
use super::checkpoint::{Checkpoint, CheckpointStore};
use super::compared_layers::ComparedLayers;
use super::guard::{Spike, SpikeGuard};
use super::keeper::{Keep, Keeper};
use super::losses::Losses;
use super::memory::{self, FEWER_AT_ONCE, MicroRows};
use super::need::{Holds, StepSize};
use super::on_policy::{OnPolicySampler, Rollout};
use super::source::BatchSource;
use super::state::{Computed, Method, State, StepReport};
use super::teacher_head::TeacherOnDevice;
use super::trajectory::{StepIdentity, Trajectory};
use super::validation::{Measured, Validation};
use crate::backend::{Device, Inner, TrainBackend};
use crate::error::{Result, StudentError};
use crate::kernels::Kernels;
use crate::model::{Decoder, DecoderConfig};
use crate::optimizer::{Optimizer, UpdateRule};
use crate::schedule::Schedule;
use crate::weights::NamedValues;

/// Who watches a training.
pub trait Observer {
    /// It goes on from a stored state.
    fn resumed(&mut self, step: u64, steps: u64);
    /// A step was taken.
    fn stepped(&mut self, report: &StepReport, steps: u64, tokens_per_second: f64);
    /// Held-out data was looked at.
    fn measured(&mut self, step: u64, measured: &Measured) {
        let _ = (step, measured);
    }
    /// Something the user should know.
    fn warn(&mut self, message: String);
    /// What comes next may take more memory than there is: in words that follow "out of memory", with what takes less, and
    /// whether another process would do less of it at once.
    fn at_risk(&mut self, doing: String, hint: &str, less_is_possible: bool) {
        let _ = (doing, hint, less_is_possible);
    }
    /// Whether to stop at the next step, with a checkpoint.
    fn is_cancelled(&self) -> bool;
}

/// Everything a training needs.
pub struct Training<'a, 'o> {
    /// Canonical JSON of all that the weights depend on beyond what each step names.
    pub description: &'a str,
    /// Shape of the model.
    pub config: &'a DecoderConfig,
    /// What to make small.
    pub losses: Losses<'a>,
    /// How weights follow gradients.
    pub optimizer: &'a Optimizer,
    /// How the learning rate moves.
    pub schedule: &'a dyn Schedule,
    /// Steps in all.
    pub steps: u64,
    /// Largest norm of all gradients.
    pub clip: Option<f64>,
    /// Rows on the device at once; 0 chooses.
    pub micro_rows: usize,
    /// Steps between checkpoints; 0 keeps only what later trainings may share.
    pub checkpoint_every: u64,
    /// What most trainings leave as it is.
    pub options: Options<'o>,
}

/// What most trainings leave as it is.
#[derive(Default)]
pub struct Options<'a> {
    /// What of the model is trained, and what is held beside it.
    pub method: Method<'a>,
    /// Whether to end before the last step.
    pub validation: Option<Validation<'a>>,
    /// Whether to stop when the loss jumps.
    pub spike: Option<&'a Spike>,
    /// Whether the student writes some of its completions itself.
    pub on_policy: Option<OnPolicySampler<'a>>,
    /// Which checkpoints stay.
    pub keep: Keep,
    /// Bytes of memory that the step may take, where that is known before: a step that would take more gets smaller parts.
    pub memory: Option<u64>,
    /// Take half as many rows at once as otherwise, because a process that did not ran out of memory. The result is that of
    /// such a number of rows: rounding depends on it.
    pub less_at_once: bool,
}

/// What a training made.
pub struct Trained {
    /// The final state.
    pub checkpoint: Checkpoint,
    /// The student's weights: averaged ones where there is an average, those of the best measurement where there are
    /// measurements, adapters merged.
    pub weights: NamedValues,
    /// The adapters in them, where there are any.
    pub adapters: Option<NamedValues>,
    /// What the student wrote on the way, over the whole trajectory.
    pub rollouts: Vec<Rollout>,
    /// Step and value of the best measurement.
    pub best: Option<(u64, f64)>,
    /// Tokens of all batches of the trajectory, padding left out, whoever trained its beginning.
    pub positions: u64,
    /// The step it went on from; 0 for a fresh start.
    pub resumed_from: u64,
    /// The last step's report; none if everything was there already.
    pub last: Option<StepReport>,
    /// Tokens trained on in this run.
    pub tokens: usize,
    /// Wall time of the steps of this run.
    pub seconds: f64,
}

/// What takes less memory in forward and backward.
const FEWER_ROWS: &str = "a smaller `micro-batch`, `gradient-checkpointing = true`, shorter rows, or `--device cpu`";
/// What takes less memory in the optimizer.
const FEWER_WEIGHTS: &str =
    "`lora` or `freeze` (the optimizer holds two numbers for each weight that is trained), or `--device cpu`";
/// What takes less memory in generation.
const SHORTER_TEXTS: &str = "a smaller `on-policy.max-tokens`, fewer rows (`batch.rows`), or `--device cpu`";

impl Training<'_, '_> {
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
        fresh: impl Fn() -> Result<Decoder<Inner<B>>>,
    ) -> Result<Trained> {
        self.run_beside::<B>(None::<TeacherOnDevice<Inner<B>>>, source, checkpoints, observer, device, fresh)
    }

    /// [`Training::run`] beside a live teacher, or the head of one whose hidden states are stored; losses then read its
    /// distributions instead of stored ones.
    ///
    /// # Errors
    /// As [`Training::run`]; layers to compare that one of both does not have.
    pub fn run_beside<B: TrainBackend>(
        &self,
        teacher: Option<impl Into<TeacherOnDevice<Inner<B>>>>,
        source: &mut dyn BatchSource,
        checkpoints: &dyn CheckpointStore,
        observer: &mut dyn Observer,
        device: &Device<B>,
        fresh: impl Fn() -> Result<Decoder<Inner<B>>>,
    ) -> Result<Trained> {
        let teacher = teacher.map(Into::into);
        let beside = teacher.as_ref().and_then(TeacherOnDevice::config);
        let compared = ComparedLayers::of(&self.losses, self.config, beside)?;
        let (trajectory, positions) = self.survey(source)?;
        let (state, resumed_from) =
            self.starting_state::<B>(&compared, &trajectory, checkpoints, observer, device, fresh)?;
        let mut trained =
            self.train(state.beside(teacher), resumed_from, &trajectory, source, checkpoints, observer)?;
        let steps = usize::try_from(trained.checkpoint.step).unwrap_or(usize::MAX);
        trained.positions = positions.iter().take(steps).sum();
        Ok(trained)
    }

    /// The keys of all states. Reads every batch once, which is far cheaper than training on one.
    pub fn trajectory(&self, source: &mut dyn BatchSource) -> Result<Trajectory> {
        Ok(self.survey(source)?.0)
    }

    /// The keys of all states, and the tokens of every step's batch, padding left out.
    fn survey(&self, source: &mut dyn BatchSource) -> Result<(Trajectory, Vec<u64>)> {
        let mut positions = Vec::new();
        let steps = (0..self.steps).map(|step| {
            let weights = self.losses.at(step).iter().map(|loss| loss.weight).collect();
            let batch = source.batch(step)?;
            positions.push(batch.tokens() as u64);
            Ok::<_, StudentError>(StepIdentity { lr: self.lr(step), weights, batch: batch.digest() })
        });
        let trajectory = Trajectory::new(self.description, steps)?;
        Ok((trajectory, positions))
    }

    fn lr(&self, step: u64) -> f64 {
        self.optimizer.lr() * self.schedule.factor(step, self.steps)
    }

    fn starting_state<B: TrainBackend>(
        &self,
        compared: &ComparedLayers,
        trajectory: &Trajectory,
        checkpoints: &dyn CheckpointStore,
        observer: &mut dyn Observer,
        device: &Device<B>,
        fresh: impl Fn() -> Result<Decoder<Inner<B>>>,
    ) -> Result<(State<B>, u64)> {
        let method = &self.options.method;
        let begin = |model| -> Result<State<B>> {
            Ok(State::begin(model, self.config, method)?.comparing(compared.clone(), method.seed))
        };
        let mut limit = self.steps;
        loop {
            let step = trajectory.longest_prefix_up_to(limit, |key| checkpoints.has(key))?;
            let Some(key) = trajectory.key(step).filter(|_| step > 0) else {
                return Ok((begin(fresh()?)?, 0));
            };
            let Some(checkpoint) = checkpoints.load(key)? else {
                observer.warn(format!("the checkpoint of step {step} is damaged, an earlier one is taken"));
                checkpoints.remove(key)?;
                limit = step - 1;
                continue;
            };
            // A more patient training went on from where this one ends.
            if let Some(end) = self.ends_at(&checkpoint.history).filter(|end| *end < step) {
                limit = end;
                continue;
            }
            // What is not trained is in no checkpoint: it is where the training began.
            let model = match method.trains_everything() {
                true => Decoder::empty(self.config, device),
                false => fresh()?,
            };
            let state = begin(model)?;
            let taken_up = match checkpoint.step == step {
                true => state.take_up(&checkpoint, device).map_err(|error| error.to_string()),
                false => {
                    Err(format!("what is kept as the checkpoint of step {step} is one of step {}", checkpoint.step))
                }
            };
            match taken_up {
                Ok(state) => {
                    observer.resumed(step, self.steps);
                    return Ok((state, step));
                }
                // Under this key only this training's state can be right: whatever else lies there is of no use to anybody.
                Err(why) => {
                    observer.warn(format!("{why}; an earlier one is taken"));
                    checkpoints.remove(key)?;
                    limit = step - 1;
                }
            }
        }
    }

    /// The step at which early stopping ends the training, as far as was measured.
    fn ends_at(&self, history: &super::validation::History) -> Option<u64> {
        history.stops_at(self.options.validation.as_ref()?.rule.patience)
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
        let always = [self.steps, self.schedule.shared_steps(self.steps)];
        let mut keeper = Keeper::new(&self.options.keep, trajectory, checkpoints, self.checkpoint_every, always);
        keeper.take_over(resumed_from, &state.history.measured)?;
        let mut guard = SpikeGuard::new(self.options.spike);
        let mut micro_rows = MicroRows::new(self.micro_rows, self.options.less_at_once);
        let (mut tokens, mut last) = (0, None);
        loop {
            // Before the first step too: an interrupted run may have ended before this.
            let weights = self.losses.at(state.steps().saturating_sub(1));
            let measured = self.measured(&mut state, &weights, &micro_rows, observer);
            let measured = measured.map_err(|error| keeper.save_whole(error, &state, resumed_from))?;
            if let Some(measured) = &measured {
                observer.measured(state.steps(), measured);
            }
            let ends = self.ends_at(&state.history).is_some();
            if state.steps() > resumed_from || measured.is_some() {
                keeper.after_step(&state, measured.map(|measured| measured.value), ends)?;
            }
            if ends || state.steps() >= self.steps {
                break;
            }
            if observer.is_cancelled() {
                keeper.save(&state, None, true)?;
                return Err(StudentError::Cancelled);
            }
            let lr = self.lr(state.steps());
            let mut began = Instant::now();
            let prepared = source.step(state.steps()).and_then(|batch| {
                if tokens == 0 {
                    self.fit_into_memory(&batch, state.teacher.as_ref(), &mut micro_rows, observer);
                }
                began = Instant::now();
                let (batch, written) = self.written(&state, trajectory, batch, observer)?;
                let losses = self.losses.at(state.steps());
                let computed = self.computed(&state, &batch, &losses, &mut guard, &mut micro_rows, observer)?;
                Ok((batch, written, computed))
            });
            // Nothing has changed the state yet, whatever went wrong.
            let prepared = prepared.map_err(|error| keeper.save_whole(error, &state, resumed_from));
            let (batch, written, computed) = prepared?;
            let next = state.steps() + 1;
            let (next, report) =
                memory::with_room(format!("changing the weights in step {next}"), FEWER_WEIGHTS, || {
                    Ok(state.follow(computed, &batch, self.optimizer, lr, self.clip))
                })?;
            state = next;
            state.rollouts.extend(written);
            tokens += report.tokens;
            observer.stepped(&report, self.steps, report.tokens as f64 / began.elapsed().as_secs_f64().max(1e-9));
            last = Some(report);
        }
        let seconds = started.elapsed().as_secs_f64();
        // What was saved last is on the host already.
        let checkpoint = keeper.into_last().unwrap_or_else(|| state.checkpoint());
        let values = match &state.history.best {
            Some(best) if self.options.validation.is_some() => best.clone(),
            _ => checkpoint.average.as_ref().unwrap_or(&checkpoint.weights).clone(),
        };
        Ok(Trained {
            checkpoint,
            rollouts: state.rollouts.clone(),
            weights: state.whole_model(values.clone()),
            adapters: self.options.method.lora.map(|_| values),
            best: self.options.validation.as_ref().and_then(|_| state.history.best_measured()),
            positions: 0,
            resumed_from,
            last,
            tokens,
            seconds,
        })
    }

    /// The step's batch, with what the student writes itself.
    fn written<B: TrainBackend>(
        &self,
        state: &State<B>,
        trajectory: &Trajectory,
        batch: StepBatch,
        observer: &mut dyn Observer,
    ) -> Result<(StepBatch, Vec<Rollout>)> {
        match (&self.options.on_policy, trajectory.key(state.steps())) {
            (Some(sampler), Some(key)) => {
                let doing = format!("writing completions for step {}", state.steps() + 1);
                observer.at_risk(doing.clone(), SHORTER_TEXTS, false);
                memory::with_room(doing, SHORTER_TEXTS, || sampler.mix(state, self.config, key, batch))
            }
            _ => Ok((batch, Vec::new())),
        }
    }

    /// A measurement on held-out data, where this step is one to measure at.
    fn measured<B: TrainBackend>(
        &self,
        state: &mut State<B>,
        losses: &Losses<'_>,
        micro_rows: &MicroRows,
        observer: &mut dyn Observer,
    ) -> Result<Option<Measured>> {
        let Some(validation) = &self.options.validation else { return Ok(None) };
        let doing = format!("measuring on held-out data after step {}", state.steps());
        if validation.is_due(state) {
            observer.at_risk(doing.clone(), FEWER_AT_ONCE, micro_rows.may_halve());
        }
        memory::with_room(doing, FEWER_ROWS, || validation.after_step(state, losses, |batch| micro_rows.of(batch)))
    }

    /// A step's gradients, guarded. Where memory runs out, smaller parts are tried once.
    fn computed<B: TrainBackend>(
        &self,
        state: &State<B>,
        batch: &StepBatch,
        losses: &Losses<'_>,
        guard: &mut SpikeGuard<'_>,
        micro_rows: &mut MicroRows,
        observer: &mut dyn Observer,
    ) -> Result<Computed<B>> {
        let computed = loop {
            let rows = micro_rows.of(&batch.batch);
            let doing = format!("with {rows} rows of {} positions at once", batch.batch.length);
            observer.at_risk(doing.clone(), FEWER_AT_ONCE, micro_rows.can_halve(&batch.batch));
            match memory::caught(|| state.compute(batch, losses, rows)) {
                Ok(computed) => break computed?,
                Err(reason) if !micro_rows.halve(&batch.batch) => {
                    return Err(StudentError::OutOfMemory { doing, reason, hint: FEWER_ROWS.into() });
                }
                Err(reason) => {
                    let fewer = micro_rows.of(&batch.batch);
                    observer.warn(format!(
                        "out of memory with {rows} rows at once, goes on with {fewer} ({reason}); \
                         `micro-batch` sets how many, and rounding depends on it"
                    ));
                }
            }
        };
        match guard.look(computed.loss) {
            Some(what) => Err(state.diverged(batch, what)),
            None => Ok(computed),
        }
    }

    /// Takes smaller parts from the start where a step would clearly not fit.
    fn fit_into_memory<B: Kernels>(
        &self,
        batch: &StepBatch,
        teacher: Option<&TeacherOnDevice<B>>,
        micro_rows: &mut MicroRows,
        observer: &mut dyn Observer,
    ) {
        let (before, fewer) = (micro_rows.before(&batch.batch), micro_rows.of(&batch.batch));
        if fewer < before {
            observer.warn(format!(
                "goes on with {fewer} rows at once in place of {before}; `micro-batch` sets how many, and rounding depends on it"
            ));
        }
        let Some(there) = self.options.memory else { return };
        let (rows, length) = (micro_rows.of(&batch.batch), batch.batch.length);
        let holds = Holds {
            config: self.config,
            method: &self.options.method,
            optimizer: self.optimizer,
            teacher: teacher.and_then(TeacherOnDevice::config),
            head: teacher.and_then(TeacherOnDevice::head),
            reads_distributions: self.losses.read_distributions(),
            keeps_best: self.options.validation.is_some(),
        };
        // Names that the model does not have were refused before the first step.
        let Ok(need) = holds.in_step(StepSize { rows, of_rows: batch.batch.rows, length }) else { return };
        let needed = need.total();
        if needed <= there {
            return;
        }
        let megabytes = |bytes: u64| bytes / 1_000_000;
        let (needed, there) = (megabytes(needed), megabytes(there));
        let halved = micro_rows.halve(&batch.batch);
        observer.warn(match halved {
            true => format!(
                "{rows} rows at once take about {needed} MB and the machine has {there} MB, goes on with {}; \
                 `micro-batch` sets how many, and rounding depends on it",
                micro_rows.of(&batch.batch)
            ),
            false => format!(
                "a step takes about {needed} MB and the machine has {there} MB; `gradient-checkpointing = true` or shorter rows take less"
            ),
        });
    }
}
