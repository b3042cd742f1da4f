//! From a question to its reply: found in the store, asked by somebody else just now, or asked here.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use stillhouse_data::answer::Outcome;
use stillhouse_stage::Failure;
use tokio::sync::SemaphorePermit;

use super::{Asking, LOOK_ELSEWHERE, Landing, Origin, Question};
use crate::provider::server::{At, Unanswered};
use crate::replies::{Claim, Mine, RequestKey};
use crate::reply::{Reply, Usage};
use crate::transport::Estimate;

impl Asking {
    pub(super) async fn answer(&self, question: &Question, key: RequestKey) -> Result<Landing, Failure> {
        let answered = self.answer_and_follow(question, key).await;
        self.flying.fetch_sub(1, Ordering::Relaxed);
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
        if self.again.is_none() {
            return Ok(answered);
        }
        let (mut reply, mut asked) = (self.reply_of(&key, &answered)?, None);
        while let Some(said) = reply
            && let Some(next) = self.next(asked.as_ref().unwrap_or(question), &said)
        {
            let key = next.request.key(&self.identity);
            let landing = self.answer_once(&next, key).await?;
            match &landing {
                Landing::Reply(_, Origin::Asked) | Landing::Failed(_, Origin::Asked) => self.note_asked_ahead(key),
                Landing::Reply(..) | Landing::Failed(..) | Landing::Rejected(_) => {}
            }
            let replied = matches!(landing, Landing::Reply(..)) && self.note_answered(&next);
            if replied && !matches!(answered, Landing::Reply(..)) {
                self.replied.fetch_add(1, Ordering::Relaxed);
            }
            (reply, asked) = (self.reply_of(&key, &landing)?, Some(next));
        }
        Ok(answered)
    }

    /// The reply that a question came to; nothing where the server refused it, which it would again.
    fn reply_of(&self, key: &RequestKey, landing: &Landing) -> Result<Option<Reply>, Failure> {
        Ok(match landing {
            Landing::Reply(location, _) => self.store.read(key, *location)?,
            Landing::Failed(what, _) => Some(Reply::without_words(Outcome::Failed, what.clone())),
            Landing::Rejected(_) => None,
        })
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
            if let Some(refusal) = self.refused_in_a_batch(&key) {
                let (failure, words) = &*refusal;
                self.note_refused(question, failure.clone())?;
                return Ok(Landing::Rejected(words.clone()));
            }
            let _turn = self.turn_among_processes(&mut mine).await;
            self.store.look_again()?;
            if let Some(location) = self.store.find(&key, max_tokens)? {
                return Ok(Landing::Reply(location, Origin::Stored));
            }
            if let Some(what) = self.known_to_fail(question, &key)? {
                self.note_failed(question, key, &what);
                return Ok(Landing::Failed(what, Origin::Stored));
            }
            let client = self.connected()?;
            let reply = match client.ask(&question.request, &self.closing).await {
                Ok(reply) => reply,
                Err(Unanswered { failure, fault }) => match fault {
                    At::Rejected(words) => {
                        self.refused(question, failure)?;
                        return Ok(Landing::Rejected(words));
                    }
                    At::Request(what) => {
                        self.failed(question, key, failure, &what).await?;
                        return Ok(Landing::Failed(what, Origin::Asked));
                    }
                    // A run whose last few requests fail has asked all others: it is no queue that burns.
                    At::InDoubt(what) if self.few_are_left() => {
                        self.failed(question, key, failure, &what).await?;
                        return Ok(Landing::Failed(what, Origin::Asked));
                    }
                    At::Teacher | At::InDoubt(_) => return Err(failure),
                },
            };
            let location = self.store.put(key, max_tokens, &reply).await?;
            self.note_stored(&reply);
            drop(mine);
            return Ok(Landing::Reply(location, Origin::Asked));
        }
    }

    /// Waits for its turn, and until no other process asks the request. One that is being stopped waits for nobody: it will
    /// not ask.
    async fn turn_among_processes(&self, mine: &mut Mine) -> Option<SemaphorePermit<'_>> {
        let mut pause = LOOK_ELSEWHERE;
        loop {
            // The semaphore is never closed.
            let turn = self.turns.acquire().await.ok();
            if self.store.share_claim(mine) || self.closing.is_cancelled() {
                return turn;
            }
            // Others may go meanwhile.
            drop(turn);
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LOOK_ELSEWHERE * 16);
        }
    }

    /// Notes a reply that was stored ahead of its turn.
    pub(super) fn was_paid(&self, key: RequestKey, reply: &Reply) {
        self.note_stored(reply);
        self.note_asked_ahead(key);
    }

    fn note_stored(&self, reply: &Reply) {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let Usage { prompt, completion } = reply.usage;
        *counted = counted.plus(Estimate { prompt: prompt.into(), completion: completion.into() });
        self.stored.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes that a request was asked ahead of its turn, whatever came of it.
    pub(super) fn note_asked_ahead(&self, key: RequestKey) {
        self.asked_ahead.lock().unwrap_or_else(PoisonError::into_inner).insert(key);
    }
}
