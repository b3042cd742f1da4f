//! From a question to its reply: found in the store, asked by somebody else just now, or asked here.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use stillhouse_stage::Failure;

use super::{Asking, LOOK_ELSEWHERE, Landing, Origin, Question};
use crate::provider::server::Unanswered;
use crate::replies::{Claim, Mine, RequestKey};

impl Asking {
    pub(super) async fn answer(&self, question: &Question, key: RequestKey) -> Result<Landing, Failure> {
        let answered = self.answer_and_follow(question, key).await;
        if matches!(answered, Ok(Landing::Reply(..))) && question.request.attempt == 0 {
            self.replied.fetch_add(1, Ordering::Relaxed);
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
    async fn answer_and_follow(&self, question: &Question, key: RequestKey) -> Result<Landing, Failure> {
        let answered = self.answer_once(question, key).await?;
        let (Landing::Reply(first, _), true) = (&answered, self.again.is_some()) else { return Ok(answered) };
        let (mut key, mut location, mut asked) = (key, *first, None);
        while let Some(reply) = self.store.read(&key, location)?
            && let Some(next) = self.next(asked.as_ref().unwrap_or(question), &reply)
        {
            key = next.request.key(&self.identity);
            let Landing::Reply(place, origin) = self.answer_once(&next, key).await? else { break };
            if origin == Origin::Asked {
                self.asked_again.lock().unwrap_or_else(PoisonError::into_inner).insert(key);
            }
            (location, asked) = (place, Some(next));
        }
        Ok(answered)
    }

    /// Finds or asks; of equal questions one is asked and the others wait for it.
    async fn answer_once(&self, question: &Question, key: RequestKey) -> Result<Landing, Failure> {
        let max_tokens = question.request.sampling.max_tokens;
        loop {
            let mut mine = match self.store.claim(key, max_tokens) {
                Claim::Mine(mine) => mine,
                Claim::Other(mut other) => {
                    _ = other.changed().await;
                    continue;
                }
            };
            if let Some(location) = self.store.find(&key, max_tokens)? {
                return Ok(Landing::Reply(location, Origin::Stored));
            }
            if let Some((failure, words)) = self.refused_in_a_batch(&key) {
                self.note_refused(question, failure)?;
                return Ok(Landing::Rejected(words));
            }
            self.wait_for_other_processes(&mut mine).await;
            self.store.look_again()?;
            if let Some(location) = self.store.find(&key, max_tokens)? {
                return Ok(Landing::Reply(location, Origin::Stored));
            }
            if let Some(what) = self.known_to_fail(question, &key)? {
                self.note_failed(question, &what);
                return Ok(Landing::Failed(what, Origin::Stored));
            }
            let client = self.client.get_or_init(&self.connect).as_ref().map_err(Clone::clone)?;
            let reply = match client.ask(&question.request, &self.closing).await {
                Ok(reply) => reply,
                Err(Unanswered { failure, rejected: Some(words), .. }) => {
                    self.refused(question, failure)?;
                    return Ok(Landing::Rejected(words));
                }
                Err(Unanswered { failure, gave_up: Some(what), .. }) => {
                    self.failed(question, key, failure, &what).await?;
                    return Ok(Landing::Failed(what, Origin::Asked));
                }
                Err(Unanswered { failure, .. }) => return Err(failure),
            };
            let location = self.store.put(key, max_tokens, &reply).await?;
            self.stored.fetch_add(1, Ordering::Relaxed);
            drop(mine);
            return Ok(Landing::Reply(location, Origin::Asked));
        }
    }

    /// Waits until no other process asks a request. One that is being stopped waits for nobody: it will not ask.
    async fn wait_for_other_processes(&self, mine: &mut Mine) {
        let mut pause = LOOK_ELSEWHERE;
        while !self.store.share_claim(mine) && !self.closing.is_cancelled() {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LOOK_ELSEWHERE * 16);
        }
    }

    /// Notes a reply that was stored ahead of its turn.
    pub(super) fn was_paid(&self, key: RequestKey) {
        self.stored.fetch_add(1, Ordering::Relaxed);
        self.asked_again.lock().unwrap_or_else(PoisonError::into_inner).insert(key);
    }
}
