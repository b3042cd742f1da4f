//! What a server says when it refuses a request.

use serde_json::Value;

/// The body of a refusal, whatever shape it has: as the server wrote it, whole and with the key if it repeats that, so that its
/// kinds are told apart by all that it says. What is shown of it goes through [`super::Endpoint::quote`].
#[derive(Debug)]
pub struct Refusal {
    /// The error's message, else all of the body.
    message: String,
    /// Its code and its type, as far as they are words.
    kinds: Vec<String>,
    /// Whether it has a message of its own.
    has_message: bool,
    /// Whether it is the content filter's: Azure's way of saying what others say with a reply's `finish_reason`.
    pub is_filtered: bool,
}

impl Refusal {
    /// Reads a body.
    #[must_use]
    pub fn read(body: &[u8]) -> Self {
        let text = String::from_utf8_lossy(body);
        let parsed: Value = serde_json::from_str(&text).unwrap_or_default();
        let error = parsed.get("error").unwrap_or(&parsed);
        let message = [error.get("message"), Some(error), parsed.get("detail"), parsed.get("message")]
            .into_iter()
            .flatten()
            .find_map(Value::as_str);
        let kinds = ["code", "type"].into_iter().filter_map(|name| error.get(name)?.as_str());
        let word = |path: &str| parsed.pointer(path).and_then(Value::as_str);
        Self {
            message: match message {
                Some(message) => message.to_owned(),
                // Written anew where it is JSON, so that no escape hides a key.
                None if !parsed.is_null() => parsed.to_string(),
                None => text.into_owned(),
            },
            kinds: kinds.map(str::to_owned).collect(),
            has_message: message.is_some(),
            is_filtered: word("/error/code") == Some("content_filter")
                || word("/error/innererror/code") == Some("ResponsibleAIPolicyViolation"),
        }
    }

    /// Whether these words are in its message, or in what it calls itself.
    #[must_use]
    pub fn says(&self, words: &str) -> bool {
        self.message.contains(words) || self.kinds.iter().any(|kind| kind.contains(words))
    }

    /// Its message, and what kind it is.
    #[must_use]
    pub fn words(&self) -> String {
        match self.kinds.first().filter(|_| self.has_message) {
            Some(kind) => format!("{} ({kind})", self.message),
            None => self.message.clone(),
        }
    }
}
