//! Questions that get no usable reply though others do: each loses nothing but itself, and is not paid again and again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use stillhouse_data::answer::Outcome;
use stillhouse_stage::{Class, Failure};

use super::{Asking, Question};
use crate::answers::OnFailed;
use crate::provider::server::Client;
use crate::replies::RequestKey;
use crate::reply::Reply;

/// So many, and not one that was asked now is answered: it is not the prompts that are at fault.
const FAILED_AT_ONCE: usize = 20;
/// Those that a message names.
const NAMED: usize = 3;
/// Those whose reasons are remembered, so that there are some to name though others are answered later.
const REMEMBERED: usize = 64;

/// What came to nothing.
#[derive(Debug, Default)]
pub(super) struct Failures(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Questions whose last request came to nothing, by their number and sample; of the first of them in words.
    questions: BTreeMap<(u64, u32), Option<String>>,
    /// Their requests, and those of questions that got a reply when they were asked again.
    requests: BTreeSet<RequestKey>,
    /// The requests of this run; what came in place of their replies is in the store.
    now: BTreeSet<RequestKey>,
}

impl Failures {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Asking {
    /// Notes that no usable reply came to a question, and remembers it for later runs.
    ///
    /// # Errors
    /// Where nobody is answered it is the teacher's failure; the store's.
    pub(super) async fn failed(
        &self,
        question: &Question,
        key: RequestKey,
        failure: Failure,
        what: &str,
    ) -> Result<(), Failure> {
        self.remember_failed(&key, question.request.sampling.max_tokens, failure, what).await?;
        self.note_failed(question, key, what);
        Ok(())
    }

    /// Remembers, for this run and for later ones, that no usable reply came to a request that was limited to `max_tokens`.
    ///
    /// # Errors
    /// As [`Asking::failed`].
    pub(super) async fn remember_failed(
        &self,
        key: &RequestKey,
        max_tokens: u32,
        failure: Failure,
        what: &str,
    ) -> Result<(), Failure> {
        if !self.somebody_has_a_reply() {
            return Err(failure);
        }
        let failed = {
            let now = &mut self.failures.lock().now;
            now.insert(*key);
            now.len()
        };
        if failed >= FAILED_AT_ONCE && self.stored.load(Ordering::Relaxed) == 0 {
            return Err(failure.context(&format!("{FAILED_AT_ONCE} requests were given up and none was answered")));
        }
        let reply = Reply::without_words(Outcome::Failed, what.to_owned());
        self.store.put(key_of_failure(key), max_tokens, &reply).await?;
        Ok(())
    }

    /// Whether all questions are under way, and so few have no reply yet that it may be their own fault.
    pub(super) fn few_are_left(&self) -> bool {
        self.no_more.load(Ordering::Relaxed) && self.flying.load(Ordering::Relaxed) < FAILED_AT_ONCE as u64
    }

    /// Whether there is a reply to any question, whenever it came.
    fn somebody_has_a_reply(&self) -> bool {
        self.replied.load(Ordering::Relaxed) > 0
            || self.stored.load(Ordering::Relaxed) > 0
            || self.found_before.load(Ordering::Relaxed)
            || self.client().is_some_and(Client::has_replied)
    }

    /// What came instead of a reply, in this run or an earlier one, where that is the end of it.
    pub(super) fn known_to_fail(&self, question: &Question, key: &RequestKey) -> Result<Option<String>, Failure> {
        if self.without_reply.on_failed == OnFailed::Fail && !self.failures.lock().now.contains(key) {
            return Ok(None);
        }
        let key = key_of_failure(key);
        let Some(location) = self.store.find(&key, question.request.sampling.max_tokens)? else { return Ok(None) };
        Ok(self.store.read(&key, location)?.map(|reply| reply.finish))
    }

    /// Notes a question to which no usable reply came.
    pub(super) fn note_failed(&self, question: &Question, key: RequestKey, what: &str) {
        let failures = &mut *self.failures.lock();
        let (number, id) = (question.number, &question.prompt.id);
        let name = (number, question.request.sample);
        let is_remembered = matches!(failures.questions.get(&name), Some(Some(_)));
        let words =
            (is_remembered || failures.questions.len() < REMEMBERED).then(|| format!("prompt {number} ({id}): {what}"));
        failures.requests.insert(key);
        failures.questions.insert(name, words);
    }

