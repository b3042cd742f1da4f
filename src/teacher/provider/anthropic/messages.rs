//! The messages API as it goes over the wire.

use serde::{Deserialize, Serialize};
use stillhouse_data::answer::Outcome;
use stillhouse_data::prompt::Message;

use super::turn::Turn;
use crate::provider::api::{Api, Unusable};
use crate::provider::lenient;
use crate::provider::opened::{self, opened};
use crate::reply::{Reply, Usage};
use crate::request::Request;

/// Messages of one model.
#[derive(Clone, Debug)]
pub struct MessagesApi {
    /// The model's name as the server knows it.
    pub model: String,
}

/// The body of a request.
#[derive(Debug, Serialize)]
struct Body<'r> {
    model: &'r str,
    /// Must be there; there is no server's default.
    max_tokens: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    system: Option<String>,
    messages: Vec<Turn<'r>>,
    /// Newer models refuse temperature and top-p in one request, so whichever is at its neutral 1 stays away.
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_p: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_k: Option<u32>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    stop_sequences: &'r [String],
    stream: bool,
}

#[derive(Deserialize)]
struct Said {
    #[serde(default, deserialize_with = "lenient::list")]
    content: Vec<Option<Block>>,
    #[serde(default)]
    stop_reason: Option<String>,
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    usage: Option<Tokens>,
    #[serde(default)]
    error: Option<serde_json::Value>,
}

impl opened::Body for Said {
    fn passed_on(&self) -> Option<&serde_json::Value> {
        self.error.as_ref()
    }
}

#[derive(Deserialize)]
struct Block {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    text: Option<String>,
}

#[derive(Deserialize)]
struct Tokens {
    #[serde(default, deserialize_with = "lenient::count")]
    input_tokens: Option<u32>,
    #[serde(default, deserialize_with = "lenient::count")]
    output_tokens: Option<u32>,
    #[serde(default, deserialize_with = "lenient::count")]
    cache_creation_input_tokens: Option<u32>,
    #[serde(default, deserialize_with = "lenient::count")]
    cache_read_input_tokens: Option<u32>,
}

impl From<Tokens> for Usage {
    /// `input_tokens` are those after the last cache mark: the whole prompt is the sum of the three.
    fn from(tokens: Tokens) -> Self {
        let of = Option::unwrap_or_default;
        // Half a count is none: the other half would be free.
        if tokens.input_tokens.is_none() || tokens.output_tokens.is_none() {
            return Self::default();
        }
        let cached = of(tokens.cache_creation_input_tokens).saturating_add(of(tokens.cache_read_input_tokens));
        Self { prompt: of(tokens.input_tokens).saturating_add(cached), completion: of(tokens.output_tokens) }
    }
}

impl Api for MessagesApi {
    fn path(&self) -> &'static str {
        "messages"
    }

    fn takes_images(&self) -> bool {
        true
    }

    fn body(&self, request: &Request) -> serde_json::Result<Vec<u8>> {
        let sampling = &request.sampling;
        let (system, messages): (Vec<&Message>, Vec<&Message>) =
            request.messages.iter().partition(|message| message.role == "system");
        let system: Vec<&str> = system.into_iter().map(|message| message.content.as_str()).collect();
        let narrowed = sampling.top_p < 1.0;
        serde_json::to_vec(&Body {
            model: &self.model,
            max_tokens: sampling.max_tokens,
            system: (!system.is_empty()).then(|| system.join("\n\n")),
            messages: messages.into_iter().map(Turn::from).collect(),
            temperature: (!narrowed || sampling.temperature != 1.0).then_some(sampling.temperature),
            top_p: narrowed.then_some(sampling.top_p),
            top_k: sampling.top_k,
            stop_sequences: &sampling.stop,
            stream: false,
        })
    }

    fn parse(&self, body: &[u8], _request: &Request) -> Result<Reply, Unusable> {
        let said: Said = opened(body)?;
        let Some(finish) = said.stop_reason else {
            return Err(Unusable::Broken("the reply has no `stop_reason`".to_owned()));
        };
        let texts = said
            .content
            .iter()
            .flatten()
            .filter(|block| block.kind == "text")
            .filter_map(|block| block.text.as_deref());
        let text: String = texts.collect();
        let outcome = match finish.as_str() {
            "max_tokens" | "model_context_window_exceeded" => Outcome::Cut,
            "refusal" => Outcome::Refusal,
            _ if text.is_empty() => Outcome::Empty,
            _ => Outcome::Ok,
        };
        let (model, usage) = (said.model.unwrap_or_default(), said.usage.map_or_else(Usage::default, Usage::from));
        Ok(Reply { outcome, text, finish, model, usage, token_ids: None, tokens: None, vector: None })
    }

    fn usage(&self, body: &[u8]) -> Option<Usage> {
        Tokens::deserialize(lenient::salvage(body)?.get_mut("usage")?.take()).ok().map(Usage::from)
    }
}
