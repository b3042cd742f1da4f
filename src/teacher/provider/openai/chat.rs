//! The chat completions API as it goes over the wire: what is sent, what comes, and what that means.

use serde::{Deserialize, Serialize};
use stillhouse_data::answer::Outcome;
use stillhouse_data::prompt::Message;

use super::completion::{self, Completion, Tokens};
use super::log_probs::LogProbs;
use super::message::WireMessage;
use super::stream;
use crate::provider::api::{Api, Unusable};
use crate::provider::lenient;
use crate::provider::opened::opened;
use crate::reply::{Reply, TokenLogProbs, Usage};
use crate::request::{Capture, Request};

/// Asking for more alternatives than any vocabulary has is asking for all of them.
const ALL: i64 = 1 << 20;

/// Whose dialect it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Only what OpenAI's own API has.
    Strict,
    /// What its many followers have beside it; whoever does not know a field passes over it.
    Common,
    /// vLLM; with the ids of tokens in the place of their texts, if they are wanted.
    Vllm {
        /// Whether they are.
        ids: bool,
    },
}

impl Dialect {
    /// How many alternatives are asked for.
    #[must_use]
    pub fn alternatives(self, capture: Capture) -> i64 {
        match (capture, self) {
            (Capture::TopK(k), _) => k.into(),
            (Capture::Full, Self::Vllm { .. }) => -1,
            (Capture::Full, _) => ALL,
        }
    }

    /// Whether captured tokens are to be told by their ids.
    #[must_use]
    pub fn ids(self) -> Option<bool> {
        matches!(self, Self::Vllm { ids: true }).then_some(true)
    }
}

/// Chat completions of one model.
#[derive(Clone, Debug)]
pub struct ChatApi {
    /// The model's name as the server knows it.
    pub model: String,
    /// Whose dialect.
    pub dialect: Dialect,
}

impl Api for ChatApi {
    fn path(&self) -> &'static str {
        "chat/completions"
    }

    fn takes_images(&self) -> bool {
        true
    }

    fn body(&self, request: &Request) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(&Body::of(request, &self.model, self.dialect))
    }

    fn parse(&self, body: &[u8], request: &Request) -> Result<Reply, Unusable> {
        parse(body, request)
    }

    fn usage(&self, body: &[u8]) -> Option<Usage> {
        usage(body)
    }
}

/// The body of a request. Whatever is left out takes the server's default, and servers differ (llama.cpp: temperature
/// 0.8, top-k 40, top-p 0.95, min-p 0.05), so every field that changes a reply is sent.
#[derive(Debug, Serialize)]
pub struct Body<'r> {
    model: &'r str,
    messages: Vec<WireMessage<'r>>,
    temperature: f64,
    top_p: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_completion_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u32>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    stop: &'r [String],
    n: u32,
    stream: bool,
    frequency_penalty: f64,
    presence_penalty: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_logprobs: Option<i64>,
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

impl<'r> Body<'r> {
    /// The body for a request.
    #[must_use]
    pub fn of(request: &'r Request, model: &'r str, dialect: Dialect) -> Self {
        let (sampling, strict) = (&request.sampling, dialect == Dialect::Strict);
        Self {
            model,
            messages: request.messages.iter().map(WireMessage::from).collect(),
            temperature: sampling.temperature,
            top_p: sampling.top_p,
            max_tokens: (!strict).then_some(sampling.max_tokens),
            // OpenAI's newer models refuse `max_tokens`, all of its models take this name.
            max_completion_tokens: strict.then_some(sampling.max_tokens),
            seed: request.seed,
            stop: &sampling.stop,
            n: 1,
            stream: false,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            logprobs: request.capture.map(|_| true),
            top_logprobs: request.capture.map(|capture| dialect.alternatives(capture)),
            // -1 is "all" for vLLM and llama.cpp alike; 0 is not for older versions of the former.
            top_k: (!strict).then_some(sampling.top_k.map_or(-1, i64::from)),
            min_p: (!strict).then_some(0.0),
            repeat_penalty: (!strict).then_some(1.0),
            repetition_penalty: (!strict).then_some(1.0),
            return_tokens_as_token_ids: request.capture.and(dialect.ids()),
        }
    }
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    index: u32,
    #[serde(default)]
    finish_reason: Option<String>,
    message: Said,
    #[serde(default)]
    logprobs: Option<LogProbs>,
    /// What broke it off, with gateways that say so.
    #[serde(default)]
    error: Option<serde_json::Value>,
}

