//! The completions API: a text is continued, as base models are asked. Its log-probabilities come in two shapes.

use serde::{Deserialize, Serialize};
use stillhouse_data::prompt::Message;

use super::chat::{Dialect, captured, ending, usage, whole};
use super::completion::{self, Completion};
use super::log_probs::LogProbs;
use super::stream;
use crate::provider::api::{Api, Unusable};
use crate::provider::opened::opened;
use crate::reply::{Reply, Usage};
use crate::request::Request;

/// Completions of one model.
#[derive(Clone, Debug)]
pub struct CompletionsApi {
    /// The model's name as the server knows it.
    pub model: String,
    /// Whose dialect.
    pub dialect: Dialect,
}

/// The text that is continued: the turns' texts, with an empty line between them, as a local teacher without a chat
/// template has it.
#[must_use]
pub fn prompt_text(messages: &[Message]) -> String {
    let contents: Vec<&str> = messages.iter().map(|message| message.content.as_str()).collect();
    contents.join("\n\n")
}

/// The body of a request; see [`super::chat::Body`] for why all of it is sent.
#[derive(Debug, Serialize)]
struct Body<'r> {
    model: &'r str,
    prompt: String,
    temperature: f64,
    top_p: f64,
    max_tokens: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u32>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    stop: &'r [String],
    n: u32,
    stream: bool,
    echo: bool,
    frequency_penalty: f64,
    presence_penalty: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_k: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    min_p: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    repeat_penalty: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    repetition_penalty: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    return_tokens_as_token_ids: Option<bool>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    index: u32,
    text: String,
    #[serde(default)]
    error: Option<serde_json::Value>,
    #[serde(default)]
    finish_reason: Option<String>,
    #[serde(default)]
    logprobs: Option<LogProbs>,
}

impl completion::Choice for Choice {
    fn index(&self) -> u32 {
        self.index
    }
}

impl Api for CompletionsApi {
    fn path(&self) -> &'static str {
        "completions"
    }

    fn body(&self, request: &Request) -> serde_json::Result<Vec<u8>> {
        let (sampling, dialect) = (&request.sampling, self.dialect);
        let strict = dialect == Dialect::Strict;
        serde_json::to_vec(&Body {
            model: &self.model,
            prompt: prompt_text(&request.messages),
            temperature: sampling.temperature,
            top_p: sampling.top_p,
            max_tokens: sampling.max_tokens,
            seed: request.seed,
            stop: &sampling.stop,
            n: 1,
            stream: false,
            echo: false,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            logprobs: request.capture.map(|capture| dialect.alternatives(capture)),
            top_k: (!strict).then_some(sampling.top_k.map_or(-1, i64::from)),
            min_p: (!strict).then_some(0.0),
            repeat_penalty: (!strict).then_some(1.0),
            repetition_penalty: (!strict).then_some(1.0),
            return_tokens_as_token_ids: request.capture.and(dialect.ids()),
        })
    }

    fn parse(&self, body: &[u8], request: &Request) -> Result<Reply, Unusable> {
        let body = stream::in_one_piece(body, stream::whole_text)?;
        let (choice, model, usage) = opened::<Completion<Choice>>(&body)?.first()?;
        let (text, finish) = (choice.text, choice.finish_reason.unwrap_or_default());
        whole(&finish, choice.error.as_ref())?;
        let outcome = ending(&finish, &text);
        let tokens = captured(request, choice.logprobs, &text, outcome)?;
        Ok(Reply { outcome, text, finish, model, usage, token_ids: None, tokens, vector: None })
    }

    fn usage(&self, body: &[u8]) -> Option<Usage> {
        usage(body)
    }
}
