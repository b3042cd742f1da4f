//! What a metric measures with: the models, the data its table names, the settings of intervals.

use stillhouse_data::dataset::{DatasetArtifact, HOLDOUT, TRAIN};
use stillhouse_data::example::{ExampleReader, Row};
use stillhouse_data::lm::{LanguageModel, ModelLoader};
use stillhouse_data::model_folder::ModelFolder;
use stillhouse_data::tokenizer::Tokenizer;
use stillhouse_spec::Config;
use stillhouse_stage::{Context, Failure};

use crate::bootstrap::Bootstrap;
use crate::scoring::Scorer;

/// Which part of a dataset is measured on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Config)]
pub enum Split {
    /// The rows held out of training.
    #[default]
    Holdout,
    /// The rows trained on.
    Train,
}

impl Split {
    /// The folder of the dataset's artifact that holds it.
    #[must_use]
    pub fn part(self) -> &'static str {
        match self {
            Self::Holdout => HOLDOUT,
            Self::Train => TRAIN,
        }
    }
}

/// A loaded model with its tokenizer.
pub struct Subject {
    /// `student.small`, `model.smollm2`: for messages.
    pub label: String,
    /// The model.
    pub model: Box<dyn LanguageModel>,
    /// The tokenizer in its folder.
    pub tokenizer: Tokenizer,
    folder: ModelFolder,
}

impl Subject {
    /// Loads a model folder and checks that model and tokenizer belong together.
    ///
    /// # Errors
    /// A damaged or unsupported folder; a device that is not there.
    pub fn load(loader: &dyn ModelLoader, folder: &ModelFolder, device: &str) -> Result<Self, Failure> {
        let tokenizer = Tokenizer::load(folder)?;
        let model = loader.load(folder, device)?;
        tokenizer.vocabulary_fits(&folder.label, model.vocabulary())?;
        Ok(Self { label: folder.label.clone(), model, tokenizer, folder: folder.clone() })
    }

    /// The tokens that end what the model writes, see [`Tokenizer::stop_ids`].
    ///
    /// # Errors
    /// Settings for generation that cannot be read.
    pub fn stop_ids(&self) -> Result<Vec<u32>, Failure> {
        Ok(self.tokenizer.stop_ids(&self.folder)?)
    }

    /// The model as something that scores.
    pub fn scorer(&mut self) -> Scorer<'_> {
        Scorer { model: self.model.as_mut(), label: &self.label }
    }
}

/// The models an evaluation holds in memory: the one it measures, and the last teacher that was asked for, so that
/// suites that share a teacher load it once.
pub struct Models {
    loader: &'static dyn ModelLoader,
    device: String,
    subject: Subject,
    teacher: Option<(String, Subject)>,
}

impl Models {
    /// Loads the model to be measured.
    ///
    /// # Errors
    /// See [`Subject::load`].
    pub fn load(loader: &'static dyn ModelLoader, folder: &ModelFolder, device: &str) -> Result<Self, Failure> {
        let subject = Subject::load(loader, folder, device)?;
        Ok(Self { loader, device: device.to_owned(), subject, teacher: None })
    }

    /// The model that is measured.
    pub fn subject(&mut self) -> &mut Subject {
        &mut self.subject
    }

    /// The model that is measured and the teacher in `folder`, known by `digest`.
    fn subject_and_teacher(
        &mut self,
        digest: String,
        folder: &ModelFolder,
    ) -> Result<(&mut Subject, &mut Subject), Failure> {
        let teacher = match self.teacher.take() {
            Some(kept) if kept.0 == digest => kept,
            // The one before is dropped first: two teachers may not fit in memory.
            other => {
                drop(other);
                (digest, Subject::load(self.loader, folder, &self.device)?)
            }
        };
        let (_, teacher) = self.teacher.insert(teacher);
        Ok((&mut self.subject, teacher))
    }
}

