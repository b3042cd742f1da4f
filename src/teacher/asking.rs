//! Asks many questions at once, and hands the replies over in the order of the questions.

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use stillhouse_data::prompt::Prompt;
use stillhouse_stage::{Cancel, Failure};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::provider::openai::{Chat, Unanswered};
use crate::replies::{Claim, Location, ReplyStore, RequestKey, StoreError};
use crate::reply::Reply;
use crate::request::{Identity, Request};

/// Questions that are looked at ahead of the one whose turn it is: enough that one slow reply holds nothing up, few
/// enough that memory stays flat. Replies wait on disk.
const AHEAD: usize = 2048;
/// And at most so many bytes of prompts, where they are long.
const AHEAD_BYTES: usize = 64 << 20;
/// How long replies on their way may take once the user wants to stop.
const GRACE: Duration = Duration::from_secs(10);
/// How often the user's wish to stop is looked at while waiting.
const LOOK: Duration = Duration::from_millis(100);

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
    /// What its text takes in memory: once as a prompt, once as a request.
    fn bytes(&self) -> usize {
        2 * self.request.messages.iter().map(|message| message.content.len()).sum::<usize>()
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

/// The request to ask after a reply, where that is not wanted as it is.
pub type Again = Box<dyn Fn(&Request, &Reply) -> Option<Request> + Send + Sync>;
type Connect = Box<dyn Fn() -> Result<Chat, Failure> + Send + Sync>;

/// A teacher with its stored replies.
pub struct Asking {
    /// What the teacher is.
    identity: Identity,
    /// Its replies.
    store: Arc<ReplyStore>,
    // Made when the first reply is missing: what is all there needs no key and no network.
    chat: OnceLock<Result<Chat, Failure>>,
    connect: Connect,
    again: Option<Again>,
    /// What was asked again and has not been taken yet.
    asked_again: Mutex<BTreeSet<RequestKey>>,
    closing: CancellationToken,
    first_failure: Mutex<Option<Failure>>,
    /// Questions whose reply is there, in whatever order they came.
    answered: AtomicU64,
}

/// A question under way.
struct Flight {
    question: Arc<Question>,
    key: RequestKey,
    state: State,
}

/// The questions under way, in their order.
#[derive(Default)]
struct Ahead {
    flights: VecDeque<Flight>,
    /// What their prompts take.
    bytes: usize,
}

impl Ahead {
    fn has_room(&self) -> bool {
        self.flights.len() < AHEAD && self.bytes < AHEAD_BYTES
    }

    fn push(&mut self, flight: Flight) {
        self.bytes += flight.question.bytes();
        self.flights.push_back(flight);
    }

    fn push_front(&mut self, flight: Flight) {
        self.bytes += flight.question.bytes();
        self.flights.push_front(flight);
    }

    fn pop(&mut self) -> Option<Flight> {
        let flight = self.flights.pop_front()?;
        self.bytes -= flight.question.bytes();
        Some(flight)
    }
}

enum State {
    Landed(Location),
    Flying(JoinHandle<Result<(Location, Origin), Failure>>),
}

impl Asking {
    /// A teacher that is connected to by `connect` when it has to be.
    pub fn new(
        identity: Identity,
        store: Arc<ReplyStore>,
        connect: impl Fn() -> Result<Chat, Failure> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Self::with_again(identity, store, None, connect)
    }

    /// A teacher that is asked again where `again` says so: `take` then sees each of the replies, one after the other.
    pub fn with_again(
        identity: Identity,
        store: Arc<ReplyStore>,
        again: Option<Again>,
        connect: impl Fn() -> Result<Chat, Failure> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            identity,
            store,
            chat: OnceLock::new(),
            connect: Box::new(connect),
            again,
            asked_again: Mutex::default(),
            closing: CancellationToken::new(),
            first_failure: Mutex::new(None),
            answered: AtomicU64::new(0),
        })
    }

    /// How many questions have their reply so far: more than `take` has seen while an early one is slow.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// The connection, once something had to be asked.
    pub fn chat(&self) -> Option<&Chat> {
        self.chat.get()?.as_ref().ok()
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
            let Some(question) = questions.next().transpose()? else { break };
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
                self.answered.fetch_add(1, Ordering::Relaxed);
                State::Landed(location)
            }
            _ => {
                let (asking, question) = (Arc::clone(self), Arc::clone(&question));
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
            let (location, origin) = match &mut flight.state {
                State::Landed(location) => (*location, Origin::Stored),
                State::Flying(handle) => match tokio::time::timeout(LOOK, handle).await {
                    Err(_) => continue,
                    Ok(joined) => {
                        joined.map_err(|error| Failure::internal(format!("a request was lost: {error}")))??
                    }
                },
            };
            if let Some(reply) = self.store.read(&flight.key, location)? {
                let mut asked_again = self.asked_again.lock().unwrap_or_else(PoisonError::into_inner);
                return Ok((reply, if asked_again.remove(&flight.key) { Origin::Asked } else { origin }));
            }
            *flight = self.launch(Arc::clone(&flight.question), flight.key)?;
        }
    }

    async fn answer(&self, question: &Question, key: RequestKey) -> Result<(Location, Origin), Failure> {
        let answered = self.answer_and_follow(question, key).await;
        if answered.is_ok() && question.request.attempt == 0 {
            self.answered.fetch_add(1, Ordering::Relaxed);
        }
        if let Err(failure) = &answered {
            let mut first = self.first_failure.lock().unwrap_or_else(PoisonError::into_inner);
            // Called off is nobody's first failure.
            if first.is_none() && !self.closing.is_cancelled() {
                *first = Some(failure.clone());
            }
            self.closing.cancel();
        }
        answered
    }

    /// Answers a question, and asks again what has to be, so that it is there when its turn comes.
    async fn answer_and_follow(&self, question: &Question, key: RequestKey) -> Result<(Location, Origin), Failure> {
        let answered = self.answer_once(question, key).await?;
        if self.again.is_none() {
            return Ok(answered);
        }
        let (mut key, mut location) = (key, answered.0);
        let mut asked = None;
        while let Some(reply) = self.store.read(&key, location)?
            && let Some(next) = self.next(asked.as_ref().unwrap_or(question), &reply)
        {
            key = next.request.key(&self.identity);
            let (place, origin) = self.answer_once(&next, key).await?;
            if origin == Origin::Asked {
                self.asked_again.lock().unwrap_or_else(PoisonError::into_inner).insert(key);
            }
            (location, asked) = (place, Some(next));
        }
        Ok(answered)
    }

    /// Finds or asks; of equal questions one is asked and the others wait for it.
    async fn answer_once(&self, question: &Question, key: RequestKey) -> Result<(Location, Origin), Failure> {
        let max_tokens = question.request.sampling.max_tokens;
        loop {
            let mine = match self.store.claim(key, max_tokens) {
                Claim::Mine(mine) => mine,
                Claim::Other(mut other) => {
                    _ = other.changed().await;
                    continue;
                }
            };
            if let Some(location) = self.store.find(&key, max_tokens)? {
                return Ok((location, Origin::Stored));
            }
            let chat = self.chat.get_or_init(&self.connect).as_ref().map_err(Clone::clone)?;
            let reply =
                chat.ask(&question.request, &self.closing).await.map_err(|unanswered| name(unanswered, question))?;
            let location = self.store.put(key, max_tokens, &reply).await?;
            drop(mine);
            return Ok((location, Origin::Asked));
        }
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

/// Says which prompt it was, where the prompt matters.
fn name(Unanswered { failure, rejected }: Unanswered, question: &Question) -> Failure {
    if rejected { failure.context(&format!("prompt {} ({})", question.number, question.prompt.id)) } else { failure }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::environment(error.to_string()).hint(error.hint())
    }
}

