//! A `student` stage at work.

use std::path::Path;
use std::time::Instant;

use burn::tensor::backend::AutodiffBackend;
use serde_json::{Map, Value, json};
use stillhouse_data::batch::BatchPlan;
use stillhouse_data::dataset::{DatasetArtifact, TRAIN};
use stillhouse_data::model_folder::{MODEL_FILE_ENDING, ModelFolder};
use stillhouse_data::tokenizer::Tokenizer;
use stillhouse_stage::{Class, Context, Failure, Outcome, StageEvent};

use super::config::{Optimizer, StudentConfig};
use super::identity::description;
use crate::backend::{CpuTape, Device, Inner, TrainBackend};
use crate::device::{Chosen, DeviceChoice, choose};
use crate::error::{Result, StudentError};
use crate::init::fresh;
use crate::loss::Loss;
use crate::model::{Decoder, DecoderConfig, read_config};
use crate::trainer::{DatasetSource, Losses, Observer, StepReport, StoredCheckpoints, Trained, Training};
use crate::weights::{read_model, write_model};

/// Positions on a device at once where the user chooses nothing.
const MICRO_BATCH_POSITIONS: usize = 8192;

pub(super) fn run(context: &Context) -> Result<Outcome, Failure> {
    let chosen = choose(&context.order().device)?;
    crate::cpu::prepare(context.order().threads);
    let job = Job::open(context)?;
    let started = Instant::now();
    let trained = match chosen.device {
        DeviceChoice::Cpu => job.train::<CpuTape>(&Default::default())?,
        #[cfg(feature = "cuda")]
        DeviceChoice::Cuda(number) => {
            job.train::<crate::backend::CudaTape>(&burn::backend::cuda::CudaDevice::new(number))?
        }
        #[cfg(not(feature = "cuda"))]
        DeviceChoice::Cuda(_) => return Err(Failure::environment("this program was built without CUDA")),
    };
    job.write(&trained)?;
    Ok(job.outcome(&trained, &chosen, started.elapsed().as_secs_f64()))
}

/// Everything a training reads, opened and checked.
struct Job<'a> {
    context: &'a Context,
    config: StudentConfig,
    shape: DecoderConfig,
    tokenizer_files: ModelFolder,
    /// The weights it goes on from, if it does.
    pretrained: Option<ModelFolder>,
    description: String,
    length: usize,
}

impl<'a> Job<'a> {
    fn open(context: &'a Context) -> Result<Self, Failure> {
        let config: StudentConfig = context.config()?;
        let artifact = context.input("data")?;
        let data = DatasetArtifact::new(artifact.clone());
        let tokenizer = data.tokenizer()?;
        same_tokenizer(context, &tokenizer)?;
        let longest = data.examples(TRAIN)?.lengths()?.into_iter().max().unwrap_or(1) as usize;
        let length = config.batch.length.unwrap_or(longest.saturating_sub(1)).max(1);
        let (shape, pretrained) = match config.init.value.shape(&tokenizer, length + 1) {
            Some(shape) => {
                shape.check().map_err(|why| StudentError::training(format!("`init` {why}"), "change `init`"))?;
                (shape, None)
            }
            None => {
                let folder = pretrained_folder(context)?;
                let (_, shape) = read_config(&folder.label, &folder.read_text("config.json")?)?;
                tokenizer.vocabulary_fits(&folder.label, shape.vocabulary)?;
                (shape, Some(folder))
            }
        };
        if length > shape.context {
            return Err(Failure::input(format!(
                "rows of {length} positions do not fit the model, whose longest sequence is {}",
                shape.context
            ))
            .hint("a smaller `batch.length` (and dataset `max-length`), or a model with a longer context"));
        }
        let begins = match &pretrained {
            None => format!("seed {}", context.seed()),
            Some(folder) => format!("weights {}", weights_digest(folder)?),
        };
        let needs_teacher = Losses::new(losses(&config)).need_teacher();
        let signals = needs_teacher.then(|| artifact.tree.part(&["signals"]).digest().to_string());
        let description = description(&config, &shape, &begins, signals.as_deref())?;
        Ok(Self { context, config, shape, tokenizer_files: data.tokenizer_files(), pretrained, description, length })
    }

    fn train<B: TrainBackend>(&self, device: &Device<B>) -> Result<Trained, Failure> {
        let Optimizer::Adamw(optimizer) = &self.config.optimizer;
        let losses = Losses::new(losses(&self.config));
        let mut source = self.source(&losses)?;
        let rows = MICRO_BATCH_POSITIONS.div_ceil(self.length).min(self.config.batch.rows);
        let training = Training {
            description: &self.description,
            config: &self.shape,
            losses,
            optimizer,
            schedule: self.config.schedule.value.as_ref(),
            steps: self.config.steps,
            clip: (self.config.clip > 0.0).then_some(self.config.clip),
            micro_rows: if *self.config.micro_batch > 0 { *self.config.micro_batch } else { rows },
            checkpoint_every: *self.config.checkpoint_every,
        };
        let checkpoints = StoredCheckpoints::new(self.context.store());
        let mut narrator = Narrator { context: self.context, every: (*self.config.log_every).max(1) };
        Ok(training.run::<B>(&mut source, &checkpoints, &mut narrator, device, || self.first_weights::<B>(device))?)
    }