/// One metric's view of the evaluation it runs in.
pub struct Bench<'a> {
    context: &'a Context,
    models: &'a mut Models,
    /// The config path of the metric's table: `suites.0.perplexity`.
    path: String,
    /// How intervals are made.
    pub bootstrap: Bootstrap,
}

/// A part of a dataset, in ids that the measured model knows.
pub struct Part {
    /// `dataset.train`, for messages.
    pub stage: String,
    /// The examples; at least one.
    pub examples: ExampleReader,
}

impl Part {
    /// The readable rows, one for each example.
    ///
    /// # Errors
    /// A damaged file.
    pub fn rows(&self) -> Result<Vec<Row>, Failure> {
        Ok(self.examples.rows()?.collect::<Result<_, _>>()?)
    }
}

impl<'a> Bench<'a> {
    /// The bench of the metric whose table stands at `path`.
    pub fn new(context: &'a Context, models: &'a mut Models, path: String, bootstrap: Bootstrap) -> Self {
        Self { context, models, path, bootstrap }
    }

    /// The part of the dataset that the metric's `data` names.
    ///
    /// # Errors
    /// A part without rows; data tokenised with another tokenizer than the measured model's.
    pub fn part(&mut self, split: Split) -> Result<Part, Failure> {
        let artifact = self.context.input(&format!("{}.data", self.path))?;
        let stage = artifact.stage.clone();
        let dataset = DatasetArtifact::new(artifact);
        let examples = dataset.examples(split.part())?;
        if examples.is_empty() {
            return Err(Failure::input(format!("{stage} has no {} rows to measure on", split.part()))
                .hint("give the dataset a `holdout`, or more rows"));
        }
        let subject = self.models.subject();
        if dataset.tokenizer()?.digest() != subject.tokenizer.digest() {
            return Err(Failure::input(format!(
                "{stage} is tokenised with another tokenizer than that of {}",
                subject.label
            ))
            .hint("measure on a dataset with the model's own `tokenizer`"));
        }
        Ok(Part { stage, examples })
    }

    /// The model that is measured.
    pub fn subject(&mut self) -> &mut Subject {
        self.models.subject()
    }

    /// The model that is measured, and the local teacher that the metric's `teacher` names.
    ///
    /// # Errors
    /// See [`Subject::load`]; models whose token ids do not mean the same.
    pub fn subject_and_teacher(&mut self) -> Result<(&mut Subject, &mut Subject), Failure> {
        let model = format!("{}.teacher.model", self.path);
        let label = format!("model.{}", self.context.definition_order(&model)?.name);
        let path = format!("{model}.path");
        let folder = self.context.file(&path)?;
        let digest = self.context.file_digest(&path).map(|digest| digest.to_string()).unwrap_or_default();
        let folder = ModelFolder { label, ..ModelFolder::open(&folder)? };
        let (subject, teacher) = self.models.subject_and_teacher(digest, &folder)?;
        check_same_tokenizer(subject, teacher)?;
        Ok((subject, teacher))
    }

    /// Tells how far the metric is.
    ///
    /// # Errors
    /// The user asked to stop.
    pub fn progress(&self, done: usize, total: usize) -> Result<(), Failure> {
        if self.context.is_cancelled() {
            return Err(Failure::interrupted());
        }
        self.context.progress(done as u64, Some(total as u64), "examples");
        Ok(())
    }

    /// The seed of whatever is random in a metric.
    pub fn seed(&self) -> u64 {
        self.context.seed()
    }
}

/// With one tokenizer ids mean the same, and those that only one of the models has are padding, as in training.
fn check_same_tokenizer(subject: &Subject, teacher: &Subject) -> Result<(), Failure> {
    if subject.tokenizer.digest() == teacher.tokenizer.digest() {
        return Ok(());
    }
    let message = format!(
        "{} and {} have different tokenizers: their distributions cannot be compared token by token",
        subject.label, teacher.label
    );
    Err(Failure::input(message)
        .hint("give the student the teacher's tokenizer, or compare what they write with `exact-match`"))
}
