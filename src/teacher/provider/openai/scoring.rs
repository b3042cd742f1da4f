//! A given answer as a vLLM server scores it. The answer is sent as the end of what the server reads: it tells the
//! log-probabilities of what it reads (`prompt_logprobs`), token by token, and writes one token more, whose
//! log-probabilities are those of where the answer ends.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};

use super::chat::Dialect;
use super::completion::{self, Tokens};
use super::completions::prompt_text;
use super::log_probs::LogProbs;
use super::message::WireMessage;
use super::settings::ApiConfig;
use crate::provider::api::{Api, Unusable};
use crate::provider::lenient;
use crate::provider::opened::{Body, opened};
use crate::reply::{Candidate, Reply, TokenLogProbs, Usage};
use crate::request::{Capture, Given, Request};

/// An API that scores given answers beside answering: whatever else it is asked goes on to the other one.
#[derive(Debug)]
pub struct ScoringApi {
    /// What answers.
    pub answering: Arc<dyn Api>,
    /// The model's name as the server knows it.
    pub model: String,
    /// Which of its APIs.
    pub api: ApiConfig,
    /// Whose dialect.
    pub dialect: Dialect,
}

/// What rounding may make of the logarithm of a probability of 1: more is the logarithm of none.
const ROUNDING: f64 = 0.01;

/// The most probable tokens at a position of what the server read, by their ids.
type Read = BTreeMap<u32, LogProb>;

#[derive(Deserialize)]
struct LogProb {
    #[serde(default)]
    logprob: Option<f64>,
    #[serde(default)]
    decoded_token: Option<String>,
}

/// What came back. The chat API tells of what it read beside the choices, completions within them.
#[derive(Deserialize)]
struct Scored {
    #[serde(default, deserialize_with = "lenient::list")]
    choices: Vec<Choice>,
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    usage: Option<Tokens>,
    #[serde(default)]
    error: Option<Value>,
    #[serde(default)]
    prompt_logprobs: Option<Vec<Option<Read>>>,
    #[serde(default)]
    prompt_token_ids: Option<Vec<u32>>,
}

impl Body for Scored {
    fn passed_on(&self) -> Option<&Value> {
        self.error.as_ref().filter(|_| self.choices.is_empty())
    }
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    index: u32,
    #[serde(default)]
    logprobs: Option<LogProbs>,
    #[serde(default)]
    prompt_logprobs: Option<Vec<Option<Read>>>,
    #[serde(default)]
    prompt_token_ids: Option<Vec<u32>>,
}

impl completion::Choice for Choice {
    fn index(&self) -> u32 {
        self.index
    }
}

impl Api for ScoringApi {
    fn path(&self) -> &'static str {
        self.answering.path()
    }

    fn takes_images(&self) -> bool {
        self.answering.takes_images()
    }

    fn body(&self, request: &Request) -> serde_json::Result<Vec<u8>> {
        match &request.given {
            None => self.answering.body(request),
            Some(given) => serde_json::to_vec(&self.scoring(request, given)?),
        }
    }

    fn parse(&self, body: &[u8], request: &Request) -> Result<Reply, Unusable> {
        match &request.given {
            None => self.answering.parse(body, request),
            Some(given) => self.scored(body, request.capture, given),
        }
    }

    fn usage(&self, body: &[u8]) -> Option<Usage> {
        self.answering.usage(body)
    }
}

impl ScoringApi {
    /// The body that has a given answer scored.
    fn scoring(&self, request: &Request, given: &Given) -> serde_json::Result<Value> {
        let alternatives = request.capture.map(|capture| self.dialect.alternatives(capture));
        let mut body = json!({
            "model": self.model,
            "temperature": 0.0,
            "top_p": 1.0,
            "max_tokens": 1,
            "n": 1,
            "stream": false,
            "frequency_penalty": 0.0,
            "presence_penalty": 0.0,
            "top_k": -1,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "prompt_logprobs": alternatives,
            // Which tokens it read is told by this alone.
            "return_token_ids": true,
            "return_tokens_as_token_ids": self.dialect.ids(),
        });
        match self.api {
            ApiConfig::Chat => {
                let messages = request.conversation();
                let messages: Vec<WireMessage<'_>> = messages.iter().map(WireMessage::from).collect();
                body["messages"] = serde_json::to_value(messages)?;
                body["add_generation_prompt"] = json!(false);
                body["continue_final_message"] = json!(true);
                body["logprobs"] = json!(true);
                body["top_logprobs"] = json!(alternatives);
            }
            ApiConfig::Completions => {
                body["prompt"] = json!(format!("{}{}", prompt_text(&request.messages), given.text));
                body["echo"] = json!(false);
                body["logprobs"] = json!(alternatives);
            }
        }
        Ok(body)
    }

