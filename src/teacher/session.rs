//! A teacher at the service of a stage that asks questions of its own: for new prompts, for scores. Its replies are kept
//! in the same store, within the same limits, as answers are.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use stillhouse_stage::Failure;

use crate::answers::{OnFailed, OnRejected};
use crate::asking::{Again, Origin, Question};
use crate::provider::Asker;
use crate::reply::Reply;

/// Names of models that are told apart: a server that makes up one a reply must not fill the record with them.
const MODELS: usize = 16;
const OTHERS: &str = "others";

/// How a stage wants to ask.
pub struct Asks<'a> {
    /// Who asks.
    pub asker: Asker<'a>,
    /// What becomes of a question that the server refuses.
    pub on_rejected: OnRejected,
    /// What becomes of one that gets no usable reply though others do; nothing where the stage's table can't say: it fails.
    pub on_failed: Option<OnFailed>,
    /// The request to ask after a reply, where that is not wanted as it is.
    pub again: Option<Again>,
    /// Questions in all, for the progress.
    pub total: u64,
    /// What they are for, as the progress names it: "scores".
    pub unit: &'static str,
}

/// Takes a reply with its question.
pub type Take<'t> = dyn FnMut(&Question, Reply, Origin) -> Result<(), Failure> + 't;

/// An open teacher. It may be asked several times, and each time what is in the store is not asked.
pub trait Session {
    /// Asks all questions and gives the replies to `take` in the order of the questions; of a question that is asked
    /// again, each of its replies.
    ///
    /// # Errors
    /// The first failure of the questions, the teacher, the store or `take`; interrupted, when cancelled.
    fn ask(
        &mut self,
        questions: &mut dyn Iterator<Item = Result<Question, Failure>>,
        take: &mut Take<'_>,
    ) -> Result<(), Failure>;

    /// Says what is to be said at the end; gives who answered, for the record.
    fn finish(&mut self, tally: &Tally) -> Value;

    /// Adds what was spent to a record's figures, and what came to nothing; nothing where nothing is paid.
    fn add_spent_to(&self, metrics: &mut Value);
}

/// Counts replies, and what they took.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    replies: u64,
    asked: u64,
    asked_again: u64,
    tokens: [u64; 2],
    paid_tokens: [u64; 2],
    models: BTreeMap<String, u64>,
}

impl Tally {
    /// Counts a reply.
    pub fn count(&mut self, question: &Question, reply: &Reply, origin: Origin) {
        let tokens = [u64::from(reply.usage.prompt), u64::from(reply.usage.completion)];
        let add = |sum: &mut [u64; 2]| sum.iter_mut().zip(tokens).for_each(|(sum, tokens)| *sum += tokens);
        self.replies += 1;
        self.asked_again += u64::from(question.request.attempt > 0);
        add(&mut self.tokens);
        if origin == Origin::Asked {
            self.asked += 1;
            add(&mut self.paid_tokens);
        }
        if reply.outcome.was_answered() {
            let known = self.models.len() < MODELS || self.models.contains_key(&reply.model);
            *self.models.entry(if known { reply.model.clone() } else { OTHERS.to_owned() }).or_default() += 1;
        }
    }

    /// The models as they were named, with the number of their replies.
    #[must_use]
    pub fn models(&self) -> Value {
        json!(self.models)
    }

    /// Adds the figures to a record's, and what the teacher took.
    pub fn add_to(&self, metrics: &mut Value, session: &dyn Session) {
        self.add_counts_to(metrics);
        session.add_spent_to(metrics);
    }

    /// Adds the figures to a record's.
    pub fn add_counts_to(&self, metrics: &mut Value) {
        let tokens = |[prompt, completion]: [u64; 2]| json!({ "prompt": prompt, "completion": completion });
        metrics["asked"] = json!(self.asked);
        metrics["from-cache"] = json!(self.replies - self.asked);
        if self.asked_again > 0 {
            metrics["asked-again"] = json!(self.asked_again);
        }
        metrics["tokens"] = tokens(self.tokens);
        metrics["paid-tokens"] = tokens(self.paid_tokens);
    }
}