    /// Notes that a question got a reply; whether none had come before.
    pub(super) fn note_answered(&self, question: &Question) -> bool {
        self.failures.lock().questions.remove(&(question.number, question.request.sample)).is_some()
    }

    /// How many questions got no usable reply.
    pub fn failures(&self) -> u64 {
        self.failures.lock().questions.len() as u64
    }

    /// How many, and which, in words.
    pub fn failures_in_words(&self) -> Option<String> {
        let failures = self.failures.lock();
        let (count, requests) = (failures.questions.len(), failures.requests.len());
        let named: Vec<&str> = failures.questions.values().flatten().take(NAMED).map(String::as_str).collect();
        let more = if count > named.len() { "; …" } else { "" };
        let times = if requests > count { format!(", asked {requests} times in all") } else { String::new() };
        (count > 0).then(|| format!("{count} got no usable reply though others did{times}: {}{more}", named.join("; ")))
    }

    /// Writes into a record how many questions have no usable reply, and how many requests came to nothing.
    pub fn add_failures_to(&self, metrics: &mut Value) {
        let failures = self.failures.lock();
        if !failures.requests.is_empty() {
            metrics["failed"] = json!({ "prompts": failures.questions.len(), "requests": failures.requests.len() });
        }
    }

    /// The end of a stage that wants a reply to every question.
    pub(super) fn nothing_failed(&self) -> Result<(), Failure> {
        match self.failures_in_words().filter(|_| self.without_reply.on_failed == OnFailed::Fail) {
            None => Ok(()),
            Some(words) => {
                let label = self.client().map_or("the teacher", |client| client.endpoint.label());
                let leave_out = match &self.without_reply.kind {
                    Some(kind) => {
                        format!(", or leave them out with `outcomes = {{ failed = \"drop\" }}` in `[{kind}.X]`")
                    }
                    None => String::new(),
                };
                Err(Failure::new(Class::Teacher, format!("{label}: of all requests {words}"))
                    .hint(format!("all others are answered and kept: run again to ask these once more{leave_out}")))
            }
        }
    }
}

/// Where it is remembered that a request got no usable reply: beside its reply, which still may come.
pub(crate) fn key_of_failure(key: &RequestKey) -> RequestKey {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"stillhouse/failed-request/1\0");
    hasher.update(&key.0);
    RequestKey(*hasher.finalize().as_bytes())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use stillhouse_data::prompt::{Message, Prompt};

    use super::*;
    use crate::answers::OnRejected;
    use crate::replies::ReplyStore;
    use crate::request::{Identity, Request, Sampling};

    fn question(number: u64) -> Question {
        let messages = vec![Message::user(number.to_string())];
        let prompt = Arc::new(Prompt::new(messages.clone(), None));
        let sampling = Sampling { temperature: 0.0, top_p: 1.0, top_k: None, max_tokens: 1, stop: Vec::new() };
        let request = Request { messages, sampling, capture: None, sample: 0, attempt: 0, seed: None, given: None };
        Question { prompt, number, request }
    }

    #[tokio::test]
    async fn the_reasons_of_many_failures_are_in_the_store_and_not_in_memory() {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(ReplyStore::open(folder.path()).unwrap());
        let identity = Identity { family: "openai-chat", model: "m".to_owned(), revision: None };
        let asking =
            Asking::new(identity, store, OnRejected::Keep, || Err(Failure::internal("nobody is connected to")));
        asking.stored.store(1, Ordering::Relaxed);
        let count = 4 * REMEMBERED as u64;
        let key = |question: &Question| question.request.key(&asking.identity);
        for question in (0..count).map(question) {
            let failure = Failure::new(Class::Teacher, "it gave up");
            asking.failed(&question, key(&question), failure, &format!("reason {}", question.number)).await.unwrap();
        }
        assert_eq!(asking.failures(), count);
        let in_memory = format!("{:?}", asking.failures);
        assert_eq!(in_memory.matches("reason").count(), REMEMBERED);
        for question in (0..count).map(question) {
            let known = asking.known_to_fail(&question, &key(&question)).unwrap();
            assert_eq!(known, Some(format!("reason {}", question.number)), "it is asked once a run");
        }
        let other = question(count);
        assert_eq!(asking.known_to_fail(&other, &key(&other)).unwrap(), None);
    }
}
