//! A server with OpenAI's files and batches: what goes up, what state a batch is in each time it is looked at, what comes down.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};

use super::{Act, Asked};

/// What the server makes of one request of a batch.
#[derive(Clone, Debug, PartialEq)]
pub enum Line {
    /// It is answered with this text, and paid for.
    Answer(String),
    /// A status other than 200, with this body.
    Status(u16, Value),
    /// The batch runs out of time before it; it costs nothing.
    Expired,
    /// Neither of the files has a word of it.
    Missing,
}

/// Batches of others in the list.
const OTHERS: usize = 3;
/// Batches that the list gives at a time, however many are wanted.
const PAGE: usize = 2;

type Script = dyn Fn(&str, u32) -> Line + Send + Sync;

/// The states that a batch goes through, one a look.
const STATES: [&str; 3] = ["validating", "in_progress", "finalizing"];

/// The server. Give [`BatchServer::act`] to a [`super::FakeTeacher`] as its script.
pub struct BatchServer {
    script: Box<Script>,
    /// Batches that fail as a whole, from the first one on, and why.
    failing: Vec<(&'static str, &'static str)>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    files: BTreeMap<String, Vec<u8>>,
    uploads: u64,
    batches: Vec<Batch>,
    /// Prompt → how often it was in a batch.
    asked: BTreeMap<String, u32>,
    /// Prompt → how often it was paid for.
    paid: BTreeMap<String, u32>,
}

struct Batch {
    id: String,
    looks: usize,
    failure: Option<(&'static str, &'static str)>,
    expired: bool,
    total: usize,
    answered: usize,
    output: Option<String>,
    errors: Option<String>,
    metadata: Value,
}

impl BatchServer {
    /// A server that does with a prompt, in a batch for the so manieth time (from 1), what the script says.
    #[must_use]
    pub fn new(script: impl Fn(&str, u32) -> Line + Send + Sync + 'static) -> Self {
        Self { script: Box::new(script), failing: Vec::new(), state: Mutex::default() }
    }

    /// A server that answers every prompt with `answer to: ` and the prompt.
    #[must_use]
    pub fn echo() -> Self {
        Self::new(|prompt, _| Line::Answer(format!("answer to: {prompt}")))
    }

    /// The same, where the first batches fail with these codes and messages.
    #[must_use]
    pub fn failing(mut self, failing: &[(&'static str, &'static str)]) -> Self {
        self.failing = failing.to_vec();
        self
    }

    /// Files that were sent.
    #[must_use]
    pub fn uploads(&self) -> u64 {
        self.state().uploads
    }

    /// Batches that were made, and how many requests each has.
    #[must_use]
    pub fn batches(&self) -> Vec<usize> {
        self.state().batches.iter().map(|batch| batch.total).collect()
    }

    /// Replies that have to be paid for.
    #[must_use]
    pub fn paid(&self) -> u64 {
        self.state().paid.values().map(|times| u64::from(*times)).sum()
    }

    /// Prompts that were paid for more than once.
    #[must_use]
    pub fn paid_twice(&self) -> Vec<String> {
        self.state().paid.iter().filter(|(_, times)| **times > 1).map(|(prompt, _)| prompt.clone()).collect()
    }