impl completion::Choice for Choice {
    fn index(&self) -> u32 {
        self.index
    }
}

#[derive(Deserialize)]
struct Said {
    #[serde(default, deserialize_with = "lenient::text")]
    content: Option<String>,
    #[serde(default)]
    refusal: Option<String>,
}

/// What a body means.
///
/// # Errors
/// [`Unusable`].
pub fn parse(body: &[u8], request: &Request) -> Result<Reply, Unusable> {
    let body = stream::in_one_piece(body, stream::whole)?;
    let (choice, model, usage) = opened::<Completion<Choice>>(&body)?.first()?;
    let finish = choice.finish_reason.unwrap_or_default();
    whole(&finish, choice.error.as_ref())?;
    let (outcome, text) = read(&finish, choice.message, request);
    let tokens = captured(request, choice.logprobs, &text, outcome)?;
    Ok(Reply { outcome, text, finish, model, usage, token_ids: None, tokens, vector: None })
}

/// Whether a reply is one that the server itself calls broken off.
///
/// # Errors
/// [`Unusable::Broken`] if it is.
pub(super) fn whole(finish: &str, error: Option<&serde_json::Value>) -> Result<(), Unusable> {
    match (finish, error.filter(|error| !error.is_null())) {
        ("error", Some(error)) => Err(Unusable::passed_on(error)),
        ("error", None) => Err(Unusable::Broken("the reply ended with an error".to_owned())),
        _ => Ok(()),
    }
}

/// The log-probabilities that a request asked for.
///
/// # Errors
/// [`Unusable::NoLogProbs`] where they are not there, though the reply has words of its own.
pub(super) fn captured(
    request: &Request,
    log_probs: Option<LogProbs>,
    text: &str,
    outcome: Outcome,
) -> Result<Option<Vec<TokenLogProbs>>, Unusable> {
    match (request.capture, log_probs.and_then(LogProbs::positions)) {
        (None, _) => Ok(None),
        (Some(_), Some(positions)) if !positions.is_empty() || text.is_empty() => Ok(Some(positions)),
        (Some(_), _) if text.is_empty() || outcome == Outcome::Refusal => Ok(Some(Vec::new())),
        (Some(_), _) => Err(Unusable::NoLogProbs),
    }
}

/// What a body says it took, though it may be no reply otherwise.
#[must_use]
pub fn usage(body: &[u8]) -> Option<Usage> {
    let body = lenient::without_mark(body);
    let counted =
        if stream::is_stream(body) { stream::usage(body)? } else { lenient::salvage(body)?.get_mut("usage")?.take() };
    Tokens::deserialize(counted).ok().map(Usage::from)
}

fn read(finish: &str, said: Said, request: &Request) -> (Outcome, String) {
    if let Some(refusal) = said.refusal.filter(|text| !text.is_empty()) {
        return (Outcome::Refusal, refusal);
    }
    let mut text = said.content.unwrap_or_default();
    // A conversation that ends with the assistant's own words is continued, and some servers repeat those words.
    if let Some(Message { role, content, .. }) = request.messages.last()
        && role == "assistant"
        && let Some(rest) = text.strip_prefix(content.as_str())
    {
        text = rest.to_owned();
    }
    (ending(finish, &text), text)
}

/// The kind of a reply that is no refusal, from the reason that it ended for.
pub(super) fn ending(finish: &str, text: &str) -> Outcome {
    match finish {
        "length" | "max_tokens" => Outcome::Cut,
        "content_filter" => Outcome::ContentFilter,
        _ if text.is_empty() => Outcome::Empty,
        _ => Outcome::Ok,
    }
}
