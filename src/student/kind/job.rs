//! A training, opened: what tells it from every other, whether it is about to run or only asked about.

use stillhouse_data::batch::BatchPlan;
use stillhouse_data::dataset::{DatasetArtifact, HOLDOUT, TRAIN};
use stillhouse_data::model_folder::ModelFolder;
use stillhouse_data::signals::SignalReader;
use stillhouse_data::tokenizer::Tokenizer;
use stillhouse_stage::{Context, Failure};

use super::config::StudentConfig;
use super::head::HeadInData;
use super::identity::{Generation, TeacherIdentity, description};
use super::opening::{beginning, fits_memory, same_tokenizer, stop_ids, weights_digest};
use super::teacher::TeacherBeside;
use crate::device::Chosen;
use crate::loss::Loss;
use crate::model::DecoderConfig;
use crate::trainer::{DatasetSource, Holds, Losses, Method, Options, Training, Trajectory};

/// Everything a training reads, opened and checked.
pub(super) struct Job<'a> {
    pub(super) context: &'a Context,
    pub(super) config: StudentConfig,
    pub(super) shape: DecoderConfig,
    pub(super) tokenizer: Tokenizer,
    pub(super) tokenizer_files: ModelFolder,
    /// The weights it goes on from, if it does.
    pub(super) pretrained: Option<ModelFolder>,
    /// The teacher beside it, if there is one.
    pub(super) teacher: Option<TeacherBeside>,
    /// The head of a teacher whose hidden states are in the data, where a loss reads them.
    pub(super) head: Option<HeadInData>,
    pub(super) description: String,
    pub(super) length: usize,
    /// Tokens that end a text which the student writes itself.
    pub(super) stop_ids: Vec<u32>,
}

impl<'a> Job<'a> {
    /// Opens what an order names, whatever it is to be computed on.
    ///
    /// # Errors
    /// What of it can't be read, or does not fit the rest.
    pub(super) fn open(context: &'a Context) -> Result<Self, Failure> {
        let config: StudentConfig = context.config()?;
        let artifact = context.input("data")?;
        let data = DatasetArtifact::new(artifact.clone());
        let tokenizer = data.tokenizer()?;
        same_tokenizer(context, &tokenizer)?;
        let longest = data.examples(TRAIN)?.lengths()?.into_iter().max().unwrap_or(1) as usize;
        let length = config.batch.length.unwrap_or(longest.saturating_sub(1)).max(1);
        let (shape, begins, pretrained) = beginning(context, &config, &tokenizer, length + 1)?;
        if length > shape.context {
            return Err(Failure::input(format!(
                "rows of {length} positions do not fit the model, whose longest sequence is {}",
                shape.context
            ))
            .hint("a smaller `batch.length` (and dataset `max-length`), or a model with a longer context"));
        }
        let teacher = TeacherBeside::open(context, &config, &tokenizer, &shape, length)?;
        let reads_signals = teacher.is_none() && losses(&config).need_distributions();
        let head = if reads_signals { HeadInData::open(&data, &shape)? } else { None };
        let read = match &teacher {
            _ if !losses(&config).need_teacher() => None,
            Some(teacher) => Some(teacher.identity(weights_digest(&teacher.folder)?)),
            None if !losses(&config).need_distributions() => None,
            None => Some(TeacherIdentity::Signals(artifact.tree.part(&["signals"]).digest().to_string())),
        };
        let measured = config.early_stop.is_some().then(|| artifact.tree.part(&[HOLDOUT]).digest().to_string());
        let seed = context.seed();
        let stop_ids = stop_ids(&tokenizer, pretrained.as_ref())?;
        let generation = Generation { vocabulary: tokenizer.vocabulary(), stop_ids: &stop_ids };
        let description = description(&config, &shape, &begins, seed, read.as_ref(), measured.as_deref(), &generation)?;
        let tokenizer_files = data.tokenizer_files();
        Ok(Self {
            context,
            config,
            shape,
            tokenizer,
            tokenizer_files,
            pretrained,
            teacher,
            head,
            description,
            length,
            stop_ids,
        })
    }

