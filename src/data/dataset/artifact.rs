//! A dataset as those who train and evaluate open it.

use stillhouse_stage::Artifact;

use super::statistics::{STATISTICS_FILE, Statistics};
use crate::error::{DataError, DataResult};
use crate::example::{EXAMPLES_FILE, ExampleReader, ROWS_FILE};
use crate::model_folder::ModelFolder;
use crate::signals::{HEADS, HeadReader, SIGNALS_FILE, SignalReader};
use crate::tokenizer::Tokenizer;

/// The part that is trained on.
pub const TRAIN: &str = "train";
/// The part that is held out.
pub const HOLDOUT: &str = "holdout";
/// The part with the tokenizer's files.
pub(super) const TOKENIZER: &str = "tokenizer";

/// The output of a `dataset` stage.
pub struct DatasetArtifact {
    artifact: Artifact,
}

impl DatasetArtifact {
    /// Opens the output of a `dataset` stage.
    pub fn new(artifact: Artifact) -> Self {
        Self { artifact }
    }

    /// The examples of a part: [`TRAIN`] or [`HOLDOUT`].
    pub fn examples(&self, part: &str) -> DataResult<ExampleReader> {
        let file = |name: &str| self.file(&format!("{part}/{name}"));
        ExampleReader::open_files(&file(EXAMPLES_FILE)?, &file(ROWS_FILE)?)
    }

    /// The tokenizer's files, for a model that is to be saved with them.
    pub fn tokenizer_files(&self) -> ModelFolder {
        ModelFolder::from_files(self.artifact.stage.clone(), self.artifact.files(TOKENIZER))
    }

    /// The tokenizer that the rows were made with.
    pub fn tokenizer(&self) -> DataResult<Tokenizer> {
        Tokenizer::load(&self.tokenizer_files())
    }

    /// The teachers' signals, where the dataset has any.
    pub fn signals(&self) -> DataResult<Option<SignalReader>> {
        self.artifact.find(SIGNALS_FILE).map(|path| SignalReader::open(&path)).transpose()
    }

    /// The heads of the teachers that hidden states are of.
    pub fn heads(&self) -> DataResult<Vec<HeadReader>> {
        self.artifact.files(HEADS).map(|(_, path)| HeadReader::open(&path)).collect()
    }

    /// The figures.
    pub fn statistics(&self) -> DataResult<Statistics> {
        let path = self.file(STATISTICS_FILE)?;
        let text = fs_err::read_to_string(&path).map_err(DataError::own_io(&path))?;
        serde_json::from_str(&text).map_err(|error| DataError::corrupt(&path, error.to_string()))
    }

    pub(super) fn file(&self, name: &str) -> DataResult<std::path::PathBuf> {
        self.artifact
            .find(name)
            .ok_or_else(|| DataError::corrupt(name, format!("the output of {} does not have it", self.artifact.stage)))
    }
}
