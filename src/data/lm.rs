//! A language model as data, teachers and evaluations see it: something that scores and continues token sequences.
//! The student crate implements it; this crate and its users never learn with what.

use crate::model_folder::ModelFolder;
use crate::signals::Head;

/// A loaded model. One model is used by one thread at a time.
pub trait LanguageModel: Send {
    /// Number of token ids the model knows: the width of every distribution it gives.
    fn vocabulary(&self) -> usize;

    /// Longest sequence in tokens, prompt and completion together.
    fn max_length(&self) -> usize;

    /// Where it runs, as shown to a person: `cpu`, `cuda:0`.
    fn device(&self) -> String;

    /// Runs the model over whole sequences. For every row and every position but the last, `visit(row, position,
    /// log_probs)` gets the natural-log softmax (temperature 1) over the vocabulary for the token at `position + 1`.
    ///
    /// Within a row positions come in ascending order; rows may interleave, as an implementation batches as it likes.
    fn score(&mut self, sequences: &[Vec<u32>], visit: &mut dyn FnMut(usize, usize, &[f32])) -> Result<(), LmError>;

    /// As [`LanguageModel::score`], but `visit` gets the last hidden state: what the model's head makes the logits of. A model
    /// that can't tell says so.
    fn hidden(&mut self, sequences: &[Vec<u32>], visit: &mut dyn FnMut(usize, usize, &[f32])) -> Result<(), LmError> {
        let _ = (sequences, visit);
        Err(tells_no_hidden_states())
    }

    /// What makes logits of the states that [`LanguageModel::hidden`] tells. A model that can't tell says so.
    fn head(&mut self) -> Result<Head, LmError> {
        Err(tells_no_hidden_states())
    }

    /// Runs the head alone over hidden states, one after the other in `states`: `visit(number, log_probs)` gets what
    /// [`LanguageModel::score`] would have given for each. A model that can't says so.
    fn log_probs_of(&mut self, states: &[f32], visit: &mut dyn FnMut(usize, &[f32])) -> Result<(), LmError> {
        let _ = (states, visit);
        Err(tells_no_hidden_states())
    }

    /// Continues prompts. The results are in the order of the requests, and a request's result depends on the request
    /// only, not on its neighbours or the batch it ran in (up to rounding of the arithmetic).
    ///
    /// `watch` sees every token as it is made, see [`Watch`].
    fn generate(&mut self, requests: &[GenerateRequest], watch: &mut Watch<'_>) -> Result<Vec<Generated>, LmError>;
}

fn tells_no_hidden_states() -> LmError {
    LmError::new(LmErrorKind::Input, "this model doesn't tell its hidden states")
        .with_hint("keep its distributions: `capture = { top-k = 128, encoding = \"compact\" }`")
}

/// Watches texts grow: gets the number of a request and its new tokens so far, the newest last, and answers whether that
/// text goes on. Where it does not, the text ends there with [`Finish::Stop`]; this is how stop strings, which only a
/// tokenizer can see, end a text. An end token is seen too; its answer changes nothing.
pub type Watch<'a> = dyn FnMut(usize, &[u32]) -> bool + 'a;

/// Opens model folders.
pub trait ModelLoader: Sync + Send {
    /// Loads a model onto `device`: `cpu`, `cuda:0` or `auto`.
    fn load(&self, folder: &ModelFolder, device: &str) -> Result<Box<dyn LanguageModel>, LmError>;
}

/// One prompt to continue.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateRequest {
    /// The prompt's token ids; at least one.
    pub prompt: Vec<u32>,
    /// How the next token is chosen.
    pub sampling: Sampling,
    /// Seed of this request's own random numbers; not used at temperature 0.
    pub seed: u64,
}

/// How the next token is chosen. The filters act in the order temperature, top-k, top-p, min-p (transformers' order).
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 takes the most likely token (the lowest id among equals).
    pub temperature: f32,
    /// Keep the k most likely tokens; none keeps all.
    pub top_k: Option<usize>,
    /// Keep the smallest set of most likely tokens whose probabilities sum to at least this; 1 keeps all.
    pub top_p: f32,
    /// Keep tokens that are at least this part as likely as the most likely one; 0 keeps all (Nguyen et al., 2024,
    /// arXiv 2407.01082).
    pub min_p: f32,
    /// At most this many new tokens.
    pub max_tokens: usize,
    /// A token of these ends the completion and is part of it.
    pub stop_ids: Vec<u32>,
    /// Only the first so many ids are chosen from: a model may have rows behind the last token of its tokenizer. None
    /// leaves all.
    pub allowed: Option<usize>,
}

/// A completion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generated {
    /// The new tokens, the stop token included.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub finish: Finish,
}

/// Why a completion ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// A stop token was made, or the one who watched said so.
    Stop,
    /// The token limit or the model's longest sequence was reached.
    Length,
}

impl Finish {
    /// The word the OpenAI API has for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
        }
    }
}

/// Why a model could not be loaded or run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct LmError {
    /// Whose fault it is.
    pub kind: LmErrorKind,
    /// One line that names the place: the file, tensor, field or request.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

/// Whose fault an [`LmError`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LmErrorKind {
    /// The model folder, a request or a setting is wrong.
    Input,
    /// The device is missing, faulty or out of memory.
    Device,
    /// The work was told to stop.
    Cancelled,
    /// A fault of this program.
    Internal,
}

impl LmError {
    /// An error without a hint.
    pub fn new(kind: LmErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None }
    }

    /// The same error with a hint.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}
