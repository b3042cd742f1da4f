//! Answers what is missing in batches, before the replies are brought out in order: what is in the store by then is not asked.
//!
//! Questions are gone through once a pass. What is missing of them goes into batches as large as is allowed, a few of which are on
//! their way at once; when all have come back the next pass sees what is still missing, because the server gave it up or its
//! reply has to be asked again. What it gave up `limits.attempts` times is not handed in once more, and is missing no more. The
//! pass that misses nothing is the last one.

mod handed_in;

use std::collections::{BTreeMap, BTreeSet};
use std::iter::Peekable;
use std::sync::atomic::Ordering;
use std::time::Duration;

use stillhouse_data::answer::Outcome;
use stillhouse_stage::{Cancel, Class, Failure};
use tokio::time::Instant;

use self::handed_in::{Ending, GivenUp, HandedIn};
use super::{Asking, Question};
use crate::batch::journal::Found;
use crate::batch::line::{self, Wanted};
use crate::batch::remote::Remote;
use crate::batch::{BatchOptions, Journal};
use crate::provider::server::Client;
use crate::replies::{Claim, RequestKey};
use crate::reply::Reply;
use crate::request::Request;

/// A question of which nobody knows yet whether it is missing, if the last one was.
type Questions<'q> = Peekable<Box<dyn Iterator<Item = Result<Question, Failure>> + 'q>>;

/// What batches are told to: whoever runs the stage.
pub struct Batches<'a> {
    /// How they are handed in.
    pub options: &'a BatchOptions,
    /// The server's base URL.
    pub place: &'a str,
    /// The user's wish to stop.
    pub cancel: &'a Cancel,
    /// Takes a line for the log.
    pub tell: &'a dyn Fn(String),
}

impl Asking {
    /// Hands in whatever of the questions is in no store, and what was handed in before, until every reply is stored or given up;
    /// `questions` gives them from the first one on each time. What the server refused is told by [`Asking::all`]. Where nothing is
    /// missing nobody is connected to.
    ///
    /// # Errors
    /// A failure of the questions, the server or the store, a budget that is used up, [`Failure::interrupted`]. Batches on their way
    /// go on at the server, and the next run fetches them.
    pub async fn in_batches<'q>(
        &self,
        batches: &Batches<'_>,
        questions: impl Fn() -> Result<Box<dyn Iterator<Item = Result<Question, Failure>> + 'q>, Failure>,
    ) -> Result<(), Failure> {
        let mut rounds = Rounds {
            asking: self,
            batches,
            journal: Journal::of(self.store.directory(), batches.place),
            under_way: Vec::new(),
            elsewhere: BTreeSet::new(),
            given_up: BTreeMap::new(),
            queue_full: 0,
            stop: None,
            done: 0,
        };
        let result = loop {
            match rounds.pass(questions()?.peekable()).await {
                Ok(Missing::Something) => {}
                Ok(Missing::Nothing) => break Ok(()),
                Err(failure) => break Err(failure),
            }
        };
        if result.is_err() {
            rounds.leave();
        }
        result
    }
}

/// What a pass found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Missing {
    Nothing,
    Something,
}

/// How gathering ended.
enum Gathered {
    /// The questions are at their end.
    All,
    /// As much is on its way as may be.
    Enough,
}

struct Rounds<'a> {
    asking: &'a Asking,
    batches: &'a Batches<'a>,
    journal: Journal,
    under_way: Vec<HandedIn>,
    /// What other processes wait for.
    elsewhere: BTreeSet<RequestKey>,
    /// How often the server gave each request up in this run.
    given_up: BTreeMap<RequestKey, u32>,
    /// How often in a row the server had no room for a batch.
    queue_full: u32,
    /// Why nothing more is handed in.
    stop: Option<Failure>,
    /// Requests whose reply came.
    done: u64,
}