#[cfg(test)]
mod tests {
    use stillhouse_data::prompt::Message;

    use super::*;
    use crate::request::Sampling;

    fn flight(bytes: usize) -> Flight {
        let messages = vec![Message::user("x".repeat(bytes))];
        let prompt = Arc::new(Prompt::new(messages.clone(), None));
        let sampling = Sampling { temperature: 0.0, top_p: 1.0, top_k: None, max_tokens: 1, stop: Vec::new() };
        let request = Request { messages, sampling, capture: None, sample: 0, attempt: 0, seed: None };
        let state = State::Flying(tokio::spawn(async { Err(Failure::interrupted()) }));
        Flight { question: Arc::new(Question { prompt, number: 1, request }), key: RequestKey([0; 32]), state }
    }

    #[tokio::test]
    async fn long_prompts_are_looked_at_fewer_at_a_time() {
        let fill = |bytes: usize| {
            let mut ahead = Ahead::default();
            while ahead.has_room() {
                ahead.push(flight(bytes));
            }
            ahead
        };
        assert_eq!(fill(100).flights.len(), AHEAD);
        let mut long = fill(8 << 20);
        assert_eq!(long.flights.len(), 4);
        assert!(long.pop().is_some() && long.has_room());
        assert_eq!(fill(80 << 20).flights.len(), 1, "one at least");
    }
}