    /// What of the student is trained, and how.
    pub(super) fn method(&self) -> Method<'_> {
        let config = &self.config;
        Method {
            freeze: &config.freeze,
            lora: config.lora.as_ref(),
            seed: self.context.seed(),
            ema: config.ema,
            gradient_checkpointing: *config.gradient_checkpointing,
            precision: config.precision,
        }
    }

    /// Refuses what this machine has too little memory for.
    pub(super) fn fits(&self, chosen: &Chosen) -> Result<(), Failure> {
        let method = self.method();
        let alone = Holds {
            config: &self.shape,
            method: &method,
            optimizer: &self.config.optimizer,
            teacher: None,
            head: self.head.as_ref().map(HeadInData::shape),
            reads_distributions: false,
            keeps_best: self.config.early_stop.is_some(),
        };
        fits_memory(&alone, chosen.device)?;
        match &self.teacher {
            Some(teacher) => fits_memory(&Holds { teacher: Some(&teacher.shape), ..alone }, chosen.device),
            None => Ok(()),
        }
    }

    /// The share of the scored tokens that begin where one of the teacher's does; none where both have one tokenizer.
    ///
    /// # Errors
    /// Not one of them does, be it of those that are held out and measured on.
    pub(super) fn aligned(&self) -> Result<Option<f64>, Failure> {
        let Some(teacher) = &self.teacher else { return Ok(None) };
        let data = DatasetArtifact::new(self.context.input("data")?);
        let aligned = teacher.aligned(self.context, &data.examples(TRAIN)?, "")?;
        if self.config.measures_across_tokenizers() {
            teacher.aligned(self.context, &data.examples(HOLDOUT)?, " of the held-out examples")?;
        }
        Ok(aligned)
    }

    /// What it makes small.
    pub(super) fn losses(&self) -> Losses<'_> {
        losses(&self.config)
    }

    /// The training, as the options say.
    pub(super) fn training<'s, 'o>(&'s self, options: Options<'o>) -> Training<'s, 'o> {
        let config = &self.config;
        Training {
            description: &self.description,
            config: &self.shape,
            losses: self.losses(),
            optimizer: &config.optimizer,
            schedule: config.schedule.value.as_ref(),
            steps: config.steps,
            clip: (config.clip > 0.0).then_some(config.clip),
            micro_rows: *config.micro_batch,
            checkpoint_every: *config.checkpoint_every,
            options,
        }
    }

    /// The examples that every step sees, with signals where a loss reads them.
    pub(super) fn batches(&self, signals: Option<SignalReader>) -> Result<DatasetSource, Failure> {
        let data = DatasetArtifact::new(self.context.input("data")?);
        let examples = data.examples(TRAIN)?;
        let batch = &self.config.batch;
        let (lengths, seed) = (examples.lengths()?, self.context.seed());
        let plan = match batch.tokens {
            Some(tokens) => BatchPlan::by_tokens(&lengths, tokens, seed)?,
            None => {
                // What the student writes takes as much of a row as it likes.
                let pack = batch.pack && self.config.on_policy.is_none();
                BatchPlan::new(&lengths, batch.rows, self.length, seed, pack)?
            }
        };
        Ok(DatasetSource::new(examples, plan, signals).with_head(self.head.as_ref().map(HeadInData::width)))
    }

    /// The keys of all its states.
    pub(super) fn trajectory(&self) -> Result<Trajectory, Failure> {
        Ok(self.training(Options::default()).trajectory(&mut self.batches(None)?)?)
    }
}

/// The losses of a table.
pub(super) fn losses(config: &StudentConfig) -> Losses<'_> {
    Losses::new(config.loss.values.iter().map(|(name, loss)| (*name, loss.as_ref() as &dyn Loss)))
}
