//! The chat completions API as it goes over the wire: what is sent, what comes, and what that means.

use serde::{Deserialize, Serialize};
use stillhouse_data::answer::Outcome;
use stillhouse_data::prompt::Message;

use crate::reply::{Candidate, Reply, TokenLogProbs, Usage};
use crate::request::{Capture, Request};
use crate::transport::Estimate;

/// Asking for more alternatives than any vocabulary has is asking for all of them.
const ALL: u32 = 1 << 20;
/// Bytes of a body that is no reply which are told: whoever shows them takes the key out and cuts them shorter.
const TOLD_BYTES: usize = 64 << 10;

/// The body of a request. Whatever is left out takes the server's default, and servers differ (llama.cpp: temperature
/// 0.8, top-k 40, top-p 0.95, min-p 0.05), so every field that changes a reply is sent.
#[derive(Debug, Serialize)]
pub struct Body<'r> {
    model: &'r str,
    messages: &'r [Message],
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
    top_logprobs: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_k: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    min_p: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    repeat_penalty: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    repetition_penalty: Option<f64>,
}

impl<'r> Body<'r> {
    /// The body for a request; `strict` sends only what OpenAI's own API has.
    #[must_use]
    pub fn of(request: &'r Request, model: &'r str, strict: bool) -> Self {
        let sampling = &request.sampling;
        Self {
            model,
            messages: &request.messages,
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
            top_logprobs: request.capture.map(|capture| match capture {
                Capture::TopK(k) => k,
                Capture::Full => ALL,
            }),
            // -1 is "all" for vLLM and llama.cpp alike; 0 is not for older versions of the former.
            top_k: (!strict).then_some(sampling.top_k.map_or(-1, i64::from)),
            min_p: (!strict).then_some(0.0),
            repeat_penalty: (!strict).then_some(1.0),
            repetition_penalty: (!strict).then_some(1.0),
        }
    }
}

/// The most tokens that a request can take: a token is at least a byte of the prompt, and a chat template adds a few
/// around every message.
#[must_use]
pub fn estimate(request: &Request) -> Estimate {
    let bytes: usize = request.messages.iter().map(|message| message.role.len() + message.content.len() + 16).sum();
    Estimate { prompt: bytes as u64 + 16, completion: request.sampling.max_tokens.into() }
}

#[derive(Deserialize)]
struct Completion {
    #[serde(default)]
    choices: Vec<Choice>,
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    usage: Option<Tokens>,
    /// Some gateways pass a failure on with status 200.
    #[serde(default)]
    error: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Tokens {
    #[serde(default)]
    prompt_tokens: u32,
    #[serde(default)]
    completion_tokens: u32,
}

impl From<Tokens> for Usage {
    fn from(tokens: Tokens) -> Self {
        Self { prompt: tokens.prompt_tokens, completion: tokens.completion_tokens }
    }
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    finish_reason: Option<String>,
    message: Said,
    #[serde(default)]
    logprobs: Option<LogProbs>,
}

#[derive(Deserialize)]
struct Said {
    #[serde(default)]
    content: Option<String>,
    #[serde(default)]
    refusal: Option<String>,
}

#[derive(Deserialize)]
struct LogProbs {
    #[serde(default)]
    content: Option<Vec<Position>>,
}

#[derive(Deserialize)]
struct Position {
    token: String,
    #[serde(default)]
    id: Option<u32>,
    #[serde(default)]
    bytes: Option<Vec<u8>>,
    #[serde(default)]
    logprob: Option<f32>,
    #[serde(default)]
    top_logprobs: Vec<Token>,
}

#[derive(Deserialize)]
struct Token {
    token: String,
    #[serde(default)]
    id: Option<u32>,
    #[serde(default)]
    bytes: Option<Vec<u8>>,
    /// `null` stands for minus infinity with servers that cannot write it.
    #[serde(default)]
    logprob: Option<f32>,
}

/// Why a body with status 200 is no reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// Broken or empty: the next attempt may bring a better one.
    Broken(String),
    /// Without the log-probabilities that were asked for: so will the next be.
    NoLogProbs,
}

