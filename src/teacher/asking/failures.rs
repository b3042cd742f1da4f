//! Questions that get no usable reply though others do: each loses nothing but itself, and is not paid again and again.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use stillhouse_data::answer::Outcome;
use stillhouse_stage::{Class, Failure};

use super::{Asking, Question};
use crate::answers::OnFailed;
use crate::replies::RequestKey;
use crate::reply::Reply;

/// So many, and not one that was asked now is answered: it is not the prompts that are at fault.
const FAILED_AT_ONCE: u64 = 20;
/// Those that a message names.
const NAMED: usize = 3;

impl Asking {
    /// Notes that no usable reply came to a question, and remembers it for later runs. Where nobody is answered it is the
    /// teacher's failure.
    pub(super) async fn failed(
        &self,
        question: &Question,
        key: RequestKey,
        failure: Failure,
        what: &str,
    ) -> Result<(), Failure> {
        if self.replied.load(Ordering::Relaxed) == 0 {
            return Err(failure);
        }
        let failed = self.note_failed(question, what);
        if failed >= FAILED_AT_ONCE && self.stored.load(Ordering::Relaxed) == 0 {
            return Err(failure.context(&format!("{FAILED_AT_ONCE} requests were given up and none was answered")));
        }
        let reply = Reply::without_words(Outcome::Failed, what.to_owned());
        self.store.put(key_of_failure(&key), question.request.sampling.max_tokens, &reply).await?;
        Ok(())
    }

    /// What came instead of a reply in an earlier run, where that is the end of it.
    pub(super) fn known_to_fail(&self, question: &Question, key: &RequestKey) -> Result<Option<String>, Failure> {
        if self.on_failed == OnFailed::Fail {
            return Ok(None);
        }
        let key = key_of_failure(key);
        let Some(location) = self.store.find(&key, question.request.sampling.max_tokens)? else { return Ok(None) };
        Ok(self.store.read(&key, location)?.map(|reply| reply.finish))
    }

    pub(super) fn note_failed(&self, question: &Question, what: &str) -> u64 {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.0 += 1;
        if failures.1.len() < NAMED {
            failures.1.push(format!("prompt {} ({}): {what}", question.number, question.prompt.id));
        }
        failures.0
    }

    /// How many questions got no usable reply.
    pub fn failures(&self) -> u64 {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    /// How many, and which, in words.
    pub fn failures_in_words(&self) -> Option<String> {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let (count, named) = &*failures;
        let more = if *count as usize > named.len() { "; …" } else { "" };
        (*count > 0).then(|| format!("{count} got no usable reply though others did: {}{more}", named.join("; ")))
    }

    /// The end of a stage that wants a reply to every question.
    pub(super) fn nothing_failed(&self) -> Result<(), Failure> {
        match self.failures_in_words().filter(|_| self.on_failed == OnFailed::Fail) {
            None => Ok(()),
            Some(words) => {
                let label = self.client().map_or("the teacher", |client| client.endpoint.label());
                Err(Failure::new(Class::Teacher, format!("{label}: of all requests {words}")).hint(
                    "all others are answered and kept: run again to ask these once more, or leave them out with \
                     `outcomes = { failed = \"drop\" }` in `[answers.X]`",
                ))
            }
        }
    }
}

/// Where it is remembered that a request got no usable reply: beside its reply, which still may come.
fn key_of_failure(key: &RequestKey) -> RequestKey {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"stillhouse/failed-request/1\0");
    hasher.update(&key.0);
    RequestKey(*hasher.finalize().as_bytes())
}
