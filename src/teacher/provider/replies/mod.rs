//! `provider = "replies"`: a file of answers that somebody has already, found by the prompts that they answer.

mod given;
mod run;

#[cfg(test)]
mod tests;

use stillhouse_data::model::TokenizerSource;
use stillhouse_spec::{Config, Execution, FilePath, Ref};
use stillhouse_stage::{Failure, Needs, Outcome};

use super::capability::{self, Capabilities};
use super::terms::TermsConfig;
use super::{Job, Provider};

/// Answers that are there already, in a JSONL file: one `{"prompt": "…", "text": "…"}` a line. Nobody is asked.
///
/// The prompt is named by its text (`prompt`, one turn of the user), by its conversation (`messages`) or by its `id`.
/// Further members: `finish`, `outcome`, `model`, `source`, `terms`, and `tokens` with log-probabilities. Several lines
/// for one prompt are its samples, in their order.
#[derive(Clone, Debug, Config)]
pub struct Replies {
    /// The file.
    pub path: FilePath,
    /// What becomes of a prompt that the file does not answer.
    #[config(default = Missing::Error)]
    pub missing: Missing,
    /// The model folder, or trained tokenizer, whose tokens the server's model has. Named, `check` tells before anything is
    /// paid whether a student can learn from its log-probabilities; it changes no answer.
    pub tokenizer: Execution<Option<Ref<TokenizerSource>>>,
    /// What its answers may be used for, where their lines do not say it.
    pub terms: Execution<Option<TermsConfig>>,
}

/// What becomes of a prompt that the file does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Config)]
pub enum Missing {
    /// The stage fails.
    Error,
    /// It is left out.
    Drop,
}

impl Provider for Replies {
    fn capabilities(&self) -> Capabilities {
        capability::REPLIES
    }

    /// What was answered was seen by whoever answered it.
    fn sees_nothing(&self) -> Option<&'static str> {
        None
    }

    fn needs(&self) -> Needs {
        Needs::default()
    }

    fn answer(&self, job: &Job<'_>) -> Result<Outcome, Failure> {
        run::run(self, job)
    }
}
