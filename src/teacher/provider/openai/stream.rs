//! A reply that came as a stream, though none was asked for: some gateways know no other way. Put together again, it is
//! read as if it had come in one piece.

use std::borrow::Cow;

use serde_json::{Map, Value, json};

use crate::provider::api::Unusable;
use crate::provider::lenient;

/// What the first line of a stream begins with: an event's data or name, or a comment that keeps the line open.
const BEGINNINGS: [&[u8]; 5] = [b"data:", b"event:", b"id:", b"retry:", b":"];
/// Lists of log-probabilities, which are added up, below a choice's `logprobs`.
const LISTS: [&str; 4] = ["content", "tokens", "token_logprobs", "top_logprobs"];

/// Whether a body is a stream of events.
#[must_use]
pub fn is_stream(body: &[u8]) -> bool {
    let body = body.trim_ascii_start();
    BEGINNINGS.iter().any(|beginning| body.starts_with(beginning))
}

/// A body as if it had come in one piece: put together by `whole` if it is a stream.
///
/// # Errors
/// Those of `whole`.
pub fn in_one_piece(
    body: &[u8],
    whole: impl FnOnce(&[u8]) -> Result<Vec<u8>, Unusable>,
) -> Result<Cow<'_, [u8]>, Unusable> {
    let body = lenient::without_mark(body);
    Ok(if is_stream(body) { Cow::Owned(whole(body)?) } else { Cow::Borrowed(body) })
}

/// The whole reply of a chat.
///
/// # Errors
/// [`Unusable::Broken`] if an event is no JSON, or the stream ends before the reply does.
pub fn whole(body: &[u8]) -> Result<Vec<u8>, Unusable> {
    let (mut said, mut gathered) = (Map::new(), Gathered::default());
    gathered.read(body, |event| {
        // A server may send the whole message at once.
        for (name, place) in
            [("content", "delta"), ("refusal", "delta"), ("content", "message"), ("refusal", "message")]
        {
            if let Some(Value::String(piece)) = taken(event, &format!("/choices/0/{place}/{name}")) {
                let so_far = said.entry(name).or_insert_with(|| json!(""));
                *so_far = json!(format!("{}{piece}", so_far.as_str().unwrap_or_default()));
            }
        }
    })?;
    gathered.reply(json!({ "message": said }))
}

/// The whole reply of a completion.
///
/// # Errors
/// As [`whole`].
pub fn whole_text(body: &[u8]) -> Result<Vec<u8>, Unusable> {
    let (mut text, mut gathered) = (String::new(), Gathered::default());
    gathered.read(body, |event| {
        if let Some(Value::String(piece)) = taken(event, "/choices/0/text") {
            text.push_str(&piece);
        }
    })?;
    gathered.reply(json!({ "text": text }))
}

/// What a stream says it took, though it may be no whole reply.
#[must_use]
pub fn usage(body: &[u8]) -> Option<Value> {
    let text = String::from_utf8_lossy(body);
    let events = data(&text).filter_map(|data| serde_json::from_str::<Value>(data).ok());
    events.filter_map(|mut event| taken(&mut event, "/usage")).last()
}

fn data(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| line.strip_prefix("data:")).map(str::trim)
}

/// Nothing here may rely on an event's shape: whatever is not there, or is something else, is passed over.
fn taken(event: &mut Value, path: &str) -> Option<Value> {
    event.pointer_mut(path).map(Value::take).filter(|value| !value.is_null())
}

/// What all events say beside the words.
#[derive(Default)]
struct Gathered {
    reply: Map<String, Value>,
    log_probs: Map<String, Value>,
    finish: Value,
    error: Value,
}

impl Gathered {
    fn read(&mut self, body: &[u8], mut words: impl FnMut(&mut Value)) -> Result<(), Unusable> {
        let text = String::from_utf8_lossy(body);
        for data in data(&text) {
            if data == "[DONE]" {
                break;
            }
            let mut event: Value =
                serde_json::from_str(data).map_err(|error| Unusable::not_valid(data.as_bytes(), &error))?;
            for name in ["model", "usage", "error"] {
                if let Some(value) = taken(&mut event, &format!("/{name}")) {
                    self.reply.insert(name.to_owned(), value);
                }
            }
            words(&mut event);
            for name in LISTS {
                if let Some(Value::Array(more)) = taken(&mut event, &format!("/choices/0/logprobs/{name}")) {
                    match self.log_probs.entry(name).or_insert_with(|| json!([])) {
                        Value::Array(all) => all.extend(more),
                        other => *other = Value::Array(more),
                    }
                }
            }
            if let Some(reason) = taken(&mut event, "/choices/0/finish_reason") {
                self.finish = reason;
            }
            if let Some(error) = taken(&mut event, "/choices/0/error") {
                self.error = error;
            }
        }
        Ok(())
    }

    fn reply(mut self, mut choice: Value) -> Result<Vec<u8>, Unusable> {
        if self.finish.is_null() && !self.reply.contains_key("error") {
            return Err(Unusable::Broken("the reply is a stream that breaks off".to_owned()));
        }
        if !self.finish.is_null() {
            choice["finish_reason"] = self.finish;
            choice["error"] = self.error;
            if !self.log_probs.is_empty() {
                choice["logprobs"] = Value::Object(self.log_probs);
            }
            self.reply.insert("choices".to_owned(), json!([choice]));
        }
        Ok(Value::Object(self.reply).to_string().into_bytes())
    }
}
