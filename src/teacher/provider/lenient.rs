//! Bodies as servers really send them: what costs nothing to understand is understood.

use serde::de::{DeserializeOwned, Deserializer};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A byte order mark, which JSON has none of.
const BOM: &[u8] = b"\xef\xbb\xbf";

/// A body without the byte order mark that some proxies put before it.
#[must_use]
pub fn without_mark(body: &[u8]) -> &[u8] {
    body.strip_prefix(BOM).unwrap_or(body)
}

/// Reads a body. A member that is there twice counts as it is the last time, as most readers of JSON have it.
///
/// # Errors
/// What is wrong with it.
pub fn read<T: DeserializeOwned>(body: &[u8]) -> serde_json::Result<T> {
    serde_json::from_slice(body).or_else(|error| match serde_json::from_slice::<Value>(body) {
        Ok(value) => T::deserialize(value).map_err(|_| error),
        Err(_) => Err(error),
    })
}

/// Reads a body that is no reply for the sake of one member: numbers that JSON has no words for count as nothing.
#[must_use]
pub fn salvage(body: &[u8]) -> Option<Value> {
    let body = without_mark(body);
    serde_json::from_slice(body).ok().or_else(|| serde_json::from_slice(&without_nan(body)).ok())
}

/// `NaN`, `Infinity` and `-Infinity` outside of strings, each as `null`.
fn without_nan(body: &[u8]) -> Vec<u8> {
    const WORDS: [&[u8]; 3] = [b"-Infinity", b"Infinity", b"NaN"];
    let (mut clean, mut at, mut in_string) = (Vec::with_capacity(body.len()), 0, false);
    while at < body.len() {
        let rest = &body[at..];
        if let Some(word) = WORDS.iter().find(|word| !in_string && rest.starts_with(word)) {
            clean.extend_from_slice(b"null");
            at += word.len();
            continue;
        }
        let taken = if in_string && rest[0] == b'\\' { 2.min(rest.len()) } else { 1 };
        in_string ^= rest[0] == b'"';
        clean.extend_from_slice(&rest[..taken]);
        at += taken;
    }
    clean
}

/// A number of tokens, whatever it is written as; nothing where it makes no sense.
///
/// # Errors
/// If it is no JSON at all.
pub fn count<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u32>, D::Error> {
    let value = Value::deserialize(from)?;
    let whole = |number: f64| (number >= 0.0).then_some(number.round().min(f64::from(u32::MAX)) as u32);
    Ok(value.as_f64().and_then(whole))
}

/// A text, a list of parts of which some are text, or nothing.
///
/// # Errors
/// If it is something else.
pub fn text<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    #[derive(Deserialize, Serialize)]
    struct Part {
        #[serde(default)]
        text: Option<String>,
    }
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Content {
        Text(String),
        Parts(Vec<Part>),
        Nothing(()),
    }
    Ok(match Content::deserialize(from)? {
        Content::Text(text) => Some(text),
        Content::Parts(parts) => Some(parts.into_iter().filter_map(|part| part.text).collect()),
        Content::Nothing(()) => None,
    })
}

/// A list, or nothing where it is `null`.
///
/// # Errors
/// If it is something else.
pub fn list<'de, T: Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<Vec<T>, D::Error> {
    Ok(Option::<Vec<T>>::deserialize(from)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_no_number_is_nothing_and_strings_stay_as_they_are() {
        let body = br#"{"a": NaN, "b": [-Infinity, Infinity, 1], "c": "NaN \" NaN"}"#;
        assert_eq!(salvage(body), Some(json!({ "a": null, "b": [null, null, 1], "c": "NaN \" NaN" })));
        assert_eq!(salvage(b"\xef\xbb\xbf{}"), Some(json!({})));
        assert_eq!(salvage(b"<html>"), None);
    }
}
