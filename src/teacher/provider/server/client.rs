//! Asks a server until there is a reply, within the teacher's limits; which API it speaks is an [`Api`]'s business.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use stillhouse_data::prompt::Message;
use stillhouse_stage::{Class, Failure};
use tokio_util::sync::CancellationToken;

use crate::provider::api::{Api, Unusable};
use crate::reply::Reply;
use crate::request::Request;
use crate::transport::breaker::{Down, Try};
use crate::transport::budget::UsedUp;
use crate::transport::governor::Pass;
use crate::transport::{Breaker, Cap, Cost, Endpoint, Estimate, Fault, Governor, Limits, Waiting, retry};

/// Replies without the log-probabilities that were asked for, after which a server that never gave any is believed to
/// have none.
const WITHOUT: u32 = 3;
/// The longest reply without log-probabilities, in bytes: far more than any teacher says, far less than the memory.
const MOST_BYTES: usize = 64 << 20;
/// With them: what the store takes. A whole vocabulary at each position is large.
const MOST_BYTES_CAPTURED: usize = u32::MAX as usize;

/// Why a request has no reply.
#[derive(Clone, Debug, PartialEq)]
pub struct Unanswered {
    /// As the user shall read it.
    pub failure: Failure,
    /// The server's words, if it refused this very request, so that it matters which one it was.
    pub rejected: Option<String>,
}

impl From<Failure> for Unanswered {
    fn from(failure: Failure) -> Self {
        Self { failure, rejected: None }
    }
}

/// A teacher behind a server.
#[derive(Debug)]
pub struct Client {
    /// The server.
    pub endpoint: Endpoint,
    /// Its limits, shared with other stages that ask it.
    pub governor: Arc<Governor>,
    api: Arc<dyn Api>,
    limits: Limits,
    breaker: Arc<Breaker>,
    waiting: Arc<Waiting>,
    masked: AtomicU64,
    gave_log_probs: AtomicBool,
    without_log_probs: AtomicU32,
}

