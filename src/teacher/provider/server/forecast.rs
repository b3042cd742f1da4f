//! What a stage would ask of a server: requests that are in no store yet, and the most that they can take.

use std::collections::BTreeSet;

use stillhouse_stage::{Ahead, Forecast};

use super::Server;
use super::counting::Counter;
use crate::answers::{AnswersConfig, OnFailed, Questions};
use crate::asking::key_of_failure;
use crate::batch::Journal;
use crate::replies::ReplyStore;
use crate::request::Request;

/// Requests, tokens and money of a stage; nothing where its prompts are not made yet, or cannot be read. Tokens of
/// prompts are counted with the tokenizer that the teacher names, else estimated from their bytes; those of replies are
/// at their limit.
#[must_use]
pub fn forecast(server: &Server, answers: &AnswersConfig, ahead: &Ahead<'_>) -> Option<Forecast> {
    let (port, file) = Questions::port(answers);
    let input = ahead.inputs.get(port)?;
    let tree = ahead.store.tree(&input.output).ok()??;
    let entry = tree.entries().iter().find(|entry| entry.path == file)?;
    let questions = Questions::open(&ahead.store.blob_path(&entry.digest), answers, ahead.seed).ok()?;
    let requests = questions.map(|question| question.map(|question| question.request).ok());
    Some(unanswered(server, requests, answers.outcomes.failed, ahead)?.forecast(server))
}

/// What questions of a stage's own would take: those of `known` that are in no store yet, and `like_them` more that are
/// as long as those are on average.
#[must_use]
pub fn forecast_requests(
    server: &Server,
    known: Vec<Request>,
    like_them: u64,
    on_failed: OnFailed,
    ahead: &Ahead<'_>,
) -> Option<Forecast> {
    let limit = known.iter().map(|request| u64::from(request.sampling.max_tokens)).max()?;
    let mut all = Counter::of(server, ahead);
    if like_them > 0 {
        known.iter().for_each(|request| all.add(&request.messages));
    }
    let mut missing = unanswered(server, known.into_iter().map(Some), on_failed, ahead)?;
    if like_them > 0 {
        missing.requests += like_them;
        missing.more += like_them * all.tokens() / all.prompts();
        missing.output += like_them * (limit + server.thinking_tokens);
    }
    Some(missing.forecast(server))
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
    fn forecast(&self, server: &Server) -> Forecast {
        let input = self.prompts.tokens() + self.more;
        Forecast {
            requests: self.requests.div_ceil(server.api.together().max(1) as u64),
            tokens: Some(input + self.output),
            usd: server.limits.prices.map(|prices| prices.of(input, self.output)),
            counted_by: self.prompts.counted_by(),
            images: self.prompts.images(),
        }
    }
}

/// Equal requests are asked once, and what was given up only where that is wished.
fn unanswered<'a>(
    server: &Server,
    requests: impl Iterator<Item = Option<Request>>,
    on_failed: OnFailed,
    ahead: &'a Ahead<'a>,
) -> Option<Missing<'a>> {
    let identity = server.identity();
    let store = ReplyStore::shared(&ahead.store.replies_dir().join(identity.folder())).ok()?;
    // What was handed in before is paid for.
    let handed_in = match &server.batch {
        Some(_) => Journal::of(store.directory(), &server.base_url).under_way().ok()?,
        None => BTreeSet::new(),
    };
    let mut missing = Missing { requests: 0, prompts: Counter::of(server, ahead), more: 0, output: 0 };
    let mut asked = BTreeSet::new();
    for request in requests {
        let request = request?;
        let key = request.key(&identity);
        let is_stored = |key: &crate::replies::RequestKey| store.find(key, request.sampling.max_tokens).ok().map(|found| found.is_some());
        let given_up = on_failed != OnFailed::Fail && is_stored(&key_of_failure(&key))?;
        if !given_up && !is_stored(&key)? && !handed_in.contains(&key) && asked.insert(key) {
            missing.requests += 1;
            missing.prompts.add(&request.conversation());
            missing.output += u64::from(request.sampling.max_tokens) + server.thinking_tokens;
        }
    }
    Some(missing)
}