    fn scored(&self, body: &[u8], capture: Option<Capture>, given: &Given) -> Result<Reply, Unusable> {
        let scored: Scored = opened(body)?;
        let choice = completion::first(scored.choices)?;
        let read = scored.prompt_logprobs.or(choice.prompt_logprobs);
        let ids = scored.prompt_token_ids.or(choice.prompt_token_ids);
        let (Some(read), Some(ids)) = (read, ids) else { return Err(Unusable::NoLogProbs) };
        if read.len() != ids.len() {
            return Err(Unusable::Broken(format!("{} log-probabilities of {} tokens", read.len(), ids.len())));
        }
        let most = match capture {
            Some(Capture::TopK(k)) => k as usize,
            _ => usize::MAX,
        };
        let mut tokens = self.of_answer(&read, &ids, &given.text, most)?;
        let end = choice.logprobs.and_then(LogProbs::positions).and_then(|positions| positions.into_iter().next());
        if let (false, true, Some(TokenLogProbs { mut top, .. })) = (tokens.is_empty(), given.is_whole(), end) {
            if let Some(one) = top.iter().find(|one| f64::from(one.log_prob) > ROUNDING) {
                let what = format!("a positive log-probability ({}) stands where the answer ends", one.log_prob);
                return Err(Unusable::Broken(what));
            }
            top.truncate(most);
            // Whatever it would have written there: here the answer ends, with a token that writes nothing.
            tokens.push(TokenLogProbs { chosen: Candidate { id: None, bytes: Vec::new(), log_prob: f32::MIN }, top });
        }
        Ok(Reply {
            outcome: given.outcome,
            text: given.text.clone(),
            finish: given.finish.clone(),
            model: scored.model.unwrap_or_default(),
            usage: scored.usage.map_or_else(Usage::default, Usage::from),
            token_ids: None,
            vector: None,
            tokens: Some(tokens),
        })
    }

    /// The positions of the answer among those of all that was read; none where no token begins with it.
    ///
    /// # Errors
    /// A position at which the server tells no distribution.
    fn of_answer(
        &self,
        read: &[Option<Read>],
        ids: &[u32],
        text: &str,
        most: usize,
    ) -> Result<Vec<TokenLogProbs>, Unusable> {
        let chosen = |place: usize| read[place].as_ref().and_then(|read| read.get(&ids[place]));
        let pieces: Vec<&str> = (0..ids.len())
            .map(|place| chosen(place).and_then(|it| it.decoded_token.as_deref()).unwrap_or(""))
            .collect();
        let broken = |place: usize, what: &str, of_answer: &str| {
            Unusable::Broken(format!("{what} at token {} of {} that were read{of_answer}", place + 1, ids.len()))
        };
        let Some(start) = start_of(text, &pieces) else {
            // It may be one of the answer's own tokens that is not told.
            let untold = (1..ids.len()).rev().find(|place| chosen(*place).is_none());
            let what = untold.and_then(|place| Some((place, sound(read[place].as_ref(), ids[place]).err()?)));
            return what.map_or(Ok(Vec::new()), |(place, what)| Err(broken(place, &what, "")));
        };
        let position = |place: usize| {
            // Nothing comes before the first token of all: of that alone nobody can say how probable it is.
            if let (1.., Err(what)) = (place, sound(read[place].as_ref(), ids[place])) {
                return Err(broken(place, &what, &format!(", {} of the answer", place - start + 1)));
            }
            let mut top: Vec<Candidate> =
                read[place].iter().flatten().map(|(id, told)| self.candidate(*id, told)).collect();
            top.sort_by(|a, b| b.log_prob.total_cmp(&a.log_prob).then(a.id.cmp(&b.id)));
            top.truncate(most);
            let nothing = LogProb { logprob: None, decoded_token: None };
            Ok(TokenLogProbs { chosen: self.candidate(ids[place], chosen(place).unwrap_or(&nothing)), top })
        };
        (start..ids.len()).map(position).collect()
    }

    /// A token by its id, or by its text where ids are not wanted; see [`super::log_probs`].
    fn candidate(&self, id: u32, told: &LogProb) -> Candidate {
        let log_prob = told.logprob.map_or(f32::MIN, |value| (value as f32).max(f32::MIN));
        match self.dialect.ids() {
            Some(_) => Candidate { id: Some(id), bytes: Vec::new(), log_prob },
            None => {
                let bytes = told.decoded_token.clone().unwrap_or_default().into_bytes();
                Candidate { id: None, bytes, log_prob }
            }
        }
    }
}

/// Whether what a server tells of a position can be a distribution's, with the token that stands there.
fn sound(told: Option<&Read>, token: u32) -> Result<(), String> {
    let told = told.ok_or("there is null in place of log-probabilities")?;
    if !told.contains_key(&token) {
        return Err(format!("there is no log-probability of the token that stands there (id {token})"));
    }
    for (id, LogProb { logprob, .. }) in told {
        match logprob {
            None => return Err(format!("a log-probability is null (of the token with id {id})")),
            Some(value) if *value > ROUNDING => {
                return Err(format!("a log-probability is positive ({value}, of the token with id {id})"));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// The token with which a text begins that ends where the tokens end; none where one token holds its beginning and what
/// comes before it, or where they are not its end.
///
/// White space is passed over, because some tokenizers decode a token alone without the space before it. Tokens that are no
/// whole characters (U+FFFD) may stand for any: the next whole one tells how far they went.
fn start_of(text: &str, pieces: &[&str]) -> Option<usize> {
    let mut wanted = text.chars().rev().filter(|character| !character.is_whitespace()).peekable();
    wanted.peek()?;
    let mut lossy = false;
    for (place, piece) in pieces.iter().enumerate().rev() {
        for character in piece.chars().rev().filter(|character| !character.is_whitespace()) {
            if character == char::REPLACEMENT_CHARACTER {
                lossy = true;
                continue;
            }
            if lossy {
                // Whatever the pieces of characters were.
                while wanted.peek().is_some_and(|next| *next != character) {
                    wanted.next();
                }
                lossy = false;
            }
            if wanted.next() != Some(character) {
                return None;
            }
        }
        if wanted.peek().is_none() {
            return Some(place);
        }
    }
    None
}

#[cfg(test)]
mod tests;
