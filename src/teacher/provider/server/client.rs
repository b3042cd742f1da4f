//! Asks a server until there is a reply, within the teacher's limits; which API it speaks is an [`Api`]'s business.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use stillhouse_data::answer::Outcome;
use stillhouse_data::prompt::Message;
use stillhouse_stage::{Class, Failure};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::gathering::Gathering;
use crate::provider::api::{Api, Unusable};
use crate::reply::{Reply, Usage};
use crate::request::Request;
use crate::transport::breaker::{Down, Try};
use crate::transport::budget::UsedUp;
use crate::transport::governor::{LeftAlone, Pass};
use crate::transport::{Breaker, Cap, Cost, Endpoint, Estimate, Fault, Governor, Limits, Meter, Waiting, retry};

/// Replies without the log-probabilities that were asked for, or without a reason why they ended, after which a server that
/// never gave any is believed to have none.
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
    /// What came instead of a reply to the last attempt, if it was this request that was given up, and not the teacher.
    pub gave_up: Option<String>,
}

impl From<Failure> for Unanswered {
    fn from(failure: Failure) -> Self {
        Self { failure, rejected: None, gave_up: None }
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
    meter: Arc<Meter>,
    waiting: Arc<Waiting>,
    /// Set when the server says that it takes nothing for longer than is waited.
    left_alone: Mutex<Option<LeftAlone>>,
    masked: AtomicU64,
    gave_reasons: AtomicBool,
    without_reasons: AtomicU32,
    gave_log_probs: AtomicBool,
    without_log_probs: AtomicU32,
    gathering: Gathering,
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
            meter: Arc::default(),
            waiting: Arc::default(),
            left_alone: Mutex::default(),
            masked: AtomicU64::new(0),
            gave_reasons: AtomicBool::new(false),
            without_reasons: AtomicU32::new(0),
            gave_log_probs: AtomicBool::new(false),
            without_log_probs: AtomicU32::new(0),
            gathering: Gathering::default(),
        }
    }

    /// What requests wait for, if it is time to say so.
    #[must_use]
    pub fn news(&self) -> Option<String> {
        self.waiting.news_or(self.governor.held())
    }

    /// Replies that repeated the key, which was taken out of them.
    #[must_use]
    pub fn masked(&self) -> u64 {
        self.masked.load(Ordering::Relaxed)
    }

    /// Counts what is spent through this connection.
    #[must_use]
    pub fn meter(&self) -> &Arc<Meter> {
        &self.meter
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
    /// brought home. Where the API takes several requests in one body, those that are asked at the same time go together.
    ///
    /// # Errors
    /// [`Unanswered`], with a [`Failure`] that names the teacher: of class [`Class::Budget`] where the budget has no room, of class
    /// [`Class::Interrupted`] where it was not sent because of `closing`.
    pub async fn ask(&self, request: &Request, closing: &CancellationToken) -> Result<Reply, Unanswered> {
        if self.api.together() > 1 {
            return self.gathering.ask(self, request, closing).await;
        }
        let mut replies = self.ask_together(std::slice::from_ref(request), closing).await?;
        replies.pop().ok_or_else(|| Failure::internal("a request has no reply").into())
    }

    /// Asks some requests in one body, as [`Client::ask`] asks one: they are tried again, refused and paid for together.
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub(super) async fn ask_together(
        &self,
        requests: &[Request],
        closing: &CancellationToken,
    ) -> Result<Vec<Reply>, Unanswered> {
        let mut messages = requests.iter().flat_map(|request| &request.messages);
        if !self.api.takes_images() && messages.any(Message::has_images) {
            let message = format!("{} is asked in a way that shows no images", self.endpoint.label());
            let hint = "ask a model that sees by a chat API, or take the images out";
            return Err(Failure::input(message).hint(hint).into());
        }
        let estimate = estimate_all(requests);
        let mut place = self.waiting.place();
        let (mut attempt, mut refusals) = (1, Refusals::default());
        loop {
            let (mut pass, turn) = tokio::select! {
                biased;
                () = closing.cancelled() => return Err(Failure::interrupted().into()),
                entered = self.enter(estimate) => entered?,
            };
            // Made when its turn has come: thousands of requests stand in line.
            let body = self
                .api
                .body_of_all(requests)
                .map_err(|error| Failure::internal(format!("a request cannot be written: {error}")))?;
            let random = spread(&body, attempt);
            let sent = Instant::now();
            pass.send();
            let (fault, cost) = match self.exchange(body, requests).await {
                Ok(replies) => {
                    turn.answered();
                    pass.settle(cost_of(&replies));
                    return Ok(replies);
                }
                Err(failed) => failed,
            };
            match &fault {
                Fault::Transient { what, unwell: true, .. } => turn.failed(what),
                // Whatever it said, it is there.
                _ => turn.answered(),
            }
            let (what, asked, busy, garbled) = match fault {
                Fault::Permanent(failure) => {
                    pass.settle(cost);
                    return Err(failure.into());
                }
                Fault::Filtered { words } => {
                    pass.settle(cost);
                    return Ok(requests
                        .iter()
                        .map(|_| Reply::without_words(Outcome::ContentFilter, words.clone()))
                        .collect());
                }
                Fault::Rejected { failure, words } => {
                    pass.settle(cost);
                    return Err(Unanswered { failure, rejected: Some(words), gave_up: None });
                }
                Fault::Transient { what, retry_after, busy, .. } => (what, retry_after, busy, false),
                Fault::Garbled { what } => (what, None, false, true),
            };
            if let Some(asked) = asked.filter(|asked| *asked > self.limits.max_wait) {
                pass.settle(cost);
                return Err(self.asked_too_much(&what, asked).into());
            }
            if busy {
                pass.refuse(asked, &what);
                let others = self.governor.last_answer().is_some_and(|answered| answered >= sent);
                if refusals.are_too_many(self.governor.last_answer(), self.limits.max_wait) {
                    return Err(Unanswered {
                        failure: self.always_busy(refusals.lasted(), &what),
                        rejected: None,
                        gave_up: Some(what),
                    });
                }
                // A server that says when to come again, or answers others meanwhile, is well: it is we who are too fast.
                if asked.is_none_or(|asked| asked.is_zero()) && !others {
                    if attempt >= self.limits.attempts && !self.breaker.is_open() {
                        return Err(Unanswered {
                            failure: self.give_up(attempt, &what, false),
                            rejected: None,
                            gave_up: Some(what),
                        });
                    }
                    attempt += 1;
                }
                tracing::debug!(teacher = self.endpoint.label(), %what, ?asked, "refused");
                let held = self.governor.held().map(|(until, _)| until.saturating_duration_since(Instant::now()));
                place.refused(&what, held.unwrap_or_default());
                continue;
            }
            pass.settle(cost);
            // Where the teacher itself is in doubt, it is the breaker that gives up.
            if attempt >= self.limits.attempts && !self.breaker.is_open() {
                return Err(Unanswered {
                    failure: self.give_up(attempt, &what, garbled),
                    rejected: None,
                    gave_up: Some(what),
                });
            }
            if let Some(asked) = asked {
                self.governor.pause(asked, &what);
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
        let pass = self.governor.enter(estimate).await.map_err(|used_up| self.stop(used_up))?.counted_by(&self.meter);
        let turn = self.breaker.admit().await.map_err(|down| self.down(down))?;
        let left_alone = self.left_alone.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match left_alone {
            Some(LeftAlone { wait, why }) => Err(self.asked_too_much(&why, wait)),
            None => Ok((pass, turn)),
        }
    }

    async fn exchange(&self, body: Vec<u8>, requests: &[Request]) -> Result<Vec<Reply>, (Fault, Cost)> {
        let captured = requests.iter().any(|request| request.capture.is_some());
        let most = if captured { MOST_BYTES_CAPTURED } else { MOST_BYTES };
        let answer = self.endpoint.post(self.api.path(), body, most).await?;
        let read = self.read_all(&answer.body, requests);
        let used = read.as_ref().map_or_else(|(_, used)| *used, |replies| cost_of(replies));
        let heeded = self.governor.heed(&answer.allowances, used.tokens(estimate_all(requests)), self.limits.max_wait);
        if let Err(left_alone) = heeded {
            // What came is kept; the next one that would be sent finds it.
            self.left_alone.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(left_alone);
        }
        read
    }

    /// What the body of a successful answer says, without the key if it repeats that.
    ///
    /// # Errors
    /// If it is no reply, with what it cost all the same.
    pub fn read(&self, body: &[u8], request: &Request) -> Result<Reply, (Fault, Cost)> {
        let replies = self.read_all(body, std::slice::from_ref(request))?;
        let nothing = || (Fault::Garbled { what: "the reply is empty".to_owned() }, Cost::Unknown);
        replies.into_iter().next().ok_or_else(nothing)
    }

    fn read_all(&self, body: &[u8], requests: &[Request]) -> Result<Vec<Reply>, (Fault, Cost)> {
        let mut replies = self.api.parse_all(body, requests).map_err(|unusable| {
            let used = self.api.usage(body).map_or(Cost::Unknown, Cost::Counted);
            (self.unusable(unusable), used)
        })?;
        if self.api.together() == 1 && !replies.iter().all(|reply| self.says_why(reply)) {
            let what = "the reply does not say why it ended (`finish_reason`): it may have broken off".to_owned();
            return Err((Fault::Garbled { what }, cost_of(&replies)));
        }
        replies.iter_mut().for_each(|reply| self.look_at(reply));
        Ok(replies)
    }

    /// Notes what a reply says of the server, and takes the key out of it.
    fn look_at(&self, reply: &mut Reply) {
        if reply.tokens.as_ref().is_some_and(|tokens| !tokens.is_empty()) {
            self.gave_log_probs.store(true, Ordering::Relaxed);
        }
        if self.endpoint.mask(reply) {
            self.masked.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether a reply says why it ended. A server that never does, several replies long, is believed to have no word for it.
    fn says_why(&self, reply: &Reply) -> bool {
        if !reply.finish.is_empty() {
            self.gave_reasons.store(true, Ordering::Relaxed);
            return true;
        }
        let without = self.without_reasons.fetch_add(1, Ordering::Relaxed) + 1;
        !self.gave_reasons.load(Ordering::Relaxed) && without >= WITHOUT
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
        let most = match cap {
            Cap::Usd(most, _) => most,
            Cap::Tokens(most) | Cap::Requests(most) => most as f64,
        };
        let beyond = if spent > most { ": the server bills more than `max-tokens` allow" } else { "" };
        let failure = Failure::new(Class::Budget, format!("{}: {what}{beyond}", self.endpoint.label()));
        if spent == 0.0 {
            return failure.hint(format!(
                "one request alone can take more than that (a token a byte of the prompt, and `sampling.max-tokens`): lower \
                 `max-tokens`, or raise `limits.{key}`"
            ));
        }
        failure.hint(format!(
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

    fn always_busy(&self, lasted: Duration, what: &str) -> Failure {
        let (label, lasted) = (self.endpoint.label(), lasted.as_secs());
        Failure::new(Class::Teacher, format!("{label} was too busy for a request for {lasted} s: {what}")).hint(
            "what was answered is kept: run again later, or raise `limits.max-wait-seconds`; is the request larger than a \
             minute's tokens?",
        )
    }

    pub(crate) fn give_up(&self, attempts: u32, what: &str, garbled: bool) -> Failure {
        let hint = if garbled {
            "is `base-url` the address of an API like OpenAI's (it usually ends in `/v1`), with no proxy that breaks replies? what \
             was answered is kept"
        } else {
            "what was answered is kept: run again when the server is well, or raise `limits.attempts`"
        };
        Failure::new(Class::Teacher, format!("{} gave no reply in {attempts} attempts: {what}", self.endpoint.label()))
            .hint(hint)
    }
}

/// So many refusals of one request, while others are answered, are no accident.
const MOST_REFUSALS: u32 = 32;

/// How often a server was too busy for a request.
#[derive(Debug, Default)]
struct Refusals {
    times: u32,
    first: Option<Instant>,
}

impl Refusals {
    fn lasted(&self) -> Duration {
        self.first.map(|first| first.elapsed()).unwrap_or_default()
    }

    /// Counts one; whether waiting is vain: nobody was answered for longer than is waited, or it is this one that never is.
    fn are_too_many(&mut self, last_answer: Option<Instant>, most: Duration) -> bool {
        self.times += 1;
        let first = *self.first.get_or_insert_with(Instant::now);
        let quiet = last_answer.map_or(first, |answer| answer.max(first)).elapsed();
        quiet > most || (self.times > MOST_REFUSALS && first.elapsed() > most)
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

/// The same of several requests in one body.
fn estimate_all(requests: &[Request]) -> Estimate {
    requests.iter().map(estimate).fold(Estimate::default(), |sum, one| Estimate {
        prompt: sum.prompt + one.prompt,
        completion: sum.completion + one.completion,
    })
}

/// What replies to one body took together.
fn cost_of(replies: &[Reply]) -> Cost {
    Cost::Counted(replies.iter().map(|reply| reply.usage).fold(Usage::default(), |sum, one| Usage {
        prompt: sum.prompt.saturating_add(one.prompt),
        completion: sum.completion.saturating_add(one.completion),
    }))
}

/// A number from 0 to 1 that differs from request to request and from attempt to attempt.
pub(crate) fn spread(body: &[u8], attempt: u32) -> f64 {
    let hash = blake3::Hasher::new().update(body).update(&attempt.to_le_bytes()).finalize();
    f64::from(hash.as_bytes()[0]) / 255.0
}
