//! A `student` stage at work.

use std::time::Instant;

use burn::tensor::backend::AutodiffBackend;
use serde_json::{Map, Value, json};
use stillhouse_data::batch::BatchPlan;
use stillhouse_data::dataset::{DatasetArtifact, HOLDOUT};
use stillhouse_stage::{AtRisk, Context, Failure, Outcome};

use super::config::StudentConfig;
use super::head::HeadInData;
use super::initial::Beginning;
use super::job::Job;
use super::narrator::Narrator;
use super::opening::can_compute;
use crate::backend::{CpuTape, Device, Inner, TrainBackend};
use crate::device::{Chosen, DeviceChoice, choose};
#[cfg(not(feature = "cuda"))]
use crate::device::{NO_CUDA, WITH_CUDA};
use crate::error::{Result, StudentError};
use crate::init::fresh;
use crate::model::Decoder;
use crate::throughput;
use crate::trainer::{
    BatchSource, Coverage, DatasetSource, HoldoutSource, Keep, Losses, OnPolicySampler, Options, Rollout,
    StoredCheckpoints, TeacherOnDevice, Trained, Validation, memory, peft_config, peft_names,
};
use crate::weights::{encode_tensors, read_model, write_model};

/// A server with the data's tokenizer gives a distribution at all tokens but those that it cut otherwise than the tokenizer
/// would (3 in 1,000 of a small model's answers); of English text, the tokenizers of GPT-2 and Qwen3 meet SmolLM2's at more
/// than 90 in 100.
const MATCHED_WELL: f64 = 0.98;
/// Tokenizers with nothing to do with each other share common words; one that gives less than this is another.
const MATCHED_ENOUGH: f64 = 0.5;

pub(super) fn run(context: &Context) -> Result<Outcome, Failure> {
    let chosen = choose(&context.order().device)?;
    crate::cpu::prepare(context.order().threads);
    let job = Job::open(context)?;
    job.fits(&chosen)?;
    let aligned = job.aligned()?;
    let started = Instant::now();
    let trained = match chosen.device {
        DeviceChoice::Cpu => job.train::<CpuTape>(&Default::default(), chosen.device)?,
        #[cfg(feature = "cuda")]
        DeviceChoice::Cuda(number) => {
            job.train::<crate::backend::CudaTape>(&burn::backend::cuda::CudaDevice::new(number), chosen.device)?
        }
        #[cfg(not(feature = "cuda"))]
        DeviceChoice::Cuda(_) => return Err(Failure::environment(NO_CUDA).hint(WITH_CUDA)),
    };
    job.write(&trained)?;
    Ok(job.outcome(&trained, aligned, &chosen, started.elapsed().as_secs_f64()))
}

