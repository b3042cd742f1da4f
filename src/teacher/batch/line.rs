//! A line of the file that goes up, and of those that come down.

use std::collections::BTreeMap;

use reqwest::StatusCode;
use serde::Deserialize;
use stillhouse_data::answer::Outcome;
use stillhouse_data::prompt::{Message, Part};

use crate::provider::server::Client;
use crate::replies::{Claim, Mine, ReplyStore, RequestKey};
use crate::reply::Reply;
use crate::request::{Capture, Request, Sampling};
use crate::transport::budget::Reservation;
use crate::transport::{Cost, Fault};

/// What every line begins with, in front of the key.
const BEFORE_KEY: &str = r#"{"custom_id":""#;
const KEY_DIGITS: usize = 64;

/// A request as a line of the file that goes up: its key is the name by which the reply is known, whatever order they come in.
#[must_use]
pub fn write(key: &RequestKey, path: &str, body: &[u8]) -> Vec<u8> {
    let mut line = format!(r#"{BEFORE_KEY}{key}","method":"POST","url":"/v1/{path}","body":"#).into_bytes();
    line.extend_from_slice(body);
    line.extend_from_slice(b"}\n");
    line
}

/// The key of a line that [`write`] wrote, without reading the rest of it.
#[must_use]
pub fn key_of(line: &[u8]) -> Option<RequestKey> {
    let key = line.strip_prefix(BEFORE_KEY.as_bytes())?.get(..KEY_DIGITS)?;
    RequestKey::parse(std::str::from_utf8(key).ok()?)
}

/// What has to be known of a request that was handed in: enough to read its reply, to store that, and to reckon with it.
#[derive(Debug)]
pub struct Wanted {
    /// The request, with no more of its conversation than a reply is read by.
    request: Request,
    /// What is set aside for it.
    pub reservation: Reservation,
    /// Keeps others in this process from asking the same meanwhile; nothing where somebody did so before.
    _claim: Option<Mine>,
}

impl Wanted {
    /// Of a request that is about to be handed in, or was.
    pub fn new(mut request: Request, reservation: Reservation, claim: Option<Mine>) -> Self {
        // The others are no help in reading a reply, and there may be 50,000 of them.
        let last = request.messages.pop().filter(|last| last.role == "assistant");
        request.messages = last.into_iter().collect();
        Self { request, reservation, _claim: claim }
    }

    /// The limit that it was asked with.
    #[must_use]
    pub fn max_tokens(&self) -> u32 {
        self.request.sampling.max_tokens
    }
}

/// The requests of a file that [`write`] wrote the lines of; nothing for a line that is not like that. `reserve` sets aside what one
/// can take.
#[must_use]
pub fn wanted(
    line: &[u8],
    store: &ReplyStore,
    reserve: impl FnOnce(&Request) -> Reservation,
) -> Option<(RequestKey, Wanted)> {
    #[derive(Deserialize)]
    struct Line {
        body: Body,
    }
    #[derive(Deserialize)]
    struct Body {
        messages: Vec<Turn>,
        #[serde(alias = "max_completion_tokens")]
        max_tokens: u32,
        #[serde(default)]
        top_logprobs: Option<u32>,
    }
    #[derive(Deserialize)]
    struct Turn {
        role: String,
        content: Content,
    }
    /// As it goes over the wire: a turn of text alone is a string.
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Content {
        Text(String),
        Parts(Vec<Part>),
    }
    let turn = |Turn { role, content }: Turn| match content {
        Content::Text(content) => Message::text(role, content),
        Content::Parts(parts) => {
            let texts = parts.iter().filter_map(|part| match part {
                Part::Text { text } => Some(text.as_str()),
                Part::ImageUrl { .. } => None,
            });
            Message { content: texts.collect::<Vec<_>>().join("\n"), role, parts }
        }
    };
    let key = key_of(line)?;
    let Line { body } = serde_json::from_slice(line).ok()?;
    let sampling =
        Sampling { temperature: 1.0, top_p: 1.0, top_k: None, max_tokens: body.max_tokens, stop: Vec::new() };
    let messages = body.messages.into_iter().map(turn).collect();
    let capture = body.top_logprobs.map(Capture::TopK);
    let request = Request { messages, sampling, capture, sample: 0, attempt: 0, seed: None, given: None };
    let claim = match store.claim(key, request.sampling.max_tokens) {
        Claim::Mine(mine) => Some(mine),
        Claim::Other(_) => None,
    };
    let reservation = reserve(&request);
    Some((key, Wanted::new(request, reservation, claim)))
}

/// What a line of a file that came down says of one request.
#[derive(Debug)]
pub enum Said {
    /// The teacher's reply.
    Reply(Reply),
    /// What stands for a reply that the content filter held back: it cost nothing.
    Filtered(Reply),
    /// No reply, and what the request cost all the same.
    Fault(Fault, Cost),
}

#[derive(Deserialize)]
struct Came {
    custom_id: String,
    #[serde(default)]
    response: Option<Response>,
    #[serde(default)]
    error: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Response {
    status_code: u16,
    #[serde(default)]
    body: serde_json::Value,
}

/// Reads a line of the output or of the errors; nothing if it is of none of the requests in `wanted`, or not as the API has it.
#[must_use]
pub fn read(line: &[u8], wanted: &BTreeMap<RequestKey, Wanted>, client: &Client) -> Option<(RequestKey, Said)> {
    let came: Came = serde_json::from_slice(line).ok()?;
    let key = RequestKey::parse(&came.custom_id)?;
    let asked = wanted.get(&key)?;
    let said = match came.response {
        Some(Response { status_code: 200, body }) => {
            let body = serde_json::to_vec(&body).ok()?;
            match client.read(&body, &asked.request) {
                Ok(reply) => Said::Reply(reply),
                Err((fault, cost)) => Said::Fault(fault, cost),
            }
        }
        Some(Response { status_code, body }) => {
            let status = StatusCode::from_u16(status_code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            let body = serde_json::to_vec(&body).ok()?;
            match client.endpoint.refused(status, None, &body) {
                Fault::Filtered { words } => Said::Filtered(Reply::without_words(Outcome::ContentFilter, words)),
                fault => Said::Fault(fault, Cost::Nothing),
            }
        }
        // Expired, cancelled, or given up by the server itself: it costs nothing.
        None => {
            let error = came.error.unwrap_or_default();
            let word = |name: &str| error.get(name).and_then(|word| word.as_str()).unwrap_or("nothing");
            let what = client.endpoint.quote(&format!("the batch says {}: {}", word("code"), word("message")));
            Said::Fault(Fault::transient(what), Cost::Nothing)
        }
    };
    Some((key, said))
}

#[cfg(test)]
mod tests {
    use stillhouse_data::prompt::ImageUrl;

    use super::*;
    use crate::provider::api::Api as _;
    use crate::provider::openai::{ChatApi, Dialect};
    use crate::provider::server::estimate;
    use crate::request::Identity;
    use crate::transport::budget::Budget;

    #[test]
    fn a_request_with_an_image_is_read_back_from_its_line() {
        let image = ImageUrl { url: "data:image/png;base64,iVBORw0KGgo=".to_owned(), detail: None };
        let parts = vec![Part::Text { text: "What is it?".to_owned() }, Part::ImageUrl { image_url: image }];
        let shows = Message { role: "user".to_owned(), content: "What is it?".to_owned(), parts };
        let messages = vec![Message::system("Be short."), shows, Message::assistant("It is")];
        let sampling = Sampling { temperature: 0.5, top_p: 1.0, top_k: None, max_tokens: 9, stop: Vec::new() };
        let request = Request {
            messages,
            sampling,
            capture: Some(Capture::TopK(3)),
            sample: 0,
            attempt: 0,
            seed: Some(1),
            given: None,
        };
        let key = request.key(&Identity { family: "openai-chat", model: "m".to_owned(), revision: None });
        let api = ChatApi { model: "m".to_owned(), dialect: Dialect::Strict };
        let line = write(&key, api.path(), &api.body(&request).unwrap());
        let store = ReplyStore::open(tempfile::tempdir().unwrap().path()).unwrap();
        let budget = Budget::new(Vec::new(), std::sync::Arc::default());
        let reserve = |request: &Request| budget.reserve_sent(estimate(request));
        let (found, read) = wanted(&line, &store, reserve).unwrap();
        assert_eq!((found, read.reservation.estimate(), read.max_tokens()), (key, estimate(&request), 9));
        assert_eq!(read.request.messages, [Message::assistant("It is")]);
        assert_eq!(read.request.capture, Some(Capture::TopK(3)));
        assert!(wanted(b"{\"custom_id\":\"x\"}", &store, reserve).is_none());
    }
}
