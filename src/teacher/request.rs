//! A question to a teacher, and the key under which its answer is kept.

use std::borrow::Cow;

use stillhouse_data::answer::Outcome;
use stillhouse_data::prompt::{ImageUrl, Message, Part};
use stillhouse_spec::Canonical;

use crate::replies::RequestKey;

/// What a teacher *is*: all of it is in a request's key, and names the folder of its replies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// What the API makes of a request: `openai-chat`, `local`.
    pub family: &'static str,
    /// The model as it is asked for; a local one's digest.
    pub model: String,
    /// The revision that the user gave, for what the name does not say.
    pub revision: Option<String>,
}

impl Identity {
    /// The name of the teacher's folder of replies: readable, and different for every identity.
    #[must_use]
    pub fn folder(&self) -> String {
        let text = Canonical::object([
            ("family", Canonical::from(self.family)),
            ("model", Canonical::from(self.model.as_str())),
            ("revision", optional(self.revision.as_deref())),
        ]);
        let hash = blake3::hash(text.text().as_bytes());
        let readable: String = self
            .model
            .chars()
            .map(|character| if character.is_ascii_alphanumeric() { character.to_ascii_lowercase() } else { '-' })
            .take(40)
            .collect();
        format!("{}-{readable}-{}", self.family, &hash.to_hex()[..12])
    }
}

/// How the reply's tokens are drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// 0 takes the most probable token.
    pub temperature: f64,
    /// The smallest set of tokens with this much probability; 1 is all.
    pub top_p: f64,
    /// The most probable tokens; `None` is all.
    pub top_k: Option<u32>,
    /// Longest reply, in tokens. Not in the key: see [`crate::replies::Limit`].
    pub max_tokens: u32,
    /// Texts that end the reply and are no part of it.
    pub stop: Vec<String>,
}

/// Which of a token's alternatives are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capture {
    /// The k most probable.
    TopK(u32),
    /// All of them.
    Full,
}

/// An answer that somebody gave already, to be scored and not to be answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Given {
    /// The answer.
    pub text: String,
    /// Why it ended, in the words of whoever gave it.
    pub finish: String,
    /// What kind of answer it is.
    pub outcome: Outcome,
}

impl Given {
    /// Whether it ends of itself.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.outcome.is_whole()
    }
}

/// One question.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// The conversation to continue.
    pub messages: Vec<Message>,
    /// How.
    pub sampling: Sampling,
    /// Log-probabilities to bring along.
    pub capture: Option<Capture>,
    /// Which of several answers to the same prompt.
    pub sample: u32,
    /// How often it was asked before because its reply was not wanted; in the key where it is not 0.
    pub attempt: u32,
    /// Seed of the drawing; `None` where nothing is drawn (temperature 0).
    pub seed: Option<u32>,
    /// The answer whose log-probabilities are asked for; in the key where there is one.
    pub given: Option<Given>,
}

impl Request {
    /// What the teacher reads: the conversation, with a given answer as its last words.
    #[must_use]
    pub fn conversation(&self) -> Cow<'_, [Message]> {
        let Some(Given { text, .. }) = &self.given else { return Cow::Borrowed(&self.messages) };
        let mut messages = self.messages.clone();
        match messages.last_mut() {
            // Words that were put into the teacher's mouth are gone on with.
            Some(last) if last.role == "assistant" && last.parts.is_empty() => last.content.push_str(text),
            _ => messages.push(Message { role: "assistant".to_owned(), content: text.clone(), parts: Vec::new() }),
        }
        Cow::Owned(messages)
    }

    /// The same once more, because its reply is not wanted as it is: with a seed of its own, and so a key of its own.
    #[must_use]
    pub fn again(&self) -> Self {
        let attempt = self.attempt + 1;
        Self { attempt, seed: self.seed.map(|seed| seed_of_attempt(seed, attempt)), ..self.clone() }
    }

    /// The request's key: blake3 of `stillhouse/request/1\0` and the canonical JSON of
    /// `{capture, family, messages, model, revision, sample, sampling, seed}`, `attempt` where it is not 0, and `given` where an answer is scored. `max-tokens` is not in it. Whatever is added
    /// to a request later is left out where it says what was true before, so that no old key moves.
    #[must_use]
    pub fn key(&self, teacher: &Identity) -> RequestKey {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"stillhouse/request/1\0");
        hasher.update(self.canonical(teacher).text().as_bytes());
        RequestKey(*hasher.finalize().as_bytes())
    }

    fn canonical(&self, teacher: &Identity) -> Canonical {
        let messages = self.messages.iter().map(|Message { role, content, parts }| {
            let text = [("content", Canonical::from(content.as_str())), ("role", Canonical::from(role.as_str()))];
            let images =
                (!parts.is_empty()).then(|| ("parts", Canonical::Array(parts.iter().map(canonical_part).collect())));
            Canonical::object(text.into_iter().chain(images))
        });
        let Sampling { temperature, top_p, top_k, max_tokens: _, stop } = &self.sampling;
        let sampling = Canonical::object([
            ("stop", Canonical::Array(stop.iter().map(|text| text.as_str().into()).collect())),
            ("temperature", Canonical::Float(*temperature)),
            ("top-k", top_k.map_or(Canonical::Null, Canonical::from)),
            ("top-p", Canonical::Float(*top_p)),
        ]);
        let capture = match self.capture {
            None => Canonical::Null,
            Some(Capture::TopK(k)) => Canonical::object([("top-k", Canonical::from(k))]),
            Some(Capture::Full) => Canonical::from("full"),
        };
        let attempt = (self.attempt > 0).then(|| ("attempt", self.attempt.into()));
        let given = self.given.as_ref().map(|Given { text, finish, outcome }| {
            let members = [("finish", finish.as_str()), ("outcome", outcome.name()), ("text", text.as_str())];
            ("given", Canonical::object(members.map(|(name, value)| (name, Canonical::from(value)))))
        });
        Canonical::object(attempt.into_iter().chain(given).chain([
            ("capture", capture),
            ("family", teacher.family.into()),
            ("messages", Canonical::Array(messages.collect())),
            ("model", teacher.model.as_str().into()),
            ("revision", optional(teacher.revision.as_deref())),
            ("sample", self.sample.into()),
            ("sampling", sampling),
            ("seed", self.seed.map_or(Canonical::Null, Canonical::from)),
        ]))
    }
}

