//! One batch on its way: what its next step is, and what becomes of what comes back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use stillhouse_data::answer::Outcome;
use stillhouse_stage::{Class, Failure};
use tokio::time::Instant;

use super::{Batches, Patience};
use crate::asking::Asking;
use crate::batch::Entry;
use crate::batch::line::{self, Said, Wanted};
use crate::batch::remote::{Batch, BatchError, Counts, Remote};
use crate::provider::server::Client;
use crate::replies::RequestKey;
use crate::reply::{Reply, Usage};
use crate::transport::budget::Cost;
use crate::transport::{Fault, Meter};

/// Replies under way to the disk at a time.
const AT_ONCE: usize = 512;
/// Reasons that are told of a batch that failed.
const TOLD: usize = 3;
/// What was told last of a batch that somebody called off.
const CANCELLED: &str = "cancelled";
/// What a server says that has as many requests queued as it takes.
const NO_ROOM: &str = "token_limit_exceeded";

/// A batch on its way.
pub struct HandedIn {
    pub entry: Entry,
    /// Its requests that nothing was said of yet.
    pub wanted: BTreeMap<RequestKey, Wanted>,
    /// When it is looked at next.
    pub due: Instant,
    /// How far it is at the server.
    pub counts: Counts,
    meter: Arc<Meter>,
    patience: Option<Patience>,
    /// Whether it is of an earlier run.
    adopted: bool,
    told: String,
}

/// What a batch came to.
pub enum Ending {
    /// The server had no room for it, in these words, and began nothing of it.
    NoRoom(String),
    /// All that it brought is in the store.
    Fetched {
        /// Replies.
        stored: u64,
        /// Requests that the server may answer another time.
        given_up: Vec<GivenUp>,
        /// Requests that the server refused.
        refused: u64,
    },
}

/// A request that a batch brought no reply to.
pub struct GivenUp {
    pub key: RequestKey,
    /// The limit that it was asked with.
    pub max_tokens: u32,
    /// What came instead.
    pub what: String,
}

impl HandedIn {
    /// One of this run.
    pub fn begun(entry: Entry, wanted: BTreeMap<RequestKey, Wanted>, client: &Client) -> Self {
        Self::with(entry, wanted, client, false)
    }

    /// One of an earlier run.
    pub fn adopted(entry: Entry, wanted: BTreeMap<RequestKey, Wanted>, client: &Client) -> Self {
        Self::with(entry, wanted, client, true)
    }

    fn with(entry: Entry, wanted: BTreeMap<RequestKey, Wanted>, client: &Client, adopted: bool) -> Self {
        Self {
            entry,
            wanted,
            due: Instant::now(),
            counts: Counts::default(),
            meter: Arc::clone(client.meter()),
            patience: None,
            adopted,
            told: String::new(),
        }
    }

    /// Takes it as far as it goes without waiting.
    ///
    /// # Errors
    /// A [`Failure`] as the user shall read it.
    pub async fn step(
        &mut self,
        remote: &Remote<'_>,
        asking: &Asking,
        batches: &Batches<'_>,
    ) -> Result<Option<Ending>, Failure> {
        let file = match &self.entry.stand.file {
            Some(file) => file.clone(),
            None => {
                let file = remote.upload(&self.entry).await?;
                self.entry.uploaded(file.clone())?;
                file
            }
        };
        let batch = match self.entry.stand.batch.clone() {
            Some(id) => remote.look(&self.entry, &id).await?,
            None => {
                let batch = remote.make(&self.entry, &file, self.adopted).await?;
                self.entry.made(batch.id.clone())?;
                (batches.tell)(format!("handed in batch {} ({} requests)", batch.id, self.wanted.len()));
                batch
            }
        };
        self.counts = batch.request_counts.unwrap_or_default();
        match batch.status.as_str() {
            "cancelled" if self.told != CANCELLED => {
                // Somebody meant it: whoever looks on can still stop before it is paid for again.
                (batches.tell)(format!(
                    "batch {} was cancelled at the server ({} of {} answered): the others are handed in again; ctrl-c stops",
                    batch.id, self.counts.completed, self.counts.total
                ));
                CANCELLED.clone_into(&mut self.told);
                self.due = Instant::now() + self.patience.get_or_insert_with(|| Patience::new(batches.options)).next();
                Ok(None)
            }
            "completed" | "expired" | "cancelled" => self.fetch(remote, asking, batches, &batch).await.map(Some),
            "failed" => self.failed(remote, &batch).map(Some),
            status => {
                let told =
                    format!("batch {} is {status}: {} of {}", batch.id, self.counts.completed, self.counts.total);
                if told != self.told {
                    (batches.tell)(told.clone());
                    self.told = told;
                }
                let pause = self.patience.get_or_insert_with(|| Patience::new(batches.options)).next();
                self.due = Instant::now() + pause;
                Ok(None)
            }
        }
    }

    /// Nothing of it was begun, so nothing is to be paid.
    fn failed(&mut self, remote: &Remote<'_>, batch: &Batch) -> Result<Ending, Failure> {
        self.wanted.clear();
        self.entry.finish()?;
        let errors = batch.errors.clone().unwrap_or_default().data;
        let word = |error: &BatchError| {
            let line = error.line.map_or_else(String::new, |line| format!(" (line {line})"));
            let code = error.code.as_deref().unwrap_or("no reason given");
            format!("{code}{line}: {}", error.message.as_deref().unwrap_or_default())
        };
        let words: Vec<String> = errors.iter().take(TOLD).map(word).collect();
        let words = remote.client.endpoint.quote(&words.join("; "));
        if errors.iter().any(|error| error.code.as_deref() == Some(NO_ROOM)) {
            return Ok(Ending::NoRoom(words));
        }
        let label = remote.client.endpoint.label();
        Err(Failure::new(Class::Teacher, format!("{label} takes no batch {}: {words}", batch.id))
            .hint("nothing of it was begun or paid; does its server have the `model` for batches?"))
    }

