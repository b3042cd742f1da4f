//! Asks many questions at once, and hands the replies over in the order of the questions.

mod ahead;
mod answering;
mod batched;
mod failures;
mod refusals;

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use stillhouse_data::answer::Outcome;
use stillhouse_data::prompt::{Message, Prompt};
use stillhouse_stage::{Cancel, Failure};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::answers::{OnFailed, OnRejected};
use crate::provider::server::Client;
use crate::replies::{Location, ReplyStore, RequestKey, StoreError};
use crate::reply::Reply;
use crate::request::{Identity, Request};
use crate::transport::{Estimate, Spent};

use self::ahead::{Ahead, Flight, State};
pub use self::batched::Batches;
use self::failures::Failures;
pub(crate) use self::failures::key_of_failure;
use self::refusals::RefusedInBatches;

/// How long replies on their way may take once the user wants to stop.
const GRACE: Duration = Duration::from_secs(10);
/// How often the user's wish to stop is looked at while waiting.
const LOOK: Duration = Duration::from_millis(100);
/// Requests that are claimed before it is known how many go at once, and those that wait to be tried again beside these. A
/// claim is a lock that the system looks through all others for, so not all that stand in line have theirs.
const ASKED_AT_ONCE: usize = 1024;
/// The first pause before looking whether another process is done with a request.
const LOOK_ELSEWHERE: Duration = Duration::from_millis(20);

/// A prompt and the request it makes.
#[derive(Clone, Debug)]
pub struct Question {
    /// The prompt.
    pub prompt: Arc<Prompt>,
    /// Its number in the file, from 1, for messages.
    pub number: u64,
    /// What is asked.
    pub request: Request,
}

impl Question {
    /// What its texts and images take in memory: once as a prompt, once as a request.
    fn bytes(&self) -> usize {
        let images = |message: &Message| message.images().map(|image| image.url.len()).sum::<usize>();
        2 * self.request.messages.iter().map(|message| message.content.len() + images(message)).sum::<usize>()
    }
}

/// Where a reply came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It was in the store.
    Stored,
    /// The teacher was asked.
    Asked,
}

/// What becomes of questions without a reply.
#[derive(Clone, Debug)]
pub struct WithoutReply {
    /// Those that the server refuses.
    pub on_rejected: OnRejected,
    /// Those that get no usable reply though others do.
    pub on_failed: OnFailed,
    /// The kind of the stage whose table says so of the latter, for messages; nothing where it can't.
    pub kind: Option<String>,
}

/// The request to ask after a reply, where that is not wanted as it is.
pub type Again = Box<dyn Fn(&Request, &Reply) -> Option<Request> + Send + Sync>;
type Connect = Box<dyn Fn() -> Result<Client, Failure> + Send + Sync>;

/// A teacher with its stored replies.
pub struct Asking {
    /// What the teacher is.
    identity: Identity,
    /// Its replies.
    store: Arc<ReplyStore>,
    // Made when the first reply is missing: what is all there needs no key and no network.
    client: OnceLock<Result<Client, Failure>>,
    connect: Connect,
    again: Option<Again>,
    /// What was asked again, or in a batch, and has not been taken yet.
    asked_ahead: Mutex<BTreeSet<RequestKey>>,
    without_reply: WithoutReply,
    closing: CancellationToken,
    /// The right to claim a request and ask it, however many stand in line: see [`ASKED_AT_ONCE`].
    turns: Semaphore,
    first_failure: Mutex<Option<Failure>>,
    /// Whether the last question was looked at, and how many are being asked.
    no_more: AtomicBool,
    flying: AtomicU64,
    /// Questions whose reply is there, in whatever order they came.
    replied: AtomicU64,
    /// Those that the server refused.
    rejected: AtomicU64,
    first_rejection: Mutex<Option<Failure>>,
    /// Those that got no usable reply though others did.
    failures: Failures,
    /// Whether a look for what is missing found a reply.
    found_before: AtomicBool,
    /// Replies that were asked for and stored, and what the server counted for them.
    stored: AtomicU64,
    counted: Mutex<Estimate>,
    /// Requests whose batch has come so far.
    batched: AtomicU64,
    refused_in_batches: Mutex<RefusedInBatches>,
}

/// What was asked of the teacher.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Paid {
    /// Requests that were answered, and their replies stored.
    pub requests: u64,
    /// Tokens of prompts, as they are charged: those that came to nothing as well.
    pub prompt: u64,
    /// Tokens of replies.
    pub completion: u64,
    /// Requests of which nobody said what they took: tokens are then the most that it can be.
    pub not_reported: u64,
    /// The part of the tokens that went to requests that brought no reply.
    pub in_vain: Estimate,
    /// Those of `not_reported` that were not answered.
    pub unanswered: u64,
}

