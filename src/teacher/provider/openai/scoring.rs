//! A given answer as a vLLM server scores it. The answer is sent as the end of what the server reads: it tells the
//! log-probabilities of what it reads (`prompt_logprobs`), token by token, and writes one token more, whose
//! log-probabilities are those of where the answer ends.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};

use super::chat::{Dialect, Tokens};
use super::completions::prompt_text;
use super::log_probs::LogProbs;
use super::message::WireMessage;
use super::settings::ApiConfig;
use crate::provider::api::{Api, Unusable, not_empty};
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
    #[serde(default)]
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

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    logprobs: Option<LogProbs>,
    #[serde(default)]
    prompt_logprobs: Option<Vec<Option<Read>>>,
    #[serde(default)]
    prompt_token_ids: Option<Vec<u32>>,
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
        not_empty(body)?;
        let scored: Scored = serde_json::from_slice(body).map_err(|error| Unusable::not_valid(body, &error))?;
        if let (true, Some(error)) = (scored.choices.is_empty(), scored.error.filter(|error| !error.is_null())) {
            return Err(Unusable::passed_on(&error));
        }
        let Some(choice) = scored.choices.into_iter().next() else {
            return Err(Unusable::Broken("the reply has no choices".to_owned()));
        };
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
mod tests {
    use stillhouse_data::answer::Outcome;
    use stillhouse_data::prompt::Message;

    use super::*;
    use crate::request::Sampling;

    #[test]
    fn an_answer_begins_with_the_token_that_begins_it() {
        let template = ["<|im_start|>", "user", "\n", "one?", "<|im_end|>", "\n", "<|im_start|>", "assistant", "\n"];
        let of = |answer: &[&str], text: &str| {
            let pieces: Vec<&str> = template.iter().chain(answer).copied().collect();
            start_of(text, &pieces).map(|start| start - template.len())
        };
        assert_eq!(of(&["It", " is", " one", "."], "It is one."), Some(0));
        // As some tokenizers decode tokens alone.
        assert_eq!(of(&["It", "is", "one", "."], "It is one."), Some(0));
        assert_eq!(of(&["\u{fffd}", "\u{fffd}", " naïve"], "😀 naïve"), None, "it may begin anywhere");
        assert_eq!(of(&["a ", "\u{fffd}", "\u{fffd}", "b"], "a 😀b"), Some(0));
        assert_eq!(of(&["It", " is"], "It was"), None);
        assert_eq!(start_of("one", &["no", "ne"]), None, "one token holds its beginning and more");
        assert_eq!((start_of("", &["a"]), start_of("x", &[])), (None, None));
    }

