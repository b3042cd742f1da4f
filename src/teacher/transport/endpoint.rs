//! One exchange with a server: a body goes, a body comes, and every way in which that fails has its class and words.

mod files;
mod refusal;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Client, StatusCode, Url};
use stillhouse_stage::{Class, Failure};

use super::allowance::{self, Allowance};
use super::budget::Cost;
use super::retry::{Fault, Health, retry_after};
use crate::provider::api::Auth;
use crate::reply::Reply;
use crate::secret::ApiKey;

pub use self::files::Download;
use self::refusal::Refusal;

/// What is quoted of a server's words.
const QUOTED: usize = 300;
/// What is read of a refusal: more than any server has to say about it.
const REFUSAL_BYTES: usize = 1 << 20;

/// What an endpoint is made of.
#[derive(Clone, Debug)]
pub struct Address {
    /// The teacher's name in the file.
    pub teacher: String,
    /// As written; ends before `/chat/completions`.
    pub base_url: Url,
    /// The environment variable that holds the key, if there is one.
    pub key_variable: Option<String>,
    /// How the key is sent.
    pub auth: Auth,
}

impl Address {
    /// `teacher smollm2 at http://127.0.0.1:8080/v1`, without user and password if the URL has them.
    #[must_use]
    pub fn label(&self) -> String {
        let mut url = self.base_url.clone();
        _ = url.set_username("");
        _ = url.set_password(None);
        url.set_query(None);
        format!("teacher {} at {}", self.teacher, url.as_str().trim_end_matches('/'))
    }
}

/// What a server sent back.
#[derive(Debug)]
pub struct Answer {
    /// The body.
    pub body: Vec<u8>,
    /// What it said it would still take.
    pub allowances: Vec<Allowance>,
}

/// A server that is asked.
#[derive(Debug)]
pub struct Endpoint {
    address: Address,
    label: String,
    key: Option<ApiKey>,
    client: Client,
    reached: AtomicBool,
}

