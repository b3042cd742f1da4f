//! Log-probabilities as servers write them: OpenAI's chat shape, which llama.cpp has for completions too, and the older
//! shape of completions.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::reply::{Candidate, TokenLogProbs};

/// The text of a token → its log-probability.
type Alternatives = BTreeMap<String, Option<f64>>;

/// Either shape; which one it is, is told by the members that are there.
#[derive(Deserialize)]
pub struct LogProbs {
    /// The chat shape.
    #[serde(default)]
    content: Option<Vec<Position>>,
    /// The completions shape: the chosen tokens.
    #[serde(default)]
    tokens: Option<Vec<String>>,
    /// Their log-probabilities.
    #[serde(default)]
    token_logprobs: Option<Vec<Option<f64>>>,
    /// The alternatives at each position, by the token's text.
    #[serde(default)]
    top_logprobs: Option<Vec<Option<Alternatives>>>,
}

#[derive(Deserialize)]
struct Position {
    token: String,
    #[serde(default)]
    id: Option<u32>,
    #[serde(default)]
    bytes: Option<Vec<u8>>,
    #[serde(default)]
    logprob: Option<f64>,
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
    logprob: Option<f64>,
}

impl LogProbs {
    /// The positions, whichever shape they came in; nothing where neither is there, or where the lists of the older one
    /// do not belong together.
    #[must_use]
    pub fn positions(self) -> Option<Vec<TokenLogProbs>> {
        if let Some(content) = self.content {
            return Some(content.into_iter().map(position).collect());
        }
        let (tokens, chosen) = (self.tokens?, self.token_logprobs?);
        let top = self.top_logprobs.unwrap_or_default();
        if chosen.len() != tokens.len() || (!top.is_empty() && top.len() != tokens.len()) {
            return None;
        }
        let mut top = top.into_iter();
        let positions = tokens.into_iter().zip(chosen).map(|(token, log_prob)| TokenLogProbs {
            chosen: named(&token, log_prob),
            top: alternatives(top.next().flatten().unwrap_or_default()),
        });
        Some(positions.collect())
    }
}

fn position(position: Position) -> TokenLogProbs {
    let Position { token, id, bytes, logprob, top_logprobs } = position;
    TokenLogProbs {
        chosen: candidate(Token { token, id, bytes, logprob }),
        top: top_logprobs.into_iter().map(candidate).collect(),
    }
}

fn candidate(token: Token) -> Candidate {
    let Token { token, id, bytes, logprob } = token;
    let told = named(&token, logprob);
    match (told.id, bytes) {
        // vLLM's `bytes` are then those of the words `token_id:123`.
        (Some(_), _) => told,
        (None, Some(bytes)) => Candidate { id, bytes, ..told },
        (None, None) => Candidate { id, ..told },
    }
}

/// A token known by its text alone. vLLM writes `token_id:123` instead of the text when it is told to give ids; the older
/// API writes `bytes:\xe2\x82` where the token is no whole character.
fn named(token: &str, log_prob: Option<f64>) -> Candidate {
    let log_prob = finite(log_prob);
    if let Some(id) = token.strip_prefix("token_id:").and_then(|id| id.parse().ok()) {
        return Candidate { id: Some(id), bytes: Vec::new(), log_prob };
    }
    let bytes = token.strip_prefix("bytes:").and_then(escaped);
    Candidate { id: None, bytes: bytes.unwrap_or_else(|| token.as_bytes().to_vec()), log_prob }
}

/// `\xe2\x82` as two bytes.
fn escaped(text: &str) -> Option<Vec<u8>> {
    let pieces = text.strip_prefix("\\x")?.split("\\x");
    pieces.map(|hex| if hex.len() == 2 { u8::from_str_radix(hex, 16).ok() } else { None }).collect()
}

/// The most probable first; a map has no order of its own.
fn alternatives(map: Alternatives) -> Vec<Candidate> {
    let mut all: Vec<Candidate> = map.into_iter().map(|(token, log_prob)| named(&token, log_prob)).collect();
    all.sort_by(|a, b| b.log_prob.total_cmp(&a.log_prob));
    all
}

/// What JSON can hold again: minus infinity, however it was written, is the smallest number.
fn finite(log_prob: Option<f64>) -> f32 {
    log_prob.map_or(f32::MIN, |value| (value as f32).max(f32::MIN))
}