impl Rounds<'_> {
    async fn pass(&mut self, mut questions: Questions<'_>) -> Result<Missing, Failure> {
        if self.next_missing(&mut questions)?.is_none() {
            return Ok(Missing::Nothing);
        }
        let client = self.asking.client.get_or_init(&self.asking.connect).as_ref().map_err(Clone::clone)?;
        let remote = Remote { client, cancel: self.batches.cancel };
        let (mut all, mut patience) = (false, Patience::new(self.batches.options));
        loop {
            if self.queue_full > 0 && self.under_way.is_empty() {
                // Somebody else's batches take the room.
                remote.rest(patience.longest).await?;
            }
            if !all && self.stop.is_none() && !self.is_full() {
                all = matches!(self.gather(&mut questions, client).await?, Gathered::All);
            }
            match self.under_way.iter().map(|handed_in| handed_in.due).min() {
                Some(due) => {
                    remote.rest(due.saturating_duration_since(Instant::now())).await?;
                    self.advance(&remote).await?;
                }
                None if self.stop.is_some() => return Err(self.stop.take().unwrap_or_else(Failure::interrupted)),
                None if !all => remote.rest(patience.next()).await?,
                None => break,
            }
        }
        // Others bring what they wait for, or leave it to us.
        if !self.elsewhere.is_empty() {
            let count = self.elsewhere.len();
            (self.batches.tell)(format!("{count} requests were handed in by another run: waiting for their replies"));
            remote.rest(patience.next()).await?;
        }
        Ok(Missing::Something)
    }

    fn is_full(&self) -> bool {
        // Room comes when a batch is through.
        self.under_way.len() >= self.batches.options.at_once || (self.queue_full > 0 && !self.under_way.is_empty())
    }

    /// Takes over what nobody looks after, and begins batches of what is missing then. Replies that others have fetched are in the
    /// store before their batch goes from the journal, so the store is looked at after the journal.
    async fn gather(&mut self, questions: &mut Questions<'_>, client: &Client) -> Result<Gathered, Failure> {
        let held = self.journal.lock(self.batches.cancel).await?;
        let own = self.under_way.iter().map(|handed_in| handed_in.entry.id.clone()).collect();
        let Found { adopted, elsewhere } = self.journal.look(&held, &own)?;
        self.elsewhere = elsewhere;
        // What they cost is this run's, whatever the budget says to it.
        let reserve =
            |request: &Request| client.governor.budget().reserve_sent(client.estimate(std::slice::from_ref(request)));
        for entry in adopted {
            let wanted = entry.wanted(&self.asking.store, reserve)?;
            tell_adopted(self.batches, &entry.stand);
            self.under_way.push(HandedIn::adopted(entry, wanted, client));
        }
        self.asking.store.look_again()?;
        let mut waited_for = BTreeSet::new();
        let gathered = loop {
            if self.is_full() {
                break Gathered::Enough;
            }
            let (lines, wanted, ended) = self.window(questions, client, &mut waited_for)?;
            if !lines.is_empty() {
                let entry = self.journal.begin(&held, &lines)?;
                self.under_way.push(HandedIn::begun(entry, wanted, client));
            }
            match ended {
                Ended::Full => {}
                Ended::Questions => break Gathered::All,
                Ended::Budget => break Gathered::Enough,
            }
        };
        self.elsewhere = waited_for;
        Ok(gathered)
    }

    /// The requests of one batch.
    fn window(
        &mut self,
        questions: &mut Questions<'_>,
        client: &Client,
        waited_for: &mut BTreeSet<RequestKey>,
    ) -> Result<Window, Failure> {
        let (mut lines, mut wanted, mut bytes) = (Vec::new(), BTreeMap::new(), 0);
        let most = self.batches.options.max_megabytes * 1_000_000;
        let budget = client.governor.budget();
        let ended = loop {
            if lines.len() >= self.batches.options.max_requests {
                break Ended::Full;
            }
            let Some((key, question)) = self.next_missing(questions)? else { break Ended::Questions };
            if wanted.contains_key(&key) || self.under_way.iter().any(|handed_in| handed_in.wanted.contains_key(&key)) {
                questions.next();
                continue;
            }
            if self.elsewhere.contains(&key) {
                waited_for.insert(key);
                questions.next();
                continue;
            }
            let request = &question.request;
            let body = client.api().body(request);
            let body = body.map_err(|error| Failure::internal(format!("a request cannot be written: {error}")))?;
            let line = line::write(&key, client.api().path(), &body);
            if !lines.is_empty() && bytes + line.len() as u64 > most {
                break Ended::Full;
            }
            let Claim::Mine(claim) = self.asking.store.claim(key, request.sampling.max_tokens) else {
                // Another stage asks it just now.
                waited_for.insert(key);
                questions.next();
                continue;
            };
            let estimate = client.estimate(std::slice::from_ref(request));
            let reservation = match budget.try_reserve(estimate) {
                Ok(Some(reservation)) => reservation,
                Ok(None) => break Ended::Budget,
                Err(used_up) => {
                    self.stop = Some(client.stop(used_up.cap, estimate));
                    break Ended::Budget;
                }
            };
            bytes += line.len() as u64;
            lines.push(line);
            wanted.insert(key, Wanted::new(question.request, reservation, Some(claim)));
            questions.next();
        };
        Ok((lines, wanted, ended))
    }

    /// The next question without a reply: as it is, or as it is asked again after the replies that it has. It stays where it is, so
    /// that it is seen again unless it is taken. What the server refused, or gave up for good, has no reply and is missing no more.
    fn next_missing(&self, questions: &mut Questions<'_>) -> Result<Option<(RequestKey, Question)>, Failure> {
        while let Some(question) = questions.peek() {
            let question = question.as_ref().map_err(Clone::clone)?;
            if let Some(missing) = self.missing(question)? {
                return Ok(Some(missing));
            }
            questions.next();
        }
        Ok(None)
    }

    fn missing(&self, question: &Question) -> Result<Option<(RequestKey, Question)>, Failure> {
        let asking = self.asking;
        let mut next = None;
        loop {
            let question = next.as_ref().unwrap_or(question);
            let key = question.request.key(&asking.identity);
            let found = asking.store.find(&key, question.request.sampling.max_tokens)?;
            asking.found_before.fetch_or(found.is_some(), Ordering::Relaxed);
            let reply = match found {
                None if asking.refused_in_a_batch(&key).is_some() => return Ok(None),
                None => {
                    let failed = asking.known_to_fail(question, &key)?;
                    failed.map(|what| Reply::without_words(Outcome::Failed, what))
                }
                Some(_) if asking.again.is_none() => return Ok(None),
                Some(location) => asking.store.read(&key, location)?,
            };
            match reply {
                None => return Ok(Some((key, question.clone()))),
                Some(reply) => match asking.next(question, &reply) {
                    None => return Ok(None),
                    again => next = again,
                },
            }
        }
    }

    /// Takes every batch whose turn it is one step further.
    async fn advance(&mut self, remote: &Remote<'_>) -> Result<(), Failure> {
        let mut number = 0;
        while number < self.under_way.len() {
            if self.under_way[number].due > Instant::now() {
                number += 1;
                continue;
            }
            let ended = self.under_way[number].step(remote, self.asking, self.batches).await?;
            match ended {
                None => number += 1,
                Some(ending) => {
                    self.under_way.swap_remove(number);
                    self.ended(remote, ending).await?;
                }
            }
        }
        let answered: u64 = self.under_way.iter().map(|handed_in| handed_in.counts.completed).sum();
        self.asking.batched.store(self.done + answered, Ordering::Relaxed);
        Ok(())
    }

    async fn ended(&mut self, remote: &Remote<'_>, ending: Ending) -> Result<(), Failure> {
        let limits = remote.client.limits();
        match ending {
            Ending::NoRoom(words) => {
                self.queue_full += 1;
                if self.queue_full >= limits.attempts {
                    let label = remote.client.endpoint.label();
                    let message = format!("{label} had no room for a batch {} times: {words}", self.queue_full);
                    return Err(Failure::new(Class::Teacher, message)
                        .hint("run again when other batches are through, or lower `batch.max-requests`"));
                }
            }
            Ending::Fetched { stored, given_up, refused } => {
                self.queue_full = 0;
                self.done += stored + refused;
                for GivenUp { key, max_tokens, what } in given_up {
                    let times = self.given_up.entry(key).or_default();
                    *times += 1;
                    if *times < limits.attempts || self.stop.is_some() {
                        continue;
                    }
                    let failure = remote.client.give_up(*times, &what, false);
                    self.asking.note_asked_ahead(key);
                    self.stop = self.asking.remember_failed(&key, max_tokens, failure, &what).await.err();
                }
            }
        }
        Ok(())
    }

    /// Says what goes on at the server.
    fn leave(&self) {
        for handed_in in &self.under_way {
            if let Some(batch) = &handed_in.entry.stand.batch {
                (self.batches.tell)(format!("batch {batch} goes on at the server: the next run fetches its replies"));
            }
        }
    }
}

