//! Asks a server until there is a reply, within the teacher's limits; which API it speaks is an [`Api`]'s business.

mod estimate;
mod reading;
mod words;

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use stillhouse_data::answer::Outcome;
use stillhouse_data::prompt::Message;
use stillhouse_stage::Failure;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use self::estimate::estimate;
use self::estimate::{cost_of, estimate_all};
use super::gathering::Gathering;
use crate::provider::api::Api;
use crate::reply::Reply;
use crate::request::Request;
use crate::transport::breaker::{Suspect, Try};
use crate::transport::governor::{LeftAlone, Pass};
use crate::transport::retry::Health;
use crate::transport::{Breaker, Cost, Endpoint, Estimate, Fault, Governor, Limits, Meter, Waiting, retry};

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
    /// Whose fault it is.
    pub fault: At,
}

/// Where the fault lies that a request has no reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum At {
    /// With the teacher, the user's wish to stop, the budget.
    Teacher,
    /// The server refused this very request, in these words.
    Rejected(String),
    /// It was this request that was given up, and not the teacher: what came instead of a reply to the last attempt.
    Request(String),
    /// The teacher was given up, and this request had failed before: it may be the requests that are at fault, if these are
    /// all that are left. What came instead of the last reply.
    InDoubt(String),
}

impl From<Failure> for Unanswered {
    fn from(failure: Failure) -> Self {
        Self { failure, fault: At::Teacher }
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
    /// Tokens that a reply may take beyond its limit.
    thinking_tokens: u64,
    breaker: Arc<Breaker>,
    meter: Arc<Meter>,
    waiting: Arc<Waiting>,
    /// Set when the server says that it takes nothing for longer than is waited.
    left_alone: Mutex<Option<LeftAlone>>,
    masked: AtomicU64,
    replied: AtomicBool,
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
            thinking_tokens: 0,
            breaker: Breaker::new(limits.failures_in_a_row, limits.attempts),
            meter: Arc::default(),
            waiting: Arc::default(),
            left_alone: Mutex::default(),
            masked: AtomicU64::new(0),
            replied: AtomicBool::new(false),
            gave_reasons: AtomicBool::new(false),
            without_reasons: AtomicU32::new(0),
            gave_log_probs: AtomicBool::new(false),
            without_log_probs: AtomicU32::new(0),
            gathering: Gathering::default(),
        }
    }

    /// The same for a model that may think for so many tokens beyond its limit.
    #[must_use]
    pub fn with_thinking(mut self, tokens: u64) -> Self {
        self.thinking_tokens = tokens;
        self
    }

    /// Tokens that a reply may take beyond its limit.
    #[must_use]
    pub fn thinking_tokens(&self) -> u64 {
        self.thinking_tokens
    }

    /// What requests wait for, if it is time to say so.
    #[must_use]
    pub fn news(&self) -> Option<String> {
        let news = self.waiting.news_or(self.governor.held())?;
        // Where it matters: who is asked slowly should know how slowly.
        let pace = self.governor.pace().filter(|rate| *rate < self.limits.concurrency as f64);
        Some(match pace {
            Some(rate) if rate < 1.0 => format!("{news}; one goes every {:.0} s", 1.0 / rate),
            Some(rate) => format!("{news}; {rate:.0} a second go"),
            None => news,
        })
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
    /// [`Unanswered`], with a [`Failure`] that names the teacher: of class [`stillhouse_stage::Class::Budget`] where the budget has no room, of class
    /// [`stillhouse_stage::Class::Interrupted`] where it was not sent because of `closing`.
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
        let estimate = self.estimate(requests);
        let mut place = self.waiting.place();
        let (mut attempt, mut refusals, mut failed) = (1, Refusals::default(), None);
        loop {
            let (mut pass, turn) = tokio::select! {
                biased;
                () = closing.cancelled() => return Err(Failure::interrupted().into()),
                entered = self.enter(estimate, failed.is_some()) => entered?,
            };
            // Made when its turn has come: thousands of requests stand in line.
            let body = self
                .api
                .body_of_all(requests)
                .map_err(|error| Failure::internal(format!("a request cannot be written: {error}")))?;
            let random = spread(&body, attempt + refusals.times);
            let sent = Instant::now();
            pass.send();
            let (fault, cost) = match self.exchange(body, requests).await {
                Ok(replies) => {
                    turn.answered();
                    pass.settle(cost_of(&replies));
                    self.replied.store(true, Ordering::Relaxed);
                    return Ok(replies);
                }
                Err(failed) => failed,
            };
            match &fault {
                Fault::Transient { what, health, .. } if *health != Health::Well => {
                    let first = *failed.get_or_insert_with(Instant::now);
                    let others = self.governor.last_answer().is_some_and(|answered| answered > first);
                    let suspect = match health {
                        Health::Away => Suspect::Connection,
                        _ if others => Suspect::Request,
                        _ => Suspect::Teacher,
                    };
                    turn.failed(what, suspect);
                }
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
                    return Err(Unanswered { failure, fault: At::Rejected(words) });
                }
                Fault::Transient { what, retry_after, busy, .. } => (what, retry_after, busy, false),
                Fault::Garbled { what } => (what, None, false, true),
            };
            if let Some(asked) = asked.filter(|asked| *asked > self.limits.max_wait) {
                pass.settle(cost);
                return Err(self.asked_too_much(&what, asked).into());
            }
            if busy {
                // A server that answers others meanwhile is well: it is we who are too fast.
                let others = self.governor.last_answer().is_some_and(|answered| answered >= refusals.previous(sent));
                pass.refuse(asked, !others && refusals.times > 0, &what);
                if refusals.are_too_many(self.governor.last_answer(), self.limits.max_wait) {
                    return Err(Unanswered {
                        failure: self.always_busy(refusals.lasted(), &what),
                        fault: At::Request(what),
                    });
                }
                let asked = asked.filter(|asked| !asked.is_zero());
                if asked.is_none() && !others {
                    if attempt >= self.limits.attempts && !self.breaker.is_open() {
                        return Err(Unanswered {
                            failure: self.give_up(attempt, &what, false),
                            fault: At::Request(what),
                        });
                    }
                    attempt += 1;
                }
                tracing::debug!(teacher = self.endpoint.label(), %what, ?asked, "refused");
                let held = self.governor.held().map(|(until, _)| until.saturating_duration_since(Instant::now()));
                let alone = if asked.is_none() { retry::wait(1, None, random) } else { Duration::ZERO };
                let pause = held.unwrap_or_default().max(alone);
                place.refused(&what, pause);
                // Where all are held back the gate does it; this one alone does not come back at once.
                wait(alone, closing).await?;
                continue;
            }
            pass.settle(cost);
            // Where the teacher itself is in doubt, it is the breaker that gives up.
            if attempt >= self.limits.attempts && !self.breaker.is_open() {
                return Err(Unanswered { failure: self.give_up(attempt, &what, garbled), fault: At::Request(what) });
            }
            if let Some(asked) = asked {
                self.governor.pause(asked, &what);
            }
            let pause = retry::wait(attempt, asked, random);
            tracing::debug!(teacher = self.endpoint.label(), attempt, %what, ?pause, "asking again");
            place.failed(&what, attempt, self.limits.attempts, pause);
            wait(pause, closing).await?;
            attempt += 1;
        }
    }

    /// How many requests can be under way at once.
    pub fn at_once(&self) -> usize {
        self.limits.concurrency.saturating_mul(self.api.together())
    }

    /// Whether any request got a reply, stored by now or not.
    pub fn has_replied(&self) -> bool {
        self.replied.load(Ordering::Relaxed)
    }

    /// The most tokens that requests in one body can take together, as far as that is known.
    #[must_use]
    pub fn estimate(&self, requests: &[Request]) -> Estimate {
        let Estimate { prompt, completion } = estimate_all(requests);
        let thinking = self.thinking_tokens.saturating_mul(requests.len() as u64);
        Estimate { prompt, completion: completion.saturating_add(thinking) }
    }

    /// Waits for a place within the limits, and for a teacher that is not in doubt.
    async fn enter(&self, estimate: Estimate, failed: bool) -> Result<(Pass, Try), Unanswered> {
        let pass = self
            .governor
            .enter(estimate)
            .await
            .map_err(|used_up| self.stop(used_up.cap, estimate))?
            .counted_by(&self.meter);
        let turn = self.breaker.admit().await.map_err(|down| {
            let fault = if failed && !down.away { At::InDoubt(down.what.clone()) } else { At::Teacher };
            Unanswered { failure: self.down(down), fault }
        })?;
        let left_alone = self.left_alone.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match left_alone {
            Some(LeftAlone { wait, why }) => Err(self.asked_too_much(&why, wait).into()),
            None => Ok((pass, turn)),
        }
    }

    async fn exchange(&self, body: Vec<u8>, requests: &[Request]) -> Result<Vec<Reply>, (Fault, Cost)> {
        let captured = requests.iter().any(|request| request.capture.is_some());
        let most = if captured { MOST_BYTES_CAPTURED } else { MOST_BYTES };
        let answer = self.endpoint.post(self.api.path(), body, most).await?;
        let read = self.read_all(&answer.body, requests);
        let used = read.as_ref().map_or_else(|(_, used)| *used, |replies| cost_of(replies));
        let heeded = self.governor.heed(&answer.allowances, used.tokens(self.estimate(requests)), self.limits.max_wait);
        if let Err(left_alone) = heeded {
            // What came is kept; the next one that would be sent finds it.
            self.left_alone.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(left_alone);
        }
        read
    }
}

