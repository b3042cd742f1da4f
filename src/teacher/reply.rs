//! What a teacher answered: the reply, how it ended, and what it cost in tokens.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use stillhouse_data::answer::Outcome;
pub use stillhouse_data::captured::{Candidate, TokenLogProbs};

/// Tokens as the server counted them; zero where it does not count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens of the prompt, with everything the chat template adds.
    pub prompt: u32,
    /// Tokens of the reply.
    pub completion: u32,
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
    /// The reply's tokens as ids, from teachers that run here; a server's are among the `tokens`, where these are captured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_ids: Option<Vec<u32>>,
    /// Log-probabilities by token, where the request captured them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<Vec<TokenLogProbs>>,
    /// The vector of the request's text, where that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vector: Option<Vector>,
}

/// A text's vector. Written as the base64 of its numbers' bytes, little-endian: exact, and half as long as digits.
#[derive(Clone, Debug, PartialEq)]
pub struct Vector(pub Vec<f32>);

impl Vector {
    /// The vector that a base64 text stands for.
    #[must_use]
    pub fn from_base64(text: &str) -> Option<Self> {
        let bytes = STANDARD.decode(text).ok()?;
        let (numbers, rest) = bytes.as_chunks::<4>();
        rest.is_empty().then(|| Self(numbers.iter().map(|number| f32::from_le_bytes(*number)).collect()))
    }
}

impl Serialize for Vector {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let bytes: Vec<u8> = self.0.iter().flat_map(|number| number.to_le_bytes()).collect();
        serializer.serialize_str(&STANDARD.encode(bytes))
    }
}

impl<'de> Deserialize<'de> for Vector {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::from_base64(&text).ok_or_else(|| serde::de::Error::custom("not the base64 of numbers of four bytes"))
    }
}

impl Reply {
    /// What stands for the reply to a request that the server refused: nothing was said, and `words` are why.
    #[must_use]
    pub fn rejected(words: String) -> Self {
        Self::without_words(Outcome::Rejected, words)
    }

    /// Nothing was said, and `words` are why.
    #[must_use]
    pub fn without_words(outcome: Outcome, words: String) -> Self {
        Self {
            outcome,
            text: String::new(),
            finish: words,
            model: String::new(),
            usage: Usage::default(),
            token_ids: None,
            tokens: None,
            vector: None,
        }
    }
}