impl Endpoint {
    /// Makes ready to ask; sends nothing. `key` is the content of the address's variable.
    ///
    /// # Errors
    /// If the variable is empty or cannot be sent, or the system refuses to make an HTTP client.
    pub fn new(address: Address, key: Option<String>, limits: &super::Limits) -> Result<Self, Failure> {
        let label = address.label();
        let variable = address.key_variable.as_deref();
        let key = match (variable, key) {
            (None, _) => None,
            (Some(variable), key) => Some(key.as_deref().and_then(ApiKey::new).ok_or_else(|| {
                Failure::input(format!("{label} needs a key, but the environment variable {variable} is not set"))
                    .hint(format!("`export {variable}=…`, or remove `api-key-env` if the server wants no key"))
            })?),
        };
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let (name, also) = match address.auth {
            Auth::Bearer => (AUTHORIZATION, [].as_slice()),
            Auth::Header { key, also } => (HeaderName::from_static(key), also),
        };
        if let Some(key) = &key {
            let value = if address.auth == Auth::Bearer { key.bearer() } else { key.alone() };
            let value = value.map_err(|_| {
                Failure::input(format!(
                    "the key in {} holds characters that cannot be sent",
                    variable.unwrap_or_default()
                ))
                .hint("it should be one line of plain characters: was it copied whole?")
            })?;
            headers.insert(name, value);
        }
        for (name, value) in also {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let client = Client::builder()
            .default_headers(headers)
            .user_agent(concat!("stillhouse/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(limits.timeout.min(Duration::from_secs(20)))
            .timeout(limits.timeout)
            .pool_max_idle_per_host(limits.concurrency)
            // A redirected POST becomes a GET and may carry the key elsewhere: it is reported instead.
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| Failure::internal(format!("no HTTP client: {}", error.without_url())))?;
        Ok(Self { address, label, key, client, reached: AtomicBool::new(false) })
    }

    /// What messages call it.
    #[must_use]
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Takes the key out of a reply; `true` if it was there.
    pub fn mask(&self, reply: &mut Reply) -> bool {
        self.key.as_ref().is_some_and(|key| key.mask(reply))
    }

    /// The environment variable that holds the key, if there is one.
    #[must_use]
    pub fn key_variable(&self) -> Option<&str> {
        self.address.key_variable.as_deref()
    }

    /// Sends a body to a path below the base URL and brings the answer's, which has `most` bytes at the most.
    ///
    /// # Errors
    /// A [`Fault`] by class, and what the request may have cost all the same. No message holds the key.
    pub async fn post(&self, path: &str, body: Vec<u8>, most: usize) -> Result<Answer, (Fault, Cost)> {
        let mut url = self.address.base_url.clone();
        url.set_path(&format!("{}/{path}", url.path().trim_end_matches('/')));
        let mut response = self.client.post(url).body(body).send().await.map_err(|error| self.unanswered(error))?;
        self.reached.store(true, Ordering::Relaxed);
        let status = response.status();
        let now = Timestamp::now();
        let allowances = allowance::all(response.headers(), now);
        let asked = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let asked = asked.and_then(|value| retry_after(value, now));
        // A server that does not say it in the one header may say it in another.
        let asked = asked
            .or_else(|| allowances.iter().map(|allowance| allowance.wait(1.0)).max().filter(|wait| !wait.is_zero()));
        if !status.is_success() {
            let (body, _) = receive(&mut response, REFUSAL_BYTES).await;
            return Err((self.refused(status, asked, &body), cost_of(status)));
        }
        match receive(&mut response, most).await {
            (body, End::Whole) => Ok(Answer { body, allowances }),
            (_, End::Broken(error)) => {
                let why = self.quote(&reason(error));
                Err((Fault::transient(format!("the reply broke off ({why})")), Cost::Unknown))
            }
            (_, End::TooLong) => {
                let what = format!("the reply is longer than {} MiB", most >> 20);
                Err((Fault::Garbled { what }, Cost::Unknown))
            }
        }
    }

    /// The text without the key, in one line, and not too long.
    #[must_use]
    pub fn quote(&self, text: &str) -> String {
        let scrub = |text: &str| self.key.as_ref().map_or_else(|| text.to_owned(), |key| key.scrub(text));
        let line = scrub(text).split_whitespace().collect::<Vec<_>>().join(" ");
        // Once more: what stood between the pieces of a key is gone now.
        let clean = scrub(&line.chars().filter(|character| !character.is_control()).collect::<String>());
        let visible: String = clean.chars().take(QUOTED).collect();
        if clean.chars().count() > QUOTED { format!("{visible}…") } else { visible }
    }

    /// Why nothing came back. What failed while connecting (no such host, refused, no TLS) was never sent and costs nothing.
    fn unanswered(&self, error: reqwest::Error) -> (Fault, Cost) {
        let connecting = error.is_connect();
        let cost = if connecting { Cost::Nothing } else { Cost::Unknown };
        if error.is_timeout() && !connecting {
            return (Fault::transient("no answer within the timeout"), cost);
        }
        let why = self.quote(&reason(error));
        // A server that answered before is being restarted; one that never did is not there.
        if connecting && !self.reached.load(Ordering::Relaxed) {
            let failure = Failure::new(Class::Teacher, format!("{} cannot be reached ({why})", self.label))
                .hint("is the server running, and is `base-url` its address?");
            return (Fault::Permanent(failure), cost);
        }
        let health = if connecting { Health::Away } else { Health::Unwell };
        (Fault::Transient { what: why, retry_after: None, health, busy: false }, cost)
    }

    /// What a status other than success means, with the body that came with it.
    pub(crate) fn refused(&self, status: StatusCode, asked: Option<Duration>, body: &[u8]) -> Fault {
        let refusal = Refusal::read(body);
        let words = self.quote(&refusal.words());
        let code = status.as_u16();
        let said = if words.is_empty() { String::new() } else { format!(": {words}") };
        let failure = |message: String, hint: &str| {
            Fault::Permanent(Failure::new(Class::Teacher, format!("{} {message}{said}", self.label)).hint(hint))
        };
        let rejected = |hint: &str| {
            let message = format!("{} rejected a request ({code}){said}", self.label);
            Fault::Rejected {
                failure: Failure::new(Class::Teacher, message).hint(hint),
                words: format!("{code}{said}"),
            }
        };
        let variable = self.address.key_variable.as_deref();
        match code {
            401 | 403 => match variable {
                Some(variable) => failure(
                    format!("refused the key in {variable} ({code})"),
                    &format!("is {variable} set to a key of this server, for this model?"),
                ),
                None => failure(
                    format!("wants a key ({code})"),
                    "put the key into an environment variable and name it: `api-key-env = \"TEACHER_API_KEY\"`",
                ),
            },
            404 | 405 => failure(
                format!("knows no such path or model ({code})"),
                "`base-url` usually ends in `/v1`; does the server have the `model`?",
            ),
            402 => failure(format!("wants to be paid first ({code})"), "add credit with the provider, then run again"),
            429 if refusal.says("insufficient_quota") || refusal.says("exceeded your current quota") => failure(
                format!("says that the quota is used up ({code})"),
                "add credit with the provider, then run again",
            ),
            400 if refusal.says("credit balance is too low") => failure(
                format!("says that the credit is used up ({code})"),
                "add credit with the provider, then run again",
            ),
            // llama.cpp says so of a text that is longer than its batch: it will be no shorter next time.
            500 if refusal.says("too large to process") => rejected(
                "the server takes no text of this length at once: start it with a larger batch (llama.cpp: `--ubatch-size`)",
            ),
            501 => failure(
                format!("does not do this ({code})"),
                "is the server started for it (llama.cpp makes embeddings with `--embeddings`), and has it the `model`?",
            ),
            408 | 409 | 425 | 429 | 500 | 502.. => {
                // 529 is Anthropic's "overloaded": busy, as 429 says it.
                let health = if code >= 500 && code != 529 { Health::Unwell } else { Health::Well };
                let (what, busy) = (format!("the server answered {code}{said}"), matches!(code, 429 | 529));
                Fault::Transient { what, retry_after: asked, health, busy }
            }
            400 if refusal.is_filtered => Fault::Filtered { words: format!("{code}{said}") },
            300..=399 => failure(format!("has moved ({code})"), "set `base-url` to the new address"),
            _ if refusal.says("context") && (refusal.says("exceed") || refusal.says("maximum")) => rejected(
                "the prompt is longer than the teacher's context: leave it out, shorten it, or lower `max-tokens`",
            ),
            _ => rejected(
                "does the server know all that is asked for (`sampling`, `capture`)? `strict = true` in the teacher sends \
                 only what OpenAI's own API has",
            ),
        }
    }
}

/// What a request cost that was answered with a status other than success. A refusal (a status below 500, and 503 or 529,
/// which say that the server is too busy to begin) is given before any work; other faults of a server or of a gateway in
/// front of it may come in the middle of it.
fn cost_of(status: StatusCode) -> Cost {
    match status.as_u16() {
        503 | 529 => Cost::Nothing,
        500.. => Cost::Unknown,
        _ => Cost::Nothing,
    }
}

/// How a body ended.
enum End {
    Whole,
    Broken(reqwest::Error),
    TooLong,
}

/// A body piece by piece, so that one without an end does not fill the memory.
async fn receive(response: &mut reqwest::Response, most: usize) -> (Vec<u8>, End) {
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(piece)) if body.len() + piece.len() > most => return (body, End::TooLong),
            Ok(Some(piece)) => body.extend_from_slice(&piece),
            Ok(None) => return (body, End::Whole),
            Err(error) => return (body, End::Broken(error)),
        }
    }
}

/// The innermost cause in the system's words, without the URL (which may hold a password).
fn reason(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut innermost: &dyn std::error::Error = &error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
