//! What a teacher answered: the reply, how it ended, and what it cost in tokens.

use serde::{Deserialize, Serialize};
use stillhouse_data::answer::Outcome;

/// Tokens as the server counted them; zero where it does not count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens of the prompt, with everything the chat template adds.
    pub prompt: u32,
    /// Tokens of the reply.
    pub completion: u32,
}

/// One alternative at a position of the reply.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// The token's id in the teacher's vocabulary, where the server gives it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u32>,
    /// The token's bytes: a token may be part of a UTF-8 character.
    #[serde(rename = "b", with = "bytes_as_text")]
    pub bytes: Vec<u8>,
    /// Natural logarithm of the token's probability, as the server gave it.
    #[serde(rename = "lp")]
    pub log_prob: f32,
}

/// One position of the reply: the token that was chosen and the most probable ones.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenLogProbs {
    /// The token of the reply. It may be missing among `top`.
    pub chosen: Candidate,
    /// The most probable tokens, most probable first.
    pub top: Vec<Candidate>,
}

/// A teacher's answer to one request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    /// What kind of reply it is. Every kind is a result: it is stored, and never asked again by itself.
    pub outcome: Outcome,
    /// The text, empty where the teacher said nothing.
    pub text: String,
    /// Why it ended, in the server's own words.
    pub finish: String,
    /// The model that the server says it used, empty where it does not say.
    pub model: String,
    /// What it took.
    pub usage: Usage,
    /// The reply's tokens as ids, from teachers that run here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_ids: Option<Vec<u32>>,
    /// Log-probabilities by token, where the request captured them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<Vec<TokenLogProbs>>,
}

impl Reply {
    /// What stands for the reply to a request that the server refused: nothing was said, and `words` are why.
    #[must_use]
    pub fn rejected(words: String) -> Self {
        Self {
            outcome: Outcome::Rejected,
            text: String::new(),
            finish: words,
            model: String::new(),
            usage: Usage::default(),
            token_ids: None,
            tokens: None,
        }
    }
}

/// Token bytes as a JSON string where they are UTF-8, else as a list of numbers: most tokens are text.
mod bytes_as_text {
    use std::fmt;

    use serde::de::{SeqAccess, Visitor};
    use serde::{Deserializer, Serialize as _, Serializer};

    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(bytes) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => bytes.serialize(serializer),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        struct Bytes;
        impl<'de> Visitor<'de> for Bytes {
            type Value = Vec<u8>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of bytes")
            }

            fn visit_str<E>(self, text: &str) -> Result<Vec<u8>, E> {
                Ok(text.as_bytes().to_vec())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<u8>, A::Error> {
                let mut bytes = Vec::with_capacity(items.size_hint().unwrap_or(4));
                while let Some(byte) = items.next_element()? {
                    bytes.push(byte);
                }
                Ok(bytes)
            }
        }
        deserializer.deserialize_any(Bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_is_half_a_character_survives_the_round_trip() {
        let candidate = Candidate { id: None, bytes: vec![0xf0, 0x9f], log_prob: -0.25 };
        let text = serde_json::to_string(&candidate).unwrap();
        assert_eq!(text, r#"{"b":[240,159],"lp":-0.25}"#);
        assert_eq!(serde_json::from_str::<Candidate>(&text).unwrap(), candidate);
        let word = Candidate { id: Some(7), bytes: b" \"word".to_vec(), log_prob: f32::MIN };
        assert_eq!(serde_json::from_str::<Candidate>(&serde_json::to_string(&word).unwrap()).unwrap(), word);
    }
}
