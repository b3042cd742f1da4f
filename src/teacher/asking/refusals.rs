//! Questions that the server refuses: counted, named, and borne as far as the user wants.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use stillhouse_stage::Failure;

use super::{Asking, Question};
use crate::answers::OnRejected;

/// So many refusals and not one answer: it is not the prompts that are at fault.
const REJECTED_AT_ONCE: u64 = 20;

impl Asking {
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
