//! Questions that the server refuses: counted, named, and borne as far as the user wants.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use stillhouse_stage::Failure;

use super::{Asking, Question};
use crate::answers::OnRejected;
use crate::replies::RequestKey;

/// So many refusals and not one answer: it is not the prompts that are at fault.
const REJECTED_AT_ONCE: u64 = 20;

/// Different words that are kept of what is refused in batches: there may be as many refusals as prompts.
const MOST_WORDS: usize = 1024;

/// Why a server refused a request: as the user shall read it, and its words.
pub(super) type Refusal = (Failure, String);

/// What the server refused of batches, until its turn comes.
#[derive(Debug, Default)]
pub(super) struct RefusedInBatches {
    requests: BTreeMap<RequestKey, Arc<Refusal>>,
    /// By their words, so that equal ones are kept once.
    refusals: BTreeMap<String, Arc<Refusal>>,
}

impl RefusedInBatches {
    /// Notes one. Of those beyond [`MOST_WORDS`] different ones only the status is kept.
    fn note(&mut self, key: RequestKey, (failure, words): Refusal) {
        let (failure, words) = match self.refusals.len() < MOST_WORDS || self.refusals.contains_key(&words) {
            true => (failure, words),
            false => without_words(failure, &words),
        };
        let refusal = self.refusals.entry(words).or_insert_with_key(|words| Arc::new((failure, words.clone())));
        self.requests.insert(key, Arc::clone(refusal));
    }
}

/// A refusal of which only the status is left: `400: the prompt has 5,000 tokens` → `400`.
fn without_words(mut failure: Failure, words: &str) -> Refusal {
    let (status, said) = words.split_at(words.find(':').unwrap_or(words.len()));
    failure.message.truncate(failure.message.strip_suffix(said).unwrap_or(&failure.message).len());
    (failure, status.to_owned())
}

impl Asking {
    /// Notes that the server refused a request of a batch.
    pub(super) fn note_refused_in_a_batch(&self, key: RequestKey, refusal: Refusal) {
        self.refused_in_batches.lock().unwrap_or_else(PoisonError::into_inner).note(key, refusal);
    }

    /// Why a server refused a request of a batch.
    pub(super) fn refused_in_a_batch(&self, key: &RequestKey) -> Option<Arc<Refusal>> {
        self.refused_in_batches.lock().unwrap_or_else(PoisonError::into_inner).requests.get(key).cloned()
    }

    /// Notes that the server refused a question. What it refuses from the first question on is no matter of the prompts.
    pub(super) fn refused(&self, question: &Question, failure: Failure) -> Result<(), Failure> {
        let (rejected, failure) = self.note_refused(question, failure)?;
        if rejected >= REJECTED_AT_ONCE && self.replied.load(Ordering::Relaxed) == 0 {
            return Err(failure.context(&format!("the first {REJECTED_AT_ONCE} requests were all rejected")));
        }
        Ok(())
    }

    /// Counts a question that the server refused, and names it.
    pub(super) fn note_refused(&self, question: &Question, failure: Failure) -> Result<(u64, Failure), Failure> {
        let failure = failure.context(&format!("prompt {} ({})", question.number, question.prompt.id));
        if self.without_reply.on_rejected == OnRejected::Fail {
            return Err(failure);
        }
        self.first_rejection.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| failure.clone());
        Ok((self.rejected.fetch_add(1, Ordering::Relaxed) + 1, failure))
    }

    pub(super) fn somebody_was_answered(&self) -> Result<(), Failure> {
        match (self.rejected(), self.first_rejection()) {
            (rejected @ 1.., Some(first)) if self.replied.load(Ordering::Relaxed) == 0 => {
                Err(first.context(&format!("every request was rejected ({rejected})")))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use stillhouse_stage::Class;

    use super::*;

    fn refusal(said: &str) -> Refusal {
        let message = format!("teacher t at http://here/v1 rejected a request (400): {said}");
        (Failure::new(Class::Teacher, message).hint("shorten it"), format!("400: {said}"))
    }

    fn key(number: usize) -> RequestKey {
        let mut key = RequestKey([0; 32]);
        key.0[..8].copy_from_slice(&number.to_le_bytes());
        key
    }

    #[test]
    fn what_is_kept_of_refusals_does_not_grow_with_their_number() {
        let (mut refused, many) = (RefusedInBatches::default(), 3 * MOST_WORDS);
        for number in 0..many {
            refused.note(key(number), refusal(&format!("the prompt has {number} tokens")));
            refused.note(key(many + number), refusal("no: not this one"));
        }
        assert_eq!((refused.requests.len(), refused.refusals.len()), (2 * many, MOST_WORDS + 1));
        assert_eq!(*refused.requests[&key(7)], refusal("the prompt has 7 tokens"));
        assert_eq!(*refused.requests[&key(2 * many - 1)], refusal("no: not this one"), "it is one of the first");
        let (failure, words) = &*refused.requests[&key(many - 1)];
        assert_eq!(
            (failure.message.as_str(), words.as_str()),
            ("teacher t at http://here/v1 rejected a request (400)", "400")
        );
        assert_eq!(failure.hint.as_deref(), Some("shorten it"));
    }
}