/// What a body means.
///
/// # Errors
/// [`Unusable`].
pub fn parse(body: &[u8], request: &Request) -> Result<Reply, Unusable> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Err(Unusable::Broken("the reply is empty".to_owned()));
    }
    let completion: Completion = serde_json::from_slice(body).map_err(|error| {
        // Written anew where it is JSON, so that no escape hides a key from whoever takes it out.
        let told = serde_json::from_slice::<serde_json::Value>(body).map_or_else(
            |_| String::from_utf8_lossy(&body[..body.len().min(TOLD_BYTES)]).into_owned(),
            |value| value.to_string(),
        );
        Unusable::Broken(format!("the reply is not valid: {error}: {told}"))
    })?;
    if let (true, Some(error)) = (completion.choices.is_empty(), completion.error.filter(|error| !error.is_null())) {
        let message = error.get("message").unwrap_or(&error);
        let message = message.as_str().map_or_else(|| message.to_string(), str::to_owned);
        return Err(Unusable::Broken(format!("the reply is an error: {message}")));
    }
    let usage = completion.usage.map_or_else(Usage::default, Usage::from);
    let Some(choice) = completion.choices.into_iter().next() else {
        return Err(Unusable::Broken("the reply has no choices".to_owned()));
    };
    let finish = choice.finish_reason.unwrap_or_default();
    let (outcome, text) = read(&finish, choice.message, request);
    let tokens = choice.logprobs.and_then(|log_probs| log_probs.content);
    let tokens = match (request.capture, tokens) {
        (None, _) => None,
        (Some(_), Some(positions)) => Some(positions.into_iter().map(position).collect()),
        (Some(_), None) if text.is_empty() || outcome == Outcome::Refusal => Some(Vec::new()),
        (Some(_), None) => return Err(Unusable::NoLogProbs),
    };
    let model = completion.model.unwrap_or_default();
    Ok(Reply { outcome, text, finish, model, usage, token_ids: None, tokens })
}

/// What a body says it took, though it may be no reply otherwise.
#[must_use]
pub fn usage(body: &[u8]) -> Option<Usage> {
    #[derive(Deserialize)]
    struct Counted {
        usage: Tokens,
    }
    serde_json::from_slice::<Counted>(body).ok().map(|counted| counted.usage.into())
}

fn read(finish: &str, said: Said, request: &Request) -> (Outcome, String) {
    if let Some(refusal) = said.refusal.filter(|text| !text.is_empty()) {
        return (Outcome::Refusal, refusal);
    }
    let mut text = said.content.unwrap_or_default();
    // A conversation that ends with the assistant's own words is continued, and some servers repeat those words.
    if let Some(Message { role, content }) = request.messages.last()
        && role == "assistant"
        && let Some(rest) = text.strip_prefix(content.as_str())
    {
        text = rest.to_owned();
    }
    let outcome = match finish {
        "length" | "max_tokens" => Outcome::Cut,
        "content_filter" => Outcome::ContentFilter,
        _ if text.is_empty() => Outcome::Empty,
        _ => Outcome::Ok,
    };
    (outcome, text)
}

fn position(position: Position) -> TokenLogProbs {
    let Position { token, id, bytes, logprob, top_logprobs } = position;
    TokenLogProbs {
        chosen: candidate(Token { token, id, bytes, logprob }),
        top: top_logprobs.into_iter().map(candidate).collect(),
    }
}

fn candidate(token: Token) -> Candidate {
    // vLLM writes `token_id:123` instead of the text when it is told to give ids.
    let id = token.id.or_else(|| token.token.strip_prefix("token_id:")?.parse().ok());
    Candidate {
        id,
        bytes: token.bytes.unwrap_or_else(|| token.token.into_bytes()),
        log_prob: token.logprob.unwrap_or(f32::MIN),
    }
}