    /// Brings its replies into the store, and says what became of the rest.
    async fn fetch(
        &mut self,
        remote: &Remote<'_>,
        asking: &Asking,
        batches: &Batches<'_>,
        batch: &Batch,
    ) -> Result<Ending, Failure> {
        let mut brought = Brought::default();
        for file in [&batch.output_file_id, &batch.error_file_id].into_iter().flatten() {
            let here = remote.insist(&batch.id, async |_| {
                let Some(mut download) = remote.download(file).await? else { return Ok(false) };
                while let Some(line) = download.line().await? {
                    if remote.cancel.is_cancelled() {
                        return Err(Fault::Permanent(Failure::interrupted()));
                    }
                    if !line.is_empty() {
                        self.take(&line, remote, asking, &mut brought);
                    }
                    if brought.replies.len() >= AT_ONCE {
                        self.keep(asking, &mut brought).await.map_err(Fault::Permanent)?;
                    }
                }
                Ok(true)
            });
            if !here.await? {
                (batches.tell)(format!("batch {} has lost its file {file}", batch.id));
            }
            self.keep(asking, &mut brought).await?;
        }
        // What is left was neither answered nor given up in so many words.
        let left: Vec<RequestKey> = self.wanted.keys().copied().collect();
        for key in left {
            let Some(max_tokens) = self.settle(&key, Cost::Nothing) else { continue };
            let what = format!("the batch {} says nothing of it ({})", batch.id, batch.status);
            brought.given_up.push(GivenUp { key, max_tokens, what });
        }
        self.entry.finish()?;
        let (id, stored, refused, again) = (&batch.id, brought.stored, brought.refused, brought.given_up.len());
        (batches.tell)(format!("batch {id} brought {stored} replies, {refused} refusals, {again} to be asked again"));
        match brought.stop {
            Some(failure) => Err(failure),
            None => Ok(Ending::Fetched { stored, given_up: brought.given_up, refused }),
        }
    }

    /// Takes what a line says. Of two lines of one request the first one counts.
    fn take(&mut self, line: &[u8], remote: &Remote<'_>, asking: &Asking, brought: &mut Brought) {
        let Some((key, said)) = line::read(line, &self.wanted, remote.client) else {
            tracing::debug!(batch = self.entry.id, "a line of none of its requests");
            return;
        };
        if brought.pending.contains(&key) {
            return;
        }
        match said {
            Said::Reply(reply) | Said::Filtered(reply) => {
                brought.pending.insert(key);
                brought.replies.push((key, reply));
            }
            Said::Fault(fault, cost) => {
                let Some(max_tokens) = self.settle(&key, cost) else { return };
                match fault {
                    Fault::Transient { what, .. } | Fault::Garbled { what } | Fault::Filtered { words: what } => {
                        brought.given_up.push(GivenUp { key, max_tokens, what });
                    }
                    Fault::Rejected { failure, words } => {
                        brought.refused += 1;
                        asking.note_refused_in_a_batch(key, (failure, words));
                    }
                    Fault::Permanent(failure) => {
                        brought.given_up.push(GivenUp { key, max_tokens, what: failure.message.clone() });
                        brought.stop.get_or_insert(failure);
                    }
                }
            }
        }
    }

    /// Stores the replies that were taken; they are durable when this returns.
    async fn keep(&mut self, asking: &Asking, brought: &mut Brought) -> Result<(), Failure> {
        let replies = std::mem::take(&mut brought.replies);
        let puts = replies.iter().filter_map(|(key, reply)| {
            let max_tokens = self.wanted.get(key)?.max_tokens();
            Some(asking.store.put(*key, max_tokens, reply))
        });
        for stored in futures_util::future::join_all(puts).await {
            stored?;
        }
        for (key, reply) in &replies {
            // Held back before anything was said, with a status of its own: nothing is to be paid.
            let refused = reply.outcome == Outcome::ContentFilter && reply.usage == Usage::default();
            self.settle(key, if refused { Cost::Nothing } else { Cost::Counted(reply.usage) });
            asking.was_paid(*key, reply);
        }
        brought.stored += replies.len() as u64;
        brought.pending.clear();
        Ok(())
    }

    /// Nothing more is expected of a request. Gives the limit that it was asked with; nothing where none was expected.
    fn settle(&mut self, key: &RequestKey, cost: Cost) -> Option<u32> {
        let wanted = self.wanted.remove(key)?;
        let max_tokens = wanted.max_tokens();
        wanted.reservation.settle(cost, Some(&self.meter));
        Some(max_tokens)
    }
}

impl Drop for HandedIn {
    /// Left at the server it costs as much as it can; what was not made yet costs nothing.
    fn drop(&mut self) {
        if self.entry.stand.batch.is_some() {
            for wanted in std::mem::take(&mut self.wanted).into_values() {
                wanted.reservation.settle(Cost::Unknown, Some(&self.meter));
            }
        }
    }
}

/// What a batch brought so far.
#[derive(Default)]
struct Brought {
    /// Replies that are not in the store yet.
    replies: Vec<(RequestKey, Reply)>,
    /// Their requests.
    pending: BTreeSet<RequestKey>,
    stored: u64,
    given_up: Vec<GivenUp>,
    refused: u64,
    stop: Option<Failure>,
}
