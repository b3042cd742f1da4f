//! Asks a server for a chat completion until there is one, within the teacher's limits.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use stillhouse_stage::{Class, Failure};
use tokio_util::sync::CancellationToken;

use super::wire::{self, Body, Unusable};
use crate::reply::Reply;
use crate::request::Request;
use crate::transport::budget::UsedUp;
use crate::transport::{Cost, Endpoint, Fault, Governor, Limits, Waiting, retry};

/// The longest reply without log-probabilities, in bytes: far more than any teacher says, far less than the memory.
const MOST_BYTES: usize = 64 << 20;
/// With them: what the store takes. A whole vocabulary at each position is large.
const MOST_BYTES_CAPTURED: usize = u32::MAX as usize;

/// Why a request has no reply.
#[derive(Clone, Debug, PartialEq)]
pub struct Unanswered {
    /// As the user shall read it.
    pub failure: Failure,
    /// Whether the server refused this very request, so that it matters which one it was.
    pub rejected: bool,
}

impl From<Failure> for Unanswered {
    fn from(failure: Failure) -> Self {
        Self { failure, rejected: false }
    }
}

/// A teacher behind a server.
#[derive(Debug)]
pub struct Chat {
    /// The server.
    pub endpoint: Endpoint,
    /// Its limits, shared with other stages that ask it.
    pub governor: Arc<Governor>,
    /// The model's name as the server knows it.
    pub model: String,
    /// Send only what OpenAI's own API has.
    pub strict: bool,
    /// Attempts at one request.
    pub attempts: u32,
    /// The longest that the server may ask to be left alone.
    pub max_wait: Duration,
    waiting: Arc<Waiting>,
    masked: AtomicU64,
}

impl Chat {
    /// A teacher that is asked for `model` at `endpoint`, within `limits`.
    #[must_use]
    pub fn new(endpoint: Endpoint, governor: Arc<Governor>, model: String, strict: bool, limits: &Limits) -> Self {
        Self {
            endpoint,
            governor,
            model,
            strict,
            attempts: limits.attempts,
            max_wait: limits.max_wait,
            waiting: Arc::default(),
            masked: AtomicU64::new(0),
        }
    }

    /// What requests wait for, if it is time to say so.
    #[must_use]
    pub fn news(&self) -> Option<String> {
        self.waiting.news()
    }

    /// Replies that repeated the key, which was taken out of them.
    #[must_use]
    pub fn masked(&self) -> u64 {
        self.masked.load(Ordering::Relaxed)
    }

    /// Asks, and tries again what is worth it. Once `closing` is cancelled nothing more is sent; what is on its way is
    /// brought home.
    ///
    /// # Errors
    /// [`Unanswered`], with a [`Failure`] that names the teacher: of class [`Class::Budget`] where the budget has no room, of class
    /// [`Class::Interrupted`] where it was not sent because of `closing`.
    pub async fn ask(&self, request: &Request, closing: &CancellationToken) -> Result<Reply, Unanswered> {
        let estimate = wire::estimate(request);
        let mut place = self.waiting.place();
        let mut attempt = 1;
        loop {
            let mut pass = tokio::select! {
                biased;
                () = closing.cancelled() => return Err(Failure::interrupted().into()),
                pass = self.governor.enter(estimate) => pass.map_err(|used_up| self.stop(used_up))?,
            };
            // Made when its turn has come: thousands of requests stand in line.
            let body = serde_json::to_vec(&Body::of(request, &self.model, self.strict))
                .map_err(|error| Failure::internal(format!("a request cannot be written: {error}")))?;
            let random = spread(&body, attempt);
            pass.send();
            let fault = match self.exchange(body, request).await {
                Ok(reply) => {
                    pass.settle(Cost::Counted(reply.usage));
                    return Ok(reply);
                }
                Err((fault, cost)) => {
                    pass.settle(cost);
                    fault
                }
            };
            let (what, asked, garbled) = match fault {
                Fault::Permanent(failure) => return Err(failure.into()),
                Fault::Rejected(failure) => return Err(Unanswered { failure, rejected: true }),
                Fault::Transient { what, retry_after } => (what, retry_after, false),
                Fault::Garbled { what } => (what, None, true),
            };
            if let Some(asked) = asked.filter(|asked| *asked > self.max_wait) {
                return Err(self.asked_too_much(&what, asked).into());
            }
            if attempt >= self.attempts {
                return Err(self.give_up(attempt, &what, garbled).into());
            }
            if let Some(asked) = asked {
                self.governor.pause(asked);
            }
            let pause = retry::wait(attempt, asked, random);
            tracing::debug!(teacher = self.endpoint.label(), attempt, %what, ?pause, "asking again");
            place.failed(&what, attempt, self.attempts, pause);
            tokio::select! {
                () = closing.cancelled() => return Err(Failure::interrupted().into()),
                () = tokio::time::sleep(pause) => {}
            }
            attempt += 1;
        }
    }

    async fn exchange(&self, body: Vec<u8>, request: &Request) -> Result<Reply, (Fault, Cost)> {
        let most = if request.capture.is_some() { MOST_BYTES_CAPTURED } else { MOST_BYTES };
        let answer = self.endpoint.post("chat/completions", body, most).await?;
        let mut reply = wire::parse(&answer, request).map_err(|unusable| {
            let fault = match unusable {
                Unusable::Broken(what) => Fault::Garbled { what: self.endpoint.quote(&what) },
                Unusable::NoLogProbs => Fault::Permanent(
                    Failure::new(Class::Teacher, format!("{} gives no log-probabilities", self.endpoint.label()))
                        .hint("remove `capture`, or ask a server that has them (llama.cpp, vLLM, OpenAI)"),
                ),
            };
            (fault, wire::usage(&answer).map_or(Cost::Unknown, Cost::Counted))
        })?;
        if self.endpoint.mask(&mut reply) {
            self.masked.fetch_add(1, Ordering::Relaxed);
        }
        Ok(reply)
    }

    fn stop(&self, UsedUp { cap, spent }: UsedUp) -> Failure {
        Failure::new(
            Class::Budget,
            format!("{}: the budget of ${cap} has no room for the next request (${spent:.4} spent)", self.endpoint.label()),
        )
        .hint("what was paid for is kept: run again to go on, with a larger `limits.budget-usd` if one run shall do it all")
    }

    fn asked_too_much(&self, what: &str, asked: Duration) -> Failure {
        let (label, asked, most) = (self.endpoint.label(), asked.as_secs(), self.max_wait.as_secs_f64());
        Failure::new(
            Class::Teacher,
            format!("{label} asks to be left alone for {asked} s, more than the {most} s that are waited: {what}"),
        )
        .hint("what was answered is kept: run again when that time is over, or raise `limits.max-wait-seconds`")
    }

    fn give_up(&self, attempts: u32, what: &str, garbled: bool) -> Failure {
        let hint = if garbled {
            "is `base-url` the address of a chat API (it usually ends in `/v1`), with no proxy that breaks replies? what \
             was answered is kept"
        } else {
            "what was answered is kept: run again when the server is well, or raise `limits.attempts`"
        };
        Failure::new(Class::Teacher, format!("{} gave no reply in {attempts} attempts: {what}", self.endpoint.label()))
            .hint(hint)
    }
}

/// A number from 0 to 1 that differs from request to request and from attempt to attempt.
fn spread(body: &[u8], attempt: u32) -> f64 {
    let hash = blake3::Hasher::new().update(body).update(&attempt.to_le_bytes()).finalize();
    f64::from(hash.as_bytes()[0]) / 255.0
}