impl Client {
    /// A teacher that is asked through `api` at `endpoint`, within `limits`.
    #[must_use]
    pub fn new(endpoint: Endpoint, governor: Arc<Governor>, api: Arc<dyn Api>, limits: &Limits) -> Self {
        Self {
            endpoint,
            governor,
            api,
            limits: *limits,
            breaker: Breaker::new(limits.failures_in_a_row, limits.attempts),
            waiting: Arc::default(),
            masked: AtomicU64::new(0),
            gave_log_probs: AtomicBool::new(false),
            without_log_probs: AtomicU32::new(0),
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

    /// How it is talked to.
    #[must_use]
    pub fn api(&self) -> &dyn Api {
        self.api.as_ref()
    }

    /// Its limits, as its definition says them.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Asks, and tries again what is worth it. Once `closing` is cancelled nothing more is sent; what is on its way is
    /// brought home.
    ///
    /// # Errors
    /// [`Unanswered`], with a [`Failure`] that names the teacher: of class [`Class::Budget`] where the budget has no room, of class
    /// [`Class::Interrupted`] where it was not sent because of `closing`.
    pub async fn ask(&self, request: &Request, closing: &CancellationToken) -> Result<Reply, Unanswered> {
        if !self.api.takes_images() && request.messages.iter().any(Message::has_images) {
            let message = format!("{} is asked in a way that shows no images", self.endpoint.label());
            let hint = "ask a model that sees by a chat API, or take the images out";
            return Err(Failure::input(message).hint(hint).into());
        }
        let estimate = estimate(request);
        let mut place = self.waiting.place();
        let mut attempt = 1;
        loop {
            let (mut pass, turn) = tokio::select! {
                biased;
                () = closing.cancelled() => return Err(Failure::interrupted().into()),
                entered = self.enter(estimate) => entered?,
            };
            // Made when its turn has come: thousands of requests stand in line.
            let body = self
                .api
                .body(request)
                .map_err(|error| Failure::internal(format!("a request cannot be written: {error}")))?;
            let random = spread(&body, attempt);
            pass.send();
            let fault = match self.exchange(body, request).await {
                Ok(reply) => {
                    turn.answered();
                    pass.settle(Cost::Counted(reply.usage));
                    return Ok(reply);
                }
                Err((fault, cost)) => {
                    pass.settle(cost);
                    fault
                }
            };
            match &fault {
                Fault::Transient { what, unwell: true, .. } => turn.failed(what),
                // Whatever it said, it is there.
                _ => turn.answered(),
            }
            let (what, asked, garbled) = match fault {
                Fault::Permanent(failure) => return Err(failure.into()),
                Fault::Rejected { failure, words } => return Err(Unanswered { failure, rejected: Some(words) }),
                Fault::Transient { what, retry_after, .. } => (what, retry_after, false),
                Fault::Garbled { what } => (what, None, true),
            };
            if let Some(asked) = asked.filter(|asked| *asked > self.limits.max_wait) {
                return Err(self.asked_too_much(&what, asked).into());
            }
            // Where the teacher itself is in doubt, it is the breaker that gives up.
            if attempt >= self.limits.attempts && !self.breaker.is_open() {
                return Err(self.give_up(attempt, &what, garbled).into());
            }
            if let Some(asked) = asked {
                self.governor.pause(asked);
            }
            let pause = retry::wait(attempt, asked, random);
            tracing::debug!(teacher = self.endpoint.label(), attempt, %what, ?pause, "asking again");
            place.failed(&what, attempt, self.limits.attempts, pause);
            tokio::select! {
                () = closing.cancelled() => return Err(Failure::interrupted().into()),
                () = tokio::time::sleep(pause) => {}
            }
            attempt += 1;
        }
    }

    /// Waits for a place within the limits, and for a teacher that is not in doubt.
    async fn enter(&self, estimate: Estimate) -> Result<(Pass, Try), Failure> {
        let pass = self.governor.enter(estimate).await.map_err(|used_up| self.stop(used_up))?;
        let turn = self.breaker.admit().await.map_err(|down| self.down(down))?;
        Ok((pass, turn))
    }

    async fn exchange(&self, body: Vec<u8>, request: &Request) -> Result<Reply, (Fault, Cost)> {
        let most = if request.capture.is_some() { MOST_BYTES_CAPTURED } else { MOST_BYTES };
        let answer = self.endpoint.post(self.api.path(), body, most).await?;
        let read = self.read(&answer.body, request);
        let used = read.as_ref().map_or_else(|(_, used)| *used, |reply| Cost::Counted(reply.usage));
        self.governor.heed(&answer.allowances, used.tokens(estimate(request)), self.limits.max_wait);
        read
    }

    /// What the body of a successful answer says, without the key if it repeats that.
    ///
    /// # Errors
    /// If it is no reply, with what it cost all the same.
    pub fn read(&self, body: &[u8], request: &Request) -> Result<Reply, (Fault, Cost)> {
        let mut reply = self.api.parse(body, request).map_err(|unusable| {
            let used = self.api.usage(body).map_or(Cost::Unknown, Cost::Counted);
            (self.unusable(unusable), used)
        })?;
        if reply.tokens.as_ref().is_some_and(|tokens| !tokens.is_empty()) {
            self.gave_log_probs.store(true, Ordering::Relaxed);
        }
        if self.endpoint.mask(&mut reply) {
            self.masked.fetch_add(1, Ordering::Relaxed);
        }
        Ok(reply)
    }

    fn unusable(&self, unusable: Unusable) -> Fault {
        match unusable {
            Unusable::Broken(what) => Fault::Garbled { what: self.endpoint.quote(&what) },
            Unusable::NoLogProbs => {
                let without = self.without_log_probs.fetch_add(1, Ordering::Relaxed) + 1;
                if self.gave_log_probs.load(Ordering::Relaxed) || without < WITHOUT {
                    return Fault::Garbled { what: "the reply has no log-probabilities".to_owned() };
                }
                let message = format!("{} gives no log-probabilities", self.endpoint.label());
                Fault::Permanent(
                    Failure::new(Class::Teacher, message)
                        .hint("remove `capture`, or ask a server that has them (llama.cpp, vLLM, OpenAI)"),
                )
            }
        }
    }

    pub(crate) fn stop(&self, UsedUp { cap, spent }: UsedUp) -> Failure {
        let (what, key) = match cap {
            Cap::Usd(cap, _) => {
                (format!("the budget of ${cap} has no room for the next request (${spent:.4} spent)"), "budget-usd")
            }
            Cap::Tokens(cap) => {
                (format!("the budget of {cap} tokens has no room for the next request ({spent} used)"), "budget-tokens")
            }
            Cap::Requests(cap) => (format!("the budget of {cap} requests is used up"), "budget-requests"),
        };
        Failure::new(Class::Budget, format!("{}: {what}", self.endpoint.label())).hint(format!(
            "what was paid for is kept: run again to go on, with a larger `limits.{key}` if one run shall do it all"
        ))
    }

    fn down(&self, Down { failures, what }: Down) -> Failure {
        let label = self.endpoint.label();
        Failure::new(Class::Teacher, format!("{label} is down: {failures} requests in a row failed, the last: {what}"))
            .hint("what was answered is kept: run again when the server is well")
    }

    pub(crate) fn asked_too_much(&self, what: &str, asked: Duration) -> Failure {
        let (label, asked, most) = (self.endpoint.label(), asked.as_secs(), self.limits.max_wait.as_secs_f64());
        Failure::new(
            Class::Teacher,
            format!("{label} asks to be left alone for {asked} s, more than the {most} s that are waited: {what}"),
        )
        .hint("what was answered is kept: run again when that time is over, or raise `limits.max-wait-seconds`")
    }

    pub(crate) fn give_up(&self, attempts: u32, what: &str, garbled: bool) -> Failure {
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

/// What an image is reckoned at, in tokens. No API says it beforehand; most models scale images to fewer.
const IMAGE_TOKENS: usize = 4096;

/// The most tokens that a request can take: a token is at least a byte of the prompt, and a chat template adds a few
/// around every message. Of images it can only be guessed.
#[must_use]
pub fn estimate(request: &Request) -> Estimate {
    let of =
        |message: &Message| message.role.len() + message.content.len() + 16 + IMAGE_TOKENS * message.images().count();
    let tokens: usize = request.conversation().iter().map(of).sum();
    Estimate { prompt: tokens as u64 + 16, completion: request.sampling.max_tokens.into() }
}

/// A number from 0 to 1 that differs from request to request and from attempt to attempt.
pub(crate) fn spread(body: &[u8], attempt: u32) -> f64 {
    let hash = blake3::Hasher::new().update(body).update(&attempt.to_le_bytes()).finalize();
    f64::from(hash.as_bytes()[0]) / 255.0
}
