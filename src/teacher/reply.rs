//! What a teacher answered: the reply, how it ended, and what it cost in tokens.

use serde::{Deserialize, Serialize};
use stillhouse_data::answer::Outcome;
pub use stillhouse_data::captured::{Candidate, TokenLogProbs};

/// Tokens as the server counted them; zero where it does not count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens of the prompt, with everything the chat template adds.
    pub prompt: u32,
    /// Tokens of the reply.
    pub completion: u32,
}

/// A teacher's answer to one request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    /// What kind of reply it is. Every kind is a result: it is stored, and never asked again by itself.
    pub outcome: Outcome,
    /// The text, empty where the teacher said nothing.
    pub text: String,
    /// Why it ended, in the server's own words.
    pub finish: String,
    /// The model that the server says it used, empty where it does not say.
    pub model: String,
    /// What it took.
    pub usage: Usage,
    /// The reply's tokens as ids, from teachers that run here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_ids: Option<Vec<u32>>,
    /// Log-probabilities by token, where the request captured them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<Vec<TokenLogProbs>>,
}

impl Reply {
    /// What stands for the reply to a request that the server refused: nothing was said, and `words` are why.
    #[must_use]
    pub fn rejected(words: String) -> Self {
        Self {
            outcome: Outcome::Rejected,
            text: String::new(),
            finish: words,
            model: String::new(),
            usage: Usage::default(),
            token_ids: None,
            tokens: None,
        }
    }
}