    fn api(api: ApiConfig, ids: bool) -> ScoringApi {
        #[derive(Debug)]
        struct Nobody;
        impl Api for Nobody {
            fn path(&self) -> &'static str {
                "chat/completions"
            }
            fn body(&self, _: &Request) -> serde_json::Result<Vec<u8>> {
                Ok(b"asked".to_vec())
            }
            fn parse(&self, _: &[u8], _: &Request) -> Result<Reply, Unusable> {
                Err(Unusable::NoLogProbs)
            }
            fn usage(&self, _: &[u8]) -> Option<Usage> {
                None
            }
        }
        ScoringApi { answering: Arc::new(Nobody), model: "m".to_owned(), api, dialect: Dialect::Vllm { ids } }
    }

    fn request(text: &str) -> Request {
        Request {
            messages: vec![Message::user("one?")],
            sampling: Sampling { temperature: 0.0, top_p: 1.0, top_k: None, max_tokens: 1, stop: vec![] },
            capture: Some(Capture::TopK(2)),
            sample: 0,
            attempt: 0,
            seed: None,
            given: Some(Given { text: text.to_owned(), finish: "given".to_owned(), outcome: Outcome::Ok }),
        }
    }

    #[test]
    fn an_answer_is_sent_as_the_end_of_what_is_read() {
        let body = |config| -> Value {
            serde_json::from_slice(&api(config, true).body(&request("It is one.")).unwrap()).unwrap()
        };
        let chat = body(ApiConfig::Chat);
        assert_eq!(chat["messages"][1], json!({ "role": "assistant", "content": "It is one." }));
        assert_eq!(
            (&chat["prompt_logprobs"], &chat["top_logprobs"], &chat["max_tokens"]),
            (&json!(2), &json!(2), &json!(1))
        );
        assert_eq!((&chat["continue_final_message"], &chat["add_generation_prompt"]), (&json!(true), &json!(false)));
        assert_eq!(body(ApiConfig::Completions)["prompt"], "one?It is one.");
        let mut prefilled = request(" is one.");
        prefilled.messages.push(Message { role: "assistant".into(), ..Message::user("It") });
        let sent: Value = serde_json::from_slice(&api(ApiConfig::Chat, true).body(&prefilled).unwrap()).unwrap();
        assert_eq!(sent["messages"].as_array().unwrap().len(), 2);
        assert_eq!(sent["messages"][1]["content"], "It is one.");
        let asked = Request { given: None, ..request("") };
        assert_eq!(api(ApiConfig::Chat, true).body(&asked).unwrap(), b"asked");
    }

    /// What the server says of `user: one? assistant: It is`, and that it would go on with token 9.
    fn said() -> Value {
        let told = |log_prob: f64, text: &str| json!({ "logprob": log_prob, "rank": 1, "decoded_token": text });
        json!({
            "model": "m-1",
            "choices": [{ "index": 0, "message": { "role": "assistant", "content": "!" }, "finish_reason": "length",
                "logprobs": { "content": [{ "token": "token_id:9", "logprob": -0.5, "bytes": [],
                    "top_logprobs": [{ "token": "token_id:9", "logprob": -0.5 }, { "token": "token_id:0", "logprob": -1.0 }] }] } }],
            "usage": { "prompt_tokens": 4, "completion_tokens": 1 },
            "prompt_logprobs": [
                null,
                { "2": told(-0.1, "one?") },
                { "5": told(-2.0, "It"), "6": told(-0.3, "One"), "7": told(-1.5, "Ah") },
                { "8": told(-0.2, " is"), "3": told(-9.0, "x") },
            ],
            "prompt_token_ids": [1, 2, 5, 8],
        })
    }

    #[test]
    fn every_token_of_the_answer_and_its_end_have_log_probabilities() {
        let reply = api(ApiConfig::Chat, true).parse(said().to_string().as_bytes(), &request("It is")).unwrap();
        assert_eq!((reply.text.as_str(), reply.finish.as_str(), reply.outcome), ("It is", "given", Outcome::Ok));
        assert_eq!((reply.model.as_str(), reply.usage), ("m-1", Usage { prompt: 4, completion: 1 }));
        let tokens = reply.tokens.unwrap();
        let ids = |candidates: &[Candidate]| candidates.iter().map(|one| one.id.unwrap()).collect::<Vec<_>>();
        assert_eq!(tokens.iter().map(|token| token.chosen.id).collect::<Vec<_>>(), [Some(5), Some(8), None]);
        // The two most probable ones were asked for; the token of the text may be none of them.
        assert_eq!((ids(&tokens[0].top), tokens[0].chosen.log_prob), (vec![6, 7], -2.0));
        assert_eq!((ids(&tokens[1].top), tokens[1].top[1].log_prob), (vec![8, 3], -9.0));
        assert_eq!((ids(&tokens[2].top), tokens[2].chosen.bytes.len()), (vec![9, 0], 0));
        let texts = api(ApiConfig::Chat, false).parse(said().to_string().as_bytes(), &request("It is")).unwrap();
        assert_eq!(texts.tokens.unwrap()[1].chosen, Candidate { id: None, bytes: b" is".to_vec(), log_prob: -0.2 });
        // The end of a text that was cut is no end.
        let mut cut = request("It is");
        cut.given.as_mut().unwrap().outcome = Outcome::Cut;
        let reply = api(ApiConfig::Chat, true).parse(said().to_string().as_bytes(), &cut).unwrap();
        assert_eq!(reply.tokens.unwrap().len(), 2);
        // Another text than the server read: nothing is known of its tokens.
        let other = api(ApiConfig::Chat, true).parse(said().to_string().as_bytes(), &request("It was")).unwrap();
        assert_eq!(other.tokens, Some(Vec::new()));
    }

    #[test]
    fn what_can_be_no_log_probability_breaks_the_reply_and_its_place_is_named() {
        let parse = |change: &dyn Fn(&mut Value)| {
            let mut body = said();
            change(&mut body);
            api(ApiConfig::Chat, true).parse(body.to_string().as_bytes(), &request("It is"))
        };
        let broken = |change: &dyn Fn(&mut Value)| match parse(change) {
            Err(Unusable::Broken(what)) => what,
            other => panic!("{other:?}"),
        };
        let place = "at token 4 of 4 that were read, 2 of the answer";
        assert_eq!(
            broken(&|body| body["prompt_logprobs"][3]["8"]["logprob"] = json!(0.5)),
            format!("a log-probability is positive (0.5, of the token with id 8) {place}")
        );
        assert_eq!(
            broken(&|body| body["prompt_logprobs"][3]["3"]["logprob"] = Value::Null),
            format!("a log-probability is null (of the token with id 3) {place}")
        );
        assert_eq!(
            broken(&|body| body["prompt_logprobs"][3] = json!({ "3": { "logprob": -0.5, "decoded_token": " is" } })),
            "there is no log-probability of the token that stands there (id 8) at token 4 of 4 that were read"
        );
        assert_eq!(
            broken(&|body| body["prompt_logprobs"][2] = Value::Null),
            "there is null in place of log-probabilities at token 3 of 4 that were read"
        );
        assert_eq!(
            broken(&|body| body["choices"][0]["logprobs"]["content"][0]["top_logprobs"][1]["logprob"] = json!(2.0)),
            "a positive log-probability (2) stands where the answer ends"
        );
        // Rounding, and what is no part of the answer.
        let well: [&dyn Fn(&mut Value); 3] = [
            &|body| body["prompt_logprobs"][3]["8"]["logprob"] = json!(1e-4),
            &|body| body["prompt_logprobs"][1]["2"]["logprob"] = json!(7.0),
            &|body| body["prompt_logprobs"][1]["2"]["logprob"] = Value::Null,
        ];
        for well in well {
            assert_eq!(parse(well).unwrap().tokens.unwrap().len(), 3);
        }
        // Of the first token of all nobody can say anything.
        let mut body = said();
        body["prompt_logprobs"] = json!([null, { "8": { "logprob": -0.2, "decoded_token": " is" } }]);
        body["prompt_token_ids"] = json!([5, 8]);
        let reply = api(ApiConfig::Completions, true).parse(body.to_string().as_bytes(), &request(" is")).unwrap();
        assert_eq!(reply.tokens.unwrap().len(), 2);
    }

    #[test]
    fn completions_tell_of_what_they_read_within_the_choice() {
        let mut body = said();
        for member in ["prompt_logprobs", "prompt_token_ids"] {
            let value = body[member].take();
            body["choices"][0][member] = value;
        }
        let reply = api(ApiConfig::Completions, true).parse(body.to_string().as_bytes(), &request("It is")).unwrap();
        assert_eq!(reply.tokens.unwrap().len(), 3);
    }

    #[test]
    fn a_server_that_scores_nothing_or_something_else_is_told() {
        let parse = |body: &Value| api(ApiConfig::Chat, true).parse(body.to_string().as_bytes(), &request("It is"));
        for member in ["prompt_logprobs", "prompt_token_ids"] {
            let mut without = said();
            without[member] = Value::Null;
            assert_eq!(parse(&without), Err(Unusable::NoLogProbs));
        }
        let mut short = said();
        short["prompt_token_ids"] = json!([1, 2]);
        assert_eq!(parse(&short), Err(Unusable::Broken("4 log-probabilities of 2 tokens".to_owned())));
        let error = parse(&json!({ "error": { "message": "no" } }));
        assert_eq!(error, Err(Unusable::Broken("the reply is an error: no".to_owned())));
        assert_eq!(parse(&json!({})), Err(Unusable::Broken("the reply has no choices".to_owned())));
    }
}