/// The seed of one answer: a function of the experiment's seed, the prompt's content and the sample's number, so that it
/// does not depend on what else is asked. 31 bits, which every server takes.
#[must_use]
pub fn seed_of(seed: u64, prompt: &str, sample: u32) -> u32 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"stillhouse/sample-seed/1\0");
    hasher.update(&seed.to_le_bytes());
    hasher.update(&sample.to_le_bytes());
    hasher.update(prompt.as_bytes());
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&hasher.finalize().as_bytes()[..4]);
    u32::from_le_bytes(bytes) >> 1
}

/// The seed of a request that is asked again, from the seed of the one before.
#[must_use]
fn seed_of_attempt(before: u32, attempt: u32) -> u32 {
    seed_of(before.into(), "attempt", attempt)
}

/// A text as it is; an image as `{detail, url}`.
fn canonical_part(part: &Part) -> Canonical {
    match part {
        Part::Text { text } => Canonical::from(text.as_str()),
        Part::ImageUrl { image_url: ImageUrl { url, detail } } => {
            Canonical::object([("detail", optional(detail.as_deref())), ("url", Canonical::from(url.as_str()))])
        }
    }
}

fn optional(text: Option<&str>) -> Canonical {
    text.map_or(Canonical::Null, Canonical::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn teacher() -> Identity {
        Identity { family: "openai-chat", model: "smollm2-135m-instruct".to_owned(), revision: None }
    }

    fn image(url: &str) -> Vec<Part> {
        vec![Part::ImageUrl { image_url: ImageUrl { url: url.to_owned(), detail: None } }]
    }

    fn given(text: &str, outcome: Outcome) -> Given {
        Given { text: text.to_owned(), finish: "stop".to_owned(), outcome }
    }

    fn request() -> Request {
        Request {
            messages: vec![Message::system("Be short."), Message::user("Why is the sky blue?")],
            sampling: Sampling { temperature: 0.7, top_p: 1.0, top_k: None, max_tokens: 256, stop: vec![] },
            capture: Some(Capture::TopK(64)),
            sample: 0,
            attempt: 0,
            seed: Some(1234),
            given: None,
        }
    }

    #[test]
    fn the_hashed_text_and_the_key_are_pinned() {
        assert_eq!(
            request().canonical(&teacher()).text(),
            r#"{"capture":{"top-k":64},"family":"openai-chat","messages":[{"content":"Be short.","role":"system"},{"content":"Why is the sky blue?","role":"user"}],"model":"smollm2-135m-instruct","revision":null,"sample":0,"sampling":{"stop":[],"temperature":0.7,"top-k":null,"top-p":1.0},"seed":1234}"#
        );
        assert_eq!(
            request().key(&teacher()).to_string(),
            "e7fef08100f370682ab084c05a0cd01ea1c91642ea368b7557b0890b41889d87"
        );
        assert_eq!(teacher().folder(), "openai-chat-smollm2-135m-instruct-2277e55eac4d");
        assert_eq!(seed_of(17, "00ff00ff00ff00ff", 3), 1_424_331_792);
    }

    #[test]
    fn everything_but_max_tokens_moves_the_key() {
        let base = request().key(&teacher());
        let with = |change: &dyn Fn(&mut Request)| {
            let mut changed = request();
            change(&mut changed);
            changed.key(&teacher())
        };
        assert_eq!(with(&|r| r.sampling.max_tokens = 1), base);
        let moved = [
            with(&|r| r.messages[0].content.push('!')),
            with(&|r| r.messages[0].role = "user".to_owned()),
            with(&|r| r.messages.truncate(1)),
            with(&|r| r.messages[1].parts = image("a")),
            with(&|r| r.messages[1].parts = image("b")),
            with(&|r| r.sampling.temperature = 0.8),
            with(&|r| r.sampling.top_p = 0.9),
            with(&|r| r.sampling.top_k = Some(40)),
            with(&|r| r.sampling.stop = vec!["\n".to_owned()]),
            with(&|r| r.capture = None),
            with(&|r| r.capture = Some(Capture::Full)),
            with(&|r| r.sample = 1),
            with(&|r| r.attempt = 1),
            with(&|r| r.seed = None),
            with(&|r| r.given = Some(given("a", Outcome::Ok))),
            with(&|r| r.given = Some(given("b", Outcome::Ok))),
            with(&|r| r.given = Some(given("a", Outcome::Cut))),
            request().key(&Identity { family: "local", ..teacher() }),
            request().key(&Identity { model: "other".to_owned(), ..teacher() }),
            request().key(&Identity { revision: Some("q4".to_owned()), ..teacher() }),
        ];
        let mut all: Vec<_> = moved.into_iter().chain([base]).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 21);
    }
}