/// Waits, unless what is done is being brought to an end.
async fn wait(pause: Duration, closing: &CancellationToken) -> Result<(), Failure> {
    tokio::select! {
        () = closing.cancelled() => Err(Failure::interrupted()),
        () = tokio::time::sleep(pause) => Ok(()),
    }
}

/// So many refusals of one request, while others are answered, are no accident.
const MOST_REFUSALS: u32 = 32;

/// How often a server was too busy for a request.
#[derive(Debug, Default)]
struct Refusals {
    times: u32,
    first: Option<Instant>,
    sent: Option<Instant>,
}

impl Refusals {
    fn lasted(&self) -> Duration {
        self.first.map(|first| first.elapsed()).unwrap_or_default()
    }

    /// When the one before was sent, or this one, sent at `sent`, if there was none.
    fn previous(&mut self, sent: Instant) -> Instant {
        self.sent.replace(sent).unwrap_or(sent)
    }

    /// Counts one; whether waiting is vain: nobody was answered for longer than is waited, or it is this one that never is.
    fn are_too_many(&mut self, last_answer: Option<Instant>, most: Duration) -> bool {
        self.times += 1;
        let first = *self.first.get_or_insert_with(Instant::now);
        let quiet = last_answer.map_or(first, |answer| answer.max(first)).elapsed();
        quiet > most || (self.times > MOST_REFUSALS && first.elapsed() > most)
    }
}

/// A number from 0 to 1 that differs from request to request and from attempt to attempt.
pub(crate) fn spread(body: &[u8], attempt: u32) -> f64 {
    let hash = blake3::Hasher::new().update(body).update(&attempt.to_le_bytes()).finalize();
    f64::from(hash.as_bytes()[0]) / 255.0
}
