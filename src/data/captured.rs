//! Log-probabilities as a server gave them: tokens by their bytes, sometimes with an id in the server's own vocabulary. What
//! they are in the tokens of a student is found out when a dataset is made of them, see [`crate::server_tokens`].

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{DataError, DataResult};

/// Log-probabilities as a server gave them, one [`Captured`] a line, beside the answers and in their order.
pub const CAPTURED_FILE: &str = "captured.jsonl";

/// What the id of a server's signals begins with, see [`teacher_of`].
const SERVER: &str = "server ";

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

/// The log-probabilities of one answer. The teacher's token ids, or only their bytes, are not yet those of a
/// student's tokenizer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Captured {
    /// The prompt's id.
    pub prompt: String,
    /// Which of its samples.
    pub sample: u32,
    /// Each position of the answer.
    pub tokens: Vec<TokenLogProbs>,
}

/// What signals made of a file of log-probabilities are known under ([`crate::signals::SequenceKey::of`]): its content,
/// since nobody knows a server's weights.
///
/// # Errors
/// A file that can't be read.
pub fn teacher_of(path: &Path) -> DataResult<String> {
    let mut hasher = blake3::Hasher::new();
    let file = fs_err::File::open(path).map_err(DataError::own_io(path))?;
    hasher.update_reader(file).map_err(DataError::own_io(path))?;
    Ok(format!("{SERVER}{}", &hasher.finalize().to_hex()[..32]))
}

/// Whether a teacher's signals were made of a server's log-probabilities.
#[must_use]
pub fn is_server(teacher: &str) -> bool {
    teacher.starts_with(SERVER)
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
