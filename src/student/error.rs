//! What can go wrong in a student: one line that names the place, and a hint of what to do.

use std::path::PathBuf;

use stillhouse_data::error::DataError;
use stillhouse_data::lm::{LmError, LmErrorKind};
use thiserror::Error;

use crate::model::MODELS;

/// A fault in a model folder, a training configuration or a device.
#[derive(Debug, Error)]
pub enum StudentError {
    /// Examples, signals or a model folder's files.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The store.
    #[error(transparent)]
    Store(Box<stillhouse_store::StoreError>),
    /// A file can't be written or read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// `config.json` is not what a model of this family has.
    #[error("{label}/config.json {message}")]
    Config {
        /// The model folder.
        label: String,
        /// What is wrong, beginning with the field.
        message: String,
    },
    /// The architecture is not one of those known here.
    #[error("{label}/config.json names the architecture `{found}`, which is not supported")]
    UnsupportedArchitecture {
        /// The model folder.
        label: String,
        /// What the file says.
        found: String,
    },
    /// A weights file can't be read as such.
    #[error("{label}/{file} is not a readable safetensors file: {reason}")]
    Damaged {
        /// The model folder.
        label: String,
        /// The file's name in the folder.
        file: String,
        /// What the reader said.
        reason: String,
    },
    /// The weights do not fit the configuration.
    #[error("the weights of {label} do not fit its config.json: {message}")]
    Weights {
        /// The model folder.
        label: String,
        /// Which tensor and why.
        message: String,
    },
    /// The head is said to be the embedding, but another one is stored.
    #[error(
        "config.json of {label} says that the head is the embedding, but the weights hold another `lm_head.weight`"
    )]
    OtherHead {
        /// The model folder.
        label: String,
    },
    /// A weight is not a number.
    #[error("tensor `{tensor}` of {label} holds {count} values that are not finite, the first is element {first}")]
    NotFinite {
        /// The model folder.
        label: String,
        /// The tensor's name.
        tensor: String,
        /// How many.
        count: usize,
        /// Where the first one stands.
        first: usize,
    },
    /// The training configuration or its inputs can't be followed.
    #[error("{message}")]
    Training {
        /// What is wrong.
        message: String,
        /// What to do.
        hint: String,
    },
    /// The loss or the gradient stopped being a number, or the loss jumped.
    #[error("step {step}: {what} on batch {batch}; training stopped, {}", kept_words(*kept))]
    Diverged {
        /// The step, from 1.
        step: u64,
        /// What happened: "the loss is NaN".
        what: String,
        /// Digest of the batch, so that it can be found again.
        batch: String,
        /// The step of the last checkpoint, if one is there.
        kept: Option<u64>,
    },
    /// The device has no room for what is done.
    #[error("out of memory {doing}: {reason}")]
    OutOfMemory {
        /// What was done: "with 2 rows of 12 positions at once".
        doing: String,
        /// What the device said.
        reason: String,
        /// What takes less.
        hint: String,
    },
    /// A sequence or token the model has no room for.
    #[error("{message}")]
    Request {
        /// What is wrong.
        message: String,
    },
    /// The device that was asked for can't be used.
    #[error("{message}")]
    Device {
        /// What was found.
        message: String,
        /// What to do.
        hint: String,
    },
    /// The caller asked to stop.
    #[error("stopped on request")]
    Cancelled,
}

/// Shorthand of this crate.
pub type Result<T, E = StudentError> = std::result::Result<T, E>;

/// What a training that stopped leaves behind.
fn kept_words(kept: Option<u64>) -> String {
    kept.map_or_else(|| "before any checkpoint".into(), |step| format!("the checkpoint of step {step} is kept"))
}

impl StudentError {
    /// What a user can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Data(error) => error.hint(),
            Self::Store(error) => error.hint().map(str::to_owned),
            Self::Io { source, .. } => (source.kind() == std::io::ErrorKind::StorageFull)
                .then(|| "free some space, or use another store with --cache".into()),
            Self::Config { .. } => None,
            Self::UnsupportedArchitecture { .. } => {
                let known: Vec<&str> = MODELS.iter().map(|family| family.architecture).collect();
                Some(format!("supported are {}", known.join(", ")))
            }
            Self::Damaged { .. } => {
                Some("was it copied whole? a Git LFS pointer is a few lines of text instead of the file".into())
            }
            Self::Weights { .. } => Some("are config.json and the weights of the same model?".into()),
            Self::OtherHead { .. } => Some(
                "put `\"tie_word_embeddings\": false` into config.json where that head was trained, or take the tensor out of \
                 the weights"
                    .into(),
            ),
            Self::NotFinite { .. } => {
                Some("these weights can't be used; get them again, or take an earlier checkpoint".into())
            }
            Self::Training { hint, .. } | Self::Device { hint, .. } | Self::OutOfMemory { hint, .. } => {
                Some(hint.clone())
            }
            // What the checkpoint is good for depends on the schedule: the stage says it.
            // Before the first update no rate has had any effect.
            Self::Diverged { step: 1, .. } => Some(
                "no step was taken yet: look for temperatures, weights of losses or numbers in the beginning's weights that \
                 are too large or too small"
                    .into(),
            ),
            Self::Diverged { .. } => {
                Some("a lower learning rate, a longer warm-up or a smaller `clip` usually helps".into())
            }
            Self::Request { .. } | Self::Cancelled => None,
        }
    }

    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }

    pub(crate) fn training(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Training { message: message.into(), hint: hint.into() }
    }

    pub(crate) fn request(message: impl Into<String>) -> Self {
        Self::Request { message: message.into() }
    }
}

impl From<StudentError> for LmError {
    fn from(error: StudentError) -> Self {
        let kind = match &error {
            StudentError::Device { .. } | StudentError::OutOfMemory { .. } => LmErrorKind::Device,
            StudentError::Cancelled => LmErrorKind::Cancelled,
            StudentError::Io { .. } | StudentError::Store(_) => LmErrorKind::Internal,
            _ => LmErrorKind::Input,
        };
        Self { kind, message: error.to_string(), hint: error.hint() }
    }
}
