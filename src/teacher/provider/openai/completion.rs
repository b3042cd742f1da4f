//! What chats and completions have in common in what comes back: choices, of which the first one is the reply.

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::provider::api::Unusable;
use crate::provider::lenient;
use crate::provider::opened::Body;
use crate::reply::Usage;

/// A choice, whatever else it holds.
pub trait Choice: for<'de> Deserialize<'de> {
    /// Its place among the others.
    fn index(&self) -> u32;
}

/// The body of an answer.
#[derive(Deserialize)]
#[serde(bound(deserialize = "C: Choice"))]
pub struct Completion<C> {
    #[serde(default, deserialize_with = "choices")]
    choices: Vec<C>,
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    usage: Option<Tokens>,
    #[serde(default)]
    error: Option<Value>,
}

fn choices<'de, C: Choice, D: Deserializer<'de>>(from: D) -> Result<Vec<C>, D::Error> {
    lenient::list(from)
}

impl<C: Choice> Body for Completion<C> {
    fn passed_on(&self) -> Option<&Value> {
        self.error.as_ref().filter(|_| self.choices.is_empty())
    }
}

impl<C: Choice> Completion<C> {
    /// The first choice, the model's name and what it all took.
    ///
    /// # Errors
    /// [`Unusable::Broken`] if there is no choice.
    pub fn first(self) -> Result<(C, String, Usage), Unusable> {
        let usage = self.usage.map_or_else(Usage::default, Usage::from);
        Ok((first(self.choices)?, self.model.unwrap_or_default(), usage))
    }
}

/// The first of the choices, in whatever order they came.
///
/// # Errors
/// [`Unusable::Broken`] if there is none.
pub fn first<C: Choice>(choices: Vec<C>) -> Result<C, Unusable> {
    let first = choices.into_iter().min_by_key(Choice::index);
    first.ok_or_else(|| Unusable::Broken("the reply has no choices".to_owned()))
}

/// What an answer took.
#[derive(Deserialize)]
pub struct Tokens {
    #[serde(default, deserialize_with = "lenient::count")]
    prompt_tokens: Option<u32>,
    #[serde(default, deserialize_with = "lenient::count")]
    completion_tokens: Option<u32>,
    #[serde(default, deserialize_with = "lenient::count")]
    total_tokens: Option<u32>,
}

impl From<Tokens> for Usage {
    fn from(tokens: Tokens) -> Self {
        let Tokens { prompt_tokens: prompt, completion_tokens: completion, total_tokens: total } = tokens;
        // Embeddings have none of their own, and say so by the sum.
        let rest = || total?.checked_sub(prompt?);
        match (prompt, completion.or_else(rest)) {
            (Some(prompt), Some(completion)) => Self { prompt, completion },
            // Half a count is none: the other half would be free.
            _ => Self::default(),
        }
    }
}