    fn source(&self, losses: &Losses<'_>) -> Result<DatasetSource, Failure> {
        let data = DatasetArtifact::new(self.context.input("data")?);
        let signals = if losses.need_teacher() { data.signals()? } else { None };
        if losses.need_teacher() && signals.is_none() {
            return Err(Failure::input("a loss compares with a teacher's distributions, but the data has none")
                .hint("capture them: `capture = { … }` in the answers that the dataset is made from"));
        }
        let examples = data.examples(TRAIN)?;
        let batch = &self.config.batch;
        let plan = BatchPlan::new(&examples.lengths()?, batch.rows, self.length, self.context.seed(), batch.pack)?;
        let source = DatasetSource::new(examples, plan, signals);
        let share = source.check(self.shape.vocabulary)?;
        if share < 1.0 {
            let percent = share * 100.0;
            self.context.warn(format!("only {percent:.1} % of the training examples have a teacher's signal"));
        }
        Ok(source)
    }

    fn first_weights<B: AutodiffBackend>(&self, device: &B::Device) -> Result<Decoder<Inner<B>>>
    where
        Inner<B>: crate::kernels::Kernels,
    {
        match &self.pretrained {
            None => fresh(&self.shape, self.context.seed(), device),
            Some(folder) => Ok(read_model(folder, device)?.decoder),
        }
    }

    /// The model folder: weights, configuration, and the tokenizer's files beside them.
    fn write(&self, trained: &Trained) -> Result<(), Failure> {
        let out = self.context.out();
        fs_err::create_dir_all(&out)?;
        write_model(&out, &self.shape, &trained.checkpoint.weights)?;
        Ok(self.tokenizer_files.copy_to(&out)?)
    }

    fn outcome(&self, trained: &Trained, chosen: &Chosen, seconds: f64) -> Outcome {
        let Trained { checkpoint, resumed_from, tokens, seconds: training_seconds, .. } = trained;
        let mut metrics = Map::new();
        metrics.insert("parameters".into(), json!(self.shape.parameters()));
        metrics.insert("steps".into(), json!(checkpoint.step));
        // Positions over the whole trajectory, whoever trained its beginning.
        let positions = self.config.batch.rows as u64 * self.length as u64;
        metrics.insert("tokens".into(), json!(checkpoint.step * positions));
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
            }),
            resumed: *resumed_from > 0,
        }
    }
}

fn losses(config: &StudentConfig) -> impl Iterator<Item = (&str, &dyn Loss)> {
    config.loss.values.iter().map(|(name, loss)| (*name, loss.as_ref()))
}

/// A student that names a tokenizer must learn from rows made with it.
fn same_tokenizer(context: &Context, of_data: &Tokenizer) -> Result<(), Failure> {
    let config: StudentConfig = context.config()?;
    if config.tokenizer.is_none() {
        return Ok(());
    }
    let named = stillhouse_data::model::tokenizer_of(context, "tokenizer")?;
    if named.digest() == of_data.digest() {
        return Ok(());
    }
    Err(Failure::input("the student's tokenizer is not the one that its data was made with")
        .hint("leave `tokenizer` out of the dataset, so that it takes the student's"))
}

fn pretrained_folder(context: &Context) -> Result<ModelFolder, Failure> {
    let field = "init.pretrained";
    if context.has_input(field) {
        let artifact = context.input(field)?;
        return Ok(ModelFolder::from_files(artifact.stage.clone(), artifact.files("")));
    }
    let label = format!("model.{}", context.definition_order(field)?.name);
    let folder = ModelFolder::open(&context.file(&format!("{field}.path"))?)?;
    Ok(ModelFolder { label, ..folder })
}

/// Digest of configuration and weights, whatever the files are called on disk.
fn weights_digest(folder: &ModelFolder) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"stillhouse/weights/1\0");
    let mut add = |name: &str, path: &Path| -> Result<()> {
        hasher.update(name.as_bytes());
        hasher.update(b"\0");
        let mut file = blake3::Hasher::new();
        file.update_mmap_rayon(path).map_err(StudentError::io(path))?;
        hasher.update(file.finalize().as_bytes());
        Ok(())
    };
    if let Some(gguf) = folder.gguf() {
        add(MODEL_FILE_ENDING, gguf.path())?;
    } else {
        for name in folder.files.keys() {
            if name == "config.json" || name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json") {
                add(name, folder.path(name)?)?;
            }
        }
    }
    Ok(hasher.finalize().to_hex().to_string())
}

/// Tells the stage's listeners about a training.
struct Narrator<'a> {
    context: &'a Context,
    every: u64,
}

impl Observer for Narrator<'_> {
    fn resumed(&mut self, step: u64, steps: u64) {
        self.context.say(StageEvent::Resumed { from: format!("step {step} of {steps}") });
    }

    fn stepped(&mut self, report: &StepReport, steps: u64, tokens_per_second: f64) {
        self.context.progress(report.step, Some(steps), "steps");
        if !report.step.is_multiple_of(self.every) && report.step != steps && report.step != 1 {
            return;
        }
        let mut values = Map::new();
        values.insert("loss".into(), json!(report.loss));
        values.extend(report.parts.iter().map(|part| (part.name.clone(), json!(part.mean))));
        values.insert("lr".into(), json!(report.lr));
        values.insert("gradient-norm".into(), json!(report.gradient_norm));
        values.insert("tokens-per-second".into(), json!(tokens_per_second.round()));
        self.context.say(StageEvent::Metrics { step: report.step, values });
    }

    fn warn(&mut self, message: String) {
        self.context.warn(message);
    }

    fn is_cancelled(&self) -> bool {
        self.context.is_cancelled()
    }
}

impl From<StudentError> for Failure {
    fn from(error: StudentError) -> Self {
        let hint = error.hint();
        let message = error.to_string();
        let failure = match error {
            StudentError::Data(error) => return error.into(),
            StudentError::Store(error) => return (*error).into(),
            StudentError::Io { source, .. } => Self { message, ..Self::from(source) },
            StudentError::Diverged { .. } => Self::new(Class::Training, message),
            StudentError::Device { .. } => Self::environment(message),
            StudentError::Cancelled => return Self::interrupted(),
            _ => Self::input(message),
        };
        match hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}