type Window = (Vec<Vec<u8>>, BTreeMap<RequestKey, Wanted>, Ended);

/// Why a batch gets no more requests.
enum Ended {
    /// It is as large as it may be.
    Full,
    /// There are no more.
    Questions,
    /// The budget has no room for another one, or not as long as others are on their way.
    Budget,
}

fn tell_adopted(batches: &Batches<'_>, stand: &crate::batch::journal::Stand) {
    let what = match (&stand.batch, &stand.file) {
        (Some(batch), _) => format!("batch {batch}"),
        (None, Some(_)) => "a batch that was uploaded".to_owned(),
        (None, None) => "a batch that was begun".to_owned(),
    };
    (batches.tell)(format!("going on with {what} of an earlier run ({} requests)", stand.requests));
}

/// Pauses that grow up to the longest one.
#[derive(Clone, Copy, Debug)]
struct Patience {
    next: Duration,
    longest: Duration,
}

impl Patience {
    fn new(options: &BatchOptions) -> Self {
        let longest = Duration::try_from_secs_f64(options.poll_seconds).unwrap_or(Duration::from_secs(60));
        Self { next: longest.min(Duration::from_secs(1)), longest }
    }

    fn next(&mut self) -> Duration {
        let now = self.next;
        self.next = (now + now / 2).min(self.longest);
        now
    }
}
