//! A reply that came as a stream, though none was asked for: some gateways know no other way. Put together again, it is
//! read as if it had come in one piece.

use serde_json::{Map, Value, json};

use crate::provider::api::Unusable;

/// Whether a body is a stream of events.
#[must_use]
pub fn is_stream(body: &[u8]) -> bool {
    body.trim_ascii_start().starts_with(b"data:")
}

/// The whole reply.
///
/// # Errors
/// [`Unusable::Broken`] if an event is no JSON, or the stream ends before the reply does.
pub fn whole(body: &[u8]) -> Result<Vec<u8>, Unusable> {
    let text = String::from_utf8_lossy(body);
    let (mut said, mut positions, mut finish) = (Map::new(), Vec::new(), Value::Null);
    let mut reply = json!({});
    for data in text.lines().filter_map(|line| line.strip_prefix("data:")).map(str::trim) {
        if data == "[DONE]" {
            break;
        }
        let mut event: Value =
            serde_json::from_str(data).map_err(|error| Unusable::not_valid(data.as_bytes(), &error))?;
        // Nothing here may rely on an event's shape: whatever is not there, or is something else, is passed over.
        let mut taken = |path: &str| event.pointer_mut(path).map(Value::take).filter(|value| !value.is_null());
        for name in ["model", "usage", "error"] {
            if let Some(value) = taken(&format!("/{name}")) {
                reply[name] = value;
            }
        }
        for name in ["content", "refusal"] {
            if let Some(Value::String(piece)) = taken(&format!("/choices/0/delta/{name}")) {
                let so_far = said.entry(name).or_insert_with(|| json!(""));
                *so_far = json!(format!("{}{piece}", so_far.as_str().unwrap_or_default()));
            }
        }
        if let Some(Value::Array(mut more)) = taken("/choices/0/logprobs/content") {
            positions.append(&mut more);
        }
        if let Some(reason) = taken("/choices/0/finish_reason") {
            finish = reason;
        }
    }
    if finish.is_null() && reply["error"].is_null() {
        return Err(Unusable::Broken("the reply is a stream that breaks off".to_owned()));
    }
    if !finish.is_null() {
        let log_probs = if positions.is_empty() { Value::Null } else { json!({ "content": positions }) };
        reply["choices"] = json!([{ "message": said, "finish_reason": finish, "logprobs": log_probs }]);
    }
    Ok(reply.to_string().into_bytes())
}