/// What a question came to.
#[derive(Debug)]
enum Landing {
    /// A stored reply.
    Reply(Location, Origin),
    /// The server refused it, in these words. That is in no store: it cost nothing, and another server, or the same one
    /// with other settings, may think differently.
    Rejected(String),
    /// No usable reply came, but this instead.
    Failed(String, Origin),
}

impl Asking {
    /// A teacher that is connected to by `connect` when it has to be.
    pub fn new(
        identity: Identity,
        store: Arc<ReplyStore>,
        on_rejected: OnRejected,
        connect: impl Fn() -> Result<Client, Failure> + Send + Sync + 'static,
    ) -> Arc<Self> {
        let without_reply = WithoutReply { on_rejected, on_failed: OnFailed::Fail, kind: None };
        Self::with_again(identity, store, without_reply, None, connect)
    }

    /// A teacher that is asked again where `again` says so: `take` then sees each of the replies, one after the other.
    pub fn with_again(
        identity: Identity,
        store: Arc<ReplyStore>,
        without_reply: WithoutReply,
        again: Option<Again>,
        connect: impl Fn() -> Result<Client, Failure> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            identity,
            store,
            client: OnceLock::new(),
            connect: Box::new(connect),
            again,
            asked_ahead: Mutex::default(),
            without_reply,
            closing: CancellationToken::new(),
            turns: Semaphore::new(ASKED_AT_ONCE),
            first_failure: Mutex::new(None),
            no_more: AtomicBool::new(false),
            flying: AtomicU64::new(0),
            replied: AtomicU64::new(0),
            rejected: AtomicU64::new(0),
            first_rejection: Mutex::new(None),
            failures: Failures::default(),
            found_before: AtomicBool::new(false),
            stored: AtomicU64::new(0),
            counted: Mutex::default(),
            batched: AtomicU64::new(0),
            refused_in_batches: Mutex::default(),
        })
    }

    /// How many questions have their reply so far: more than `take` has seen while an early one is slow.
    pub fn answered(&self) -> u64 {
        (self.replied.load(Ordering::Relaxed) + self.rejected() + self.failures())
            .max(self.batched.load(Ordering::Relaxed))
    }

    /// The connection, which is made now if there was none.
    ///
    /// # Errors
    /// Whatever kept it from being made.
    fn connected(&self) -> Result<&Client, Failure> {
        let connect = || (self.connect)().inspect(|client| self.turns.add_permits(client.at_once()));
        self.client.get_or_init(connect).as_ref().map_err(Clone::clone)
    }

    /// The connection, once something had to be asked.
    pub fn client(&self) -> Option<&Client> {
        self.client.get()?.as_ref().ok()
    }

    /// How many of the questions the server refused.
    pub fn rejected(&self) -> u64 {
        self.rejected.load(Ordering::Relaxed)
    }

    /// The first of those, with the prompt that it was.
    pub fn first_rejection(&self) -> Option<Failure> {
        self.first_rejection.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What was paid for so far, whether `take` has seen it or not.
    pub fn paid(&self) -> Paid {
        let Spent { tokens, not_reported, uncounted_replies, assumed, unanswered, .. } = self.spent();
        let counted = *self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        // Of a reply that is not counted what is assumed is kept with it.
        let in_vain = |all: u64, counted: u64, assumed: u64, unanswered: u64| {
            all.saturating_sub(counted).saturating_sub(assumed.saturating_sub(unanswered))
        };
        let in_vain = Estimate {
            prompt: in_vain(tokens.prompt, counted.prompt, assumed.prompt, unanswered.prompt),
            completion: in_vain(tokens.completion, counted.completion, assumed.completion, unanswered.completion),
        };
        let Estimate { prompt, completion } = tokens;
        Paid {
            requests: self.stored.load(Ordering::Relaxed),
            prompt,
            completion,
            not_reported,
            in_vain,
            unanswered: not_reported.saturating_sub(uncounted_replies),
        }
    }

    /// What the requests cost that were sent, whatever they came to.
    pub fn spent(&self) -> Spent {
        self.client().map(|client| client.meter().spent()).unwrap_or_default()
    }

    /// Asks all questions and gives the replies to `take` in the order of the questions. After a failure nothing more is sent, but
    /// what is on its way is waited for and stored.
    ///
    /// # Errors
    /// The first failure of the questions, the teacher, the store or `take`; [`Failure::interrupted`] when cancelled.
    pub async fn all(
        self: &Arc<Self>,
        mut questions: impl Iterator<Item = Result<Question, Failure>>,
        cancel: &Cancel,
        mut take: impl FnMut(&Question, Reply, Origin) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut ahead = Ahead::default();
        let result = loop {
            if let Err(failure) = self.launch_ahead(&mut questions, &mut ahead) {
                break Err(failure);
            }
            let Some(mut flight) = ahead.pop() else { break Ok(()) };
            let landed = match self.land(&mut flight, cancel).await {
                Ok((reply, origin)) => {
                    let next = self.next(&flight.question, &reply);
                    take(&flight.question, reply, origin).and_then(|()| self.launch_next(next, &mut ahead))
                }
                Err(failure) => {
                    ahead.flights.push_front(flight);
                    Err(failure)
                }
            };
            if let Err(failure) = landed {
                break Err(failure);
            }
        };
        let result = result.and_then(|()| self.somebody_was_answered()).and_then(|()| self.nothing_failed());
        if result.is_err() {
            self.bring_home(ahead.flights, cancel).await;
        }
        // The question whose turn it is may only have been called off because another one failed.
        let first = self.first_failure.lock().unwrap_or_else(PoisonError::into_inner).take();
        result.map_err(|failure| if cancel.is_cancelled() { Failure::interrupted() } else { first.unwrap_or(failure) })
    }

    fn launch_ahead(
        self: &Arc<Self>,
        questions: &mut impl Iterator<Item = Result<Question, Failure>>,
        ahead: &mut Ahead,
    ) -> Result<(), Failure> {
        while ahead.has_room() && !self.closing.is_cancelled() {
            let Some(question) = questions.next().transpose()? else {
                self.no_more.store(true, Ordering::Relaxed);
                break;
            };
            let key = question.request.key(&self.identity);
            ahead.push(self.launch(Arc::new(question), key)?);
        }
        Ok(())
    }

    /// The question that takes the place of another one, because its reply is not wanted as it is.
    fn next(&self, question: &Question, reply: &Reply) -> Option<Question> {
        let request = self.again.as_ref()?(&question.request, reply)?;
        Some(Question { prompt: Arc::clone(&question.prompt), number: question.number, request })
    }

    fn launch_next(self: &Arc<Self>, next: Option<Question>, ahead: &mut Ahead) -> Result<(), Failure> {
        if let Some(next) = next {
            let key = next.request.key(&self.identity);
            ahead.push_front(self.launch(Arc::new(next), key)?);
        }
        Ok(())
    }

    fn launch(self: &Arc<Self>, question: Arc<Question>, key: RequestKey) -> Result<Flight, Failure> {
        let state = match self.store.find(&key, question.request.sampling.max_tokens)? {
            // Where it may have to be asked again, that is found out before its turn comes.
            Some(location) if self.again.is_none() => {
                self.replied.fetch_add(1, Ordering::Relaxed);
                State::Landed(location)
            }
            _ => {
                let (asking, question) = (Arc::clone(self), Arc::clone(&question));
                self.flying.fetch_add(1, Ordering::Relaxed);
                State::Flying(tokio::spawn(async move { asking.answer(&question, key).await }))
            }
        };
        Ok(Flight { question, key, state })
    }

    /// Waits for a question's reply and reads it back.
    async fn land(self: &Arc<Self>, flight: &mut Flight, cancel: &Cancel) -> Result<(Reply, Origin), Failure> {
        loop {
            if cancel.is_cancelled() {
                return Err(Failure::interrupted());
            }
            let landing = match &mut flight.state {
                State::Landed(location) => Landing::Reply(*location, Origin::Stored),
                State::Flying(handle) => match tokio::time::timeout(LOOK, handle).await {
                    Err(_) => continue,
                    Ok(joined) => {
                        joined.map_err(|error| Failure::internal(format!("a request was lost: {error}")))??
                    }
                },
            };
            let (location, origin) = match landing {
                Landing::Reply(location, origin) => (location, origin),
                Landing::Rejected(words) => return Ok((Reply::rejected(words), Origin::Asked)),
                Landing::Failed(what, origin) => {
                    let origin = self.origin_of(&flight.key, origin);
                    return Ok((Reply::without_words(Outcome::Failed, what), origin));
                }
            };
            if let Some(reply) = self.store.read(&flight.key, location)? {
                return Ok((reply, self.origin_of(&flight.key, origin)));
            }
            *flight = self.launch(Arc::clone(&flight.question), flight.key)?;
        }
    }

    /// Where a reply came from that may have been asked for ahead of its turn.
    fn origin_of(&self, key: &RequestKey, found: Origin) -> Origin {
        let ahead = self.asked_ahead.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
        if ahead { Origin::Asked } else { found }
    }

    async fn bring_home(&self, flights: VecDeque<Flight>, cancel: &Cancel) {
        self.closing.cancel();
        let mut handles: Vec<_> = flights
            .into_iter()
            .filter_map(|flight| match flight.state {
                State::Flying(handle) if !handle.is_finished() => Some(handle),
                State::Flying(_) | State::Landed(_) => None,
            })
            .collect();
        let mut waited = Duration::ZERO;
        while handles.iter().any(|handle| !handle.is_finished()) {
            if cancel.is_cancelled() && waited >= GRACE {
                handles.iter().for_each(JoinHandle::abort);
                break;
            }
            tokio::time::sleep(LOOK).await;
            if cancel.is_cancelled() {
                waited += LOOK;
            }
            handles.retain(|handle| !handle.is_finished());
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::environment(error.to_string()).hint(error.hint())
    }
}