    /// What to do with a request.
    #[must_use]
    pub fn act(&self, asked: &Asked) -> Act {
        let path = asked.path.split('?').next().unwrap_or_default().trim_start_matches("/v1/");
        let parts: Vec<&str> = path.split('/').collect();
        match (asked.method.as_str(), &parts[..]) {
            ("POST", ["files"]) => self.upload(asked),
            ("GET", ["files", file, "content"]) => match self.state().files.get(*file) {
                Some(content) => Act::ok(content.clone()),
                None => Act::status(404, r#"{"error":{"message":"no such file"}}"#),
            },
            ("POST", ["batches"]) => self.make(&asked.json()),
            ("GET", ["batches"]) => {
                // Somebody else's are the newest, and carry nothing.
                let others =
                    (0..OTHERS).map(|number| json!({ "id": format!("batch_other_{number}"), "metadata": null }));
                let list: Vec<Value> = others.chain(self.state().batches.iter().rev().map(Batch::json)).collect();
                let after = asked.path.split("after=").nth(1);
                let from = list.iter().position(|batch| batch["id"].as_str() == after).map_or(0, |place| place + 1);
                let page: Vec<&Value> = list[from..].iter().take(PAGE).collect();
                let more = from + page.len() < list.len();
                Act::ok(json!({ "object": "list", "data": page, "has_more": more }).to_string())
            }
            ("GET", ["batches", id]) => {
                let mut state = self.state();
                match state.batches.iter_mut().find(|batch| batch.id == *id) {
                    Some(batch) => {
                        batch.looks += 1;
                        Act::ok(batch.json().to_string())
                    }
                    None => Act::status(404, r#"{"error":{"message":"no such batch"}}"#),
                }
            }
            _ => Act::status(405, "{}"),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn upload(&self, asked: &Asked) -> Act {
        let Some(content) = file_of(asked) else { return Act::status(400, r#"{"error":{"message":"no file"}}"#) };
        let mut state = self.state();
        state.uploads += 1;
        let id = format!("file-in-{}", state.uploads);
        state.files.insert(id.clone(), content);
        Act::ok(json!({ "id": id, "object": "file", "purpose": "batch" }).to_string())
    }

    /// Works the whole of it off at once; only its state comes bit by bit.
    fn make(&self, body: &Value) -> Act {
        let mut state = self.state();
        let Some(content) = body["input_file_id"].as_str().and_then(|id| state.files.get(id)).cloned() else {
            return Act::status(400, r#"{"error":{"message":"no such file"}}"#);
        };
        let number = state.batches.len();
        let mut batch = Batch {
            id: format!("batch_{number}"),
            looks: 0,
            failure: self.failing.get(number).copied(),
            expired: false,
            total: 0,
            answered: 0,
            output: None,
            errors: None,
            metadata: body["metadata"].clone(),
        };
        let (mut output, mut errors) = (Vec::new(), Vec::new());
        let content = String::from_utf8_lossy(&content);
        // In another order than they came in.
        for line in content.lines().rev() {
            batch.total += 1;
            let request: Value = serde_json::from_str(line).unwrap_or_default();
            if batch.failure.is_some() || request["url"] != body["endpoint"] {
                continue;
            }
            let last = request["body"]["messages"].as_array().and_then(|messages| messages.last());
            let prompt = last.and_then(|last| last["content"].as_str()).unwrap_or_default().to_owned();
            let times = state.asked.entry(prompt.clone()).or_default();
            *times += 1;
            let name = &request["custom_id"];
            match (self.script)(&prompt, *times) {
                Line::Answer(text) => {
                    *state.paid.entry(prompt).or_default() += 1;
                    batch.answered += 1;
                    let body = completion(&text, &request["body"]);
                    output.push(
                        json!({ "custom_id": name, "response": { "status_code": 200, "body": body }, "error": null }),
                    );
                }
                Line::Status(status, body) => {
                    let response = json!({ "status_code": status, "body": body });
                    errors.push(json!({ "custom_id": name, "response": response, "error": null }));
                }
                Line::Expired => {
                    batch.expired = true;
                    let error = json!({ "code": "batch_expired", "message": "This request could not be executed." });
                    errors.push(json!({ "custom_id": name, "response": null, "error": error }));
                }
                Line::Missing => {}
            }
        }
        for (name, lines, place) in [("out", output, &mut batch.output), ("err", errors, &mut batch.errors)] {
            if !lines.is_empty() {
                let id = format!("file-{name}-{number}");
                let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
                state.files.insert(id.clone(), text.into_bytes());
                *place = Some(id);
            }
        }
        let made = batch.json();
        state.batches.push(batch);
        Act::ok(made.to_string())
    }
}

impl Batch {
    fn json(&self) -> Value {
        let (status, ended) = match (STATES.get(self.looks), self.failure, self.expired) {
            (Some(state), ..) if self.failure.is_none() || self.looks == 0 => (*state, false),
            (_, Some(_), _) => ("failed", true),
            (.., true) => ("expired", true),
            _ => ("completed", true),
        };
        let errors = self.failure.filter(|_| ended).map(
            |(code, message)| json!({ "object": "list", "data": [{ "code": code, "message": message, "line": null }] }),
        );
        json!({
            "id": self.id, "object": "batch", "status": status, "metadata": self.metadata, "created_at": 4_000_000_000_u64,
            "output_file_id": self.output.as_ref().filter(|_| ended),
            "error_file_id": self.errors.as_ref().filter(|_| ended),
            "errors": errors,
            "request_counts": {
                "total": self.total, "completed": if ended { self.answered } else { 0 },
                "failed": if ended { self.total - self.answered } else { 0 },
            },
        })
    }
}

/// The content of the one file in a form.
fn file_of(asked: &Asked) -> Option<Vec<u8>> {
    let boundary = asked.header("content-type")?.split("boundary=").nth(1)?.to_owned();
    let text = String::from_utf8_lossy(&asked.body);
    let part = text.split(&format!("--{boundary}")).find(|part| part.contains("filename="))?;
    let content = part.split_once("\r\n\r\n")?.1;
    Some(content.trim_end_matches("\r\n").as_bytes().to_vec())
}

fn completion(text: &str, asked: &Value) -> Value {
    let words = text.split_whitespace().count();
    let mut choice = json!({
        "index": 0, "finish_reason": "stop", "message": { "role": "assistant", "content": text },
    });
    if asked["logprobs"] == json!(true) {
        let token = json!({ "token": text, "logprob": -0.25 });
        choice["logprobs"] = json!({ "content": [{ "token": text, "logprob": -0.25, "top_logprobs": [token] }] });
    }
    json!({
        "id": "chatcmpl-0", "object": "chat.completion", "created": 0, "model": "fake-1", "choices": [choice],
        "usage": { "prompt_tokens": 7, "completion_tokens": words, "total_tokens": words + 7 },
    })
}
