//! What a stage would ask of a teacher: requests that are in no store yet, and the most that they can take.

use std::collections::BTreeSet;

use stillhouse_stage::{Ahead, Forecast};

use super::Known;
use super::counting::{Counter, Reader};
use super::image_tokens::Rule;
use crate::answers::{AnswersConfig, OnFailed, Questions};
use crate::asking::key_of_failure;
use crate::replies::{ReplyStore, RequestKey};
use crate::request::{Identity, Request};
use crate::transport::Prices;

/// A teacher as a plan sees it.
pub(super) struct Foreseen<'a> {
    pub(super) ahead: &'a Ahead<'a>,
    pub(super) identity: Identity,
    /// Requests that are paid for, though their replies are not here.
    pub(super) under_way: BTreeSet<RequestKey>,
    /// Whether a reply is kept with its log-probabilities; of a model that runs here they are computed anew.
    pub(super) keeps_captured: bool,
    /// Tokens that a reply may take beyond its limit.
    pub(super) thinking_tokens: u64,
    /// Requests that go together.
    pub(super) together: u64,
    /// Whether they are texts that get vectors.
    pub(super) makes_vectors: bool,
    pub(super) prices: Option<Prices>,
    /// Opens the tokenizer that prompts are counted with, where there is one.
    pub(super) reader: Box<dyn Fn() -> Option<Reader> + 'a>,
    pub(super) rule: Rule,
}

impl Foreseen<'_> {
    /// Requests, tokens and money of a stage; nothing where its prompts are not made yet, or cannot be read. Tokens of prompts are
    /// counted with the tokenizer that is known to be the teacher's, else estimated from their bytes; those of replies are at their
    /// limit.
    pub(super) fn answers(&self, answers: &AnswersConfig) -> Option<Forecast> {
        let (port, file) = Questions::port(answers);
        let questions = Questions::open(&self.ahead.input_file(port, file)?, answers, self.ahead.seed).ok()?;
        let requests = questions.map(|question| question.map(|question| question.request).ok());
        Some(self.unanswered(requests, answers.outcomes.failed)?.forecast(self))
    }

    /// See [`super::Provider::forecast_requests`].
    pub(super) fn requests(&self, known: Known<'_>, like_them: u64, on_failed: OnFailed) -> Option<Forecast> {
        // Of those that are stored already, too: later ones are like any of them.
        let mut all = (like_them > 0).then(|| self.counter());
        let mut limit = None;
        let known = known.inspect(|request| {
            let Some(request) = request else { return };
            limit = limit.max(Some(self.most(request)));
            if let Some(all) = &mut all {
                all.add(&request.messages);
            }
        });
        let mut missing = self.unanswered(known, on_failed)?;
        let limit = limit?;
        if let Some(all) = all {
            missing.requests += like_them;
            missing.more += like_them * all.tokens() / all.prompts();
            missing.output += like_them * limit;
        }
        Some(missing.forecast(self))
    }

    fn counter(&self) -> Counter<'_> {
        Counter::new(&*self.reader, self.rule)
    }

    /// The most tokens that a reply can take.
    fn most(&self, request: &Request) -> u64 {
        // A model that runs here reads a given answer and writes nothing.
        if request.given.is_some() && !self.keeps_captured {
            return 0;
        }
        u64::from(request.sampling.max_tokens) + self.thinking_tokens
    }

    /// Equal requests are asked once, and what was given up only where that is wished.
    fn unanswered(&self, requests: impl Iterator<Item = Option<Request>>, on_failed: OnFailed) -> Option<Missing<'_>> {
        let store = ReplyStore::shared(&self.ahead.store.replies_dir().join(self.identity.folder())).ok()?;
        let mut missing = Missing { requests: 0, prompts: self.counter(), more: 0, output: 0 };
        let mut asked = BTreeSet::new();
        for request in requests {
            let mut request = request?;
            if !self.keeps_captured {
                request.capture = None;
            }
            let key = request.key(&self.identity);
            let is_stored =
                |key: &RequestKey| store.find(key, request.sampling.max_tokens).ok().map(|found| found.is_some());
            let given_up = on_failed != OnFailed::Fail && is_stored(&key_of_failure(&key))?;
            if !given_up && !is_stored(&key)? && !self.under_way.contains(&key) && asked.insert(key) {
                missing.requests += 1;
                missing.prompts.add(&request.conversation());
                missing.output += self.most(&request);
            }
        }
        Some(missing)
    }
}

/// Requests that are in no store, and the tokens that they can take.
struct Missing<'a> {
    requests: u64,
    prompts: Counter<'a>,
    /// Tokens of prompts that are not known yet.
    more: u64,
    output: u64,
}

impl Missing<'_> {
    fn forecast(&self, teacher: &Foreseen<'_>) -> Forecast {
        let input = self.prompts.tokens() + self.more;
        Forecast {
            requests: self.requests.div_ceil(teacher.together.max(1)),
            texts: if teacher.makes_vectors { self.requests } else { 0 },
            tokens: Some(input + self.output),
            usd: teacher.prices.map(|prices| prices.of(input, self.output)),
            counted_by: self.prompts.counted_by(),
            images: self.prompts.images(),
        }
    }
}