impl Job<'_> {
    fn train<B: TrainBackend>(&self, device: &Device<B>, choice: DeviceChoice) -> Result<Trained, Failure> {
        let Self { context, config, shape, .. } = self;
        can_compute::<B>(config.precision, device, choice, context)?;
        let losses = self.losses();
        let mut source = self.source(&losses)?;
        let method = self.method();
        let mut holdout = config.early_stop.is_some().then(|| self.holdout(&losses)).transpose()?;
        let validation = config.early_stop.as_ref().zip(holdout.as_mut()).map(|(rule, source)| {
            let batches = source.batches();
            Validation { rule, source: (source as &mut dyn BatchSource).into(), batches }
        });
        // Where part of the model is frozen, backward does less than the formula says.
        let operations = method.trains_everything().then(|| throughput::operations_per_token(shape, self.length));
        let operations =
            operations.and_then(|per_token| Some((per_token, throughput::peak(choice, config.precision)?)));
        let training = self.training(Options {
            method,
            validation,
            spike: config.spike.as_ref(),
            on_policy: config.on_policy.as_ref().map(|rule| OnPolicySampler {
                rule,
                stop_ids: &self.stop_ids,
                vocabulary: self.tokenizer.vocabulary(),
            }),
            keep: Keep::clone(&config.keep),
            // What is free now would be another number tomorrow, and rounding depends on the parts of a step.
            memory: crate::cpu::memory_bytes().filter(|_| choice == DeviceChoice::Cpu).map(|bytes| bytes as u64),
            less_at_once: context.order().less_at_once,
        });
        // Until the first step is computed, fewer rows at once are no help.
        let doing = "loading the student and what it goes on from".to_owned();
        context.at_risk(&AtRisk { doing, hint: SMALLER_STUDENT.to_owned(), less_is_possible: false });
        let checkpoints = StoredCheckpoints::new(context.store());
        let device_memory = || B::device_memory(device);
        let mut narrator = Narrator::new(context, *config.log_every, operations, &device_memory);
        let doing = "loading the teacher beside the student";
        let teacher = memory::with_room(doing, SMALLER_TEACHER, || self.teacher_on::<B>(device))?;
        let fresh = || self.first_weights::<B>(device);
        let trained = training.run_beside::<B>(teacher, &mut source, &checkpoints, &mut narrator, device, fresh);
        trained.map_err(|error| stopped(error, config))
    }

    /// What losses read of a teacher that is no stored distribution.
    fn teacher_on<B: TrainBackend>(&self, device: &Device<B>) -> Result<Option<TeacherOnDevice<Inner<B>>>> {
        let precision = self.config.precision;
        Ok(match (&self.teacher, &self.head) {
            (Some(teacher), _) => Some(teacher.load::<B>(precision, device)?.into()),
            (None, Some(head)) => Some(head.load::<B>(precision, device)?.into()),
            (None, None) => None,
        })
    }

    fn source(&self, losses: &Losses<'_>) -> Result<DatasetSource, Failure> {
        let data = DatasetArtifact::new(self.context.input("data")?);
        let reads_signals = losses.need_distributions() && self.teacher.is_none();
        let signals = if reads_signals { data.signals()? } else { None };
        if reads_signals && signals.is_none() {
            return Err(Failure::input("a loss compares with a teacher's distributions, but the data has none").hint(
                "capture them: `capture = { … }` in the answers that the dataset is made from; or name a `teacher` that \
                 runs beside the student",
            ));
        }
        let source = self.batches(signals)?;
        let coverage = source.check(self.shape.vocabulary, self.tokenizer.digest(), losses)?;
        self.matched(&coverage)?;
        if coverage.examples < 1.0 {
            let percent = coverage.examples * 100.0;
            self.context.warn(format!("only {percent:.1} % of the training examples have a teacher's signal"));
        }
        Ok(source)
    }

    /// A server's tokenizer is not known: what its tokens have in common with the data's must show that they are the same.
    fn matched(&self, coverage: &Coverage) -> Result<(), Failure> {
        let Some(share) = coverage.matched.filter(|share| *share < MATCHED_WELL) else { return Ok(()) };
        let message = format!(
            "only {:.1} % of the scored tokens have a distribution of their server, whose tokens are matched by bytes",
            share * 100.0
        );
        if share >= MATCHED_ENOUGH {
            self.context.warn(format!("{message}: has it the tokenizer of the data?"));
            return Ok(());
        }
        Err(Failure::input(format!("{message}: its tokenizer is another than the data's")).hint(
            "give the dataset and the student the server's tokenizer; over different ones `cross-entropy` learns from its \
             answers, and `uld` compares with a teacher beside the student, one with `provider = \"local\"`",
        ))
    }

    /// The held-out part, for early stopping.
    fn holdout(&self, losses: &Losses<'_>) -> Result<HoldoutSource, Failure> {
        let data = DatasetArtifact::new(self.context.input("data")?);
        let examples = || data.examples(HOLDOUT);
        let lengths = examples()?.lengths()?;
        let Some(longest) = lengths.iter().max() else {
            return Err(Failure::input("`early-stop` measures on held-out examples, and the dataset holds none out")
                .hint("add `holdout = 0.05` to the dataset"));
        };
        let length = (*longest as usize).saturating_sub(1).max(1);
        if length > self.shape.context {
            let context = self.shape.context;
            return Err(Failure::input(format!(
                "held-out rows of {length} positions do not fit the model, whose longest sequence is {context}"
            ))
            .hint("a smaller `max-length` of the dataset, or a model with a longer context"));
        }
        if let Some(teacher) = &self.teacher {
            let hint = "a smaller `max-length` of the dataset, or a teacher with a longer context";
            teacher.fits("held-out rows", length, hint)?;
        }
        let plan = || BatchPlan::new(&lengths, self.config.batch.rows, length, self.context.seed(), true);
        let signals = if losses.need_distributions() && self.teacher.is_none() { data.signals()? } else { None };
        let teacher = DatasetSource::new(examples()?, plan()?, signals);
        let teacher = teacher.with_head(self.head.as_ref().map(HeadInData::width));
        let digest = self.tokenizer.digest();
        teacher
            .check(self.shape.vocabulary, digest, losses)
            .map_err(|error| Failure::from(error).context("the held-out part"))?;
        Ok(HoldoutSource::new(examples()?, plan()?, teacher))
    }

    fn first_weights<B: AutodiffBackend>(&self, device: &B::Device) -> Result<Decoder<Inner<B>>>
    where
        Inner<B>: crate::kernels::Kernels,
    {
        let Some(folder) = &self.pretrained else {
            return fresh(&self.shape, self.context.seed(), device);
        };
        let model = read_model(folder, device)?;
        match self.config.init.value.beginning() {
            Beginning::Cut(_, cut) => cut.apply(&model, device),
            Beginning::Weights(_) | Beginning::Fresh(_) => Ok(model.decoder),
        }
    }

    /// The model folder: weights, configuration, and the tokenizer's files beside them.
    fn write(&self, trained: &Trained) -> Result<(), Failure> {
        let out = self.context.out();
        fs_err::create_dir_all(&out)?;
        write_model(&out, &self.shape, &trained.weights)?;
        if let (Some(lora), Some(adapters)) = (&self.config.lora, &trained.adapters) {
            let folder = out.join("adapters");
            fs_err::create_dir_all(&folder)?;
            fs_err::write(folder.join("adapter_model.safetensors"), encode_tensors(&peft_names(adapters))?)?;
            fs_err::write(folder.join("adapter_config.json"), format!("{:#}\n", peft_config(lora)))?;
        }
        self.write_rollouts(&trained.rollouts)?;
        Ok(self.tokenizer_files.copy_to(&out)?)
    }

    /// What the student wrote in training, readable: `rollouts.jsonl`.
    fn write_rollouts(&self, rollouts: &[Rollout]) -> Result<(), Failure> {
        if rollouts.is_empty() {
            return Ok(());
        }
        let mut text = String::new();
        for rollout in rollouts {
            let mut line = json!(rollout);
            line["prompt-text"] = json!(self.tokenizer.decode(&rollout.prompt, true)?);
            line["completion-text"] = json!(self.tokenizer.decode(&rollout.completion, true)?);
            text.push_str(&line.to_string());
            text.push('\n');
        }
        Ok(fs_err::write(self.context.out().join("rollouts.jsonl"), text)?)
    }

    fn outcome(&self, trained: &Trained, aligned: Option<f64>, chosen: &Chosen, seconds: f64) -> Outcome {
        let Trained { checkpoint, resumed_from, tokens, seconds: training_seconds, .. } = trained;
        let mut metrics = Map::new();
        metrics.insert("parameters".into(), json!(self.shape.parameters()));
        metrics.insert("steps".into(), json!(checkpoint.step));
        metrics.insert("tokens".into(), json!(trained.positions));
        if let Some((step, value)) = trained.best {
            metrics.insert("best-step".into(), json!(step));
            metrics.insert("validation".into(), json!(value));
        }
        if let Some(share) = aligned {
            metrics.insert("aligned".into(), json!(share));
        }
        if let Ok(meta) = fs_err::metadata(self.context.out().join("model.safetensors")) {
            metrics.insert("bytes".into(), json!(meta.len()));
        }
        metrics.extend(checkpoint.figures.iter().map(|(name, value)| (name.clone(), json!(value))));
        let per_second = if *tokens > 0 { *tokens as f64 / training_seconds.max(1e-9) } else { 0.0 };
        Outcome {
            metrics: Value::Object(metrics),
            provenance: json!({
                "device": chosen.device.to_string(),
                "device-reason": chosen.reason,
                "resumed-from-step": resumed_from,
                "tokens": tokens,
                "tokens-per-second": per_second.round(),
                "seconds": seconds,
                "longer-trainings-share": self.config.shared(),
            }),
            resumed: *resumed_from > 0,
        }
    }
}

/// What takes less memory than a student that has no room.
const SMALLER_STUDENT: &str = "a smaller model, `lora` or `freeze` (the optimizer holds two numbers for each weight that is trained), or a \
    machine with more memory";

/// What takes less memory than a teacher that has no room beside its student.
const SMALLER_TEACHER: &str = "a smaller teacher, `precision = \"bf16\"`, signals that were captured before in place of a teacher beside the \
    student, or `--device cpu`";

/// The failure of a training; where it diverged, with what can be done with the checkpoint that is kept.
fn stopped(error: StudentError, config: &StudentConfig) -> Failure {
    let StudentError::Diverged { kept: Some(step), .. } = error else { return error.into() };
    let usual = error.hint().unwrap_or_default();
    Failure::from(error).hint(format!("{usual}; {}", config.use_of_checkpoint(step)))
}
