//! What an `answers` stage would ask of a server: requests that are in no store yet, and the most that they can take.

use std::collections::BTreeSet;

use stillhouse_data::prompt::PROMPTS_FILE;
use stillhouse_stage::store::Store;
use stillhouse_stage::{Ahead, Forecast};

use super::Server;
use crate::answers::{AnswersConfig, Questions};
use crate::batch::Journal;
use crate::replies::ReplyStore;
use crate::request::Request;

/// Bytes of text a token has on average, in English and with the tokenizers of today's large models.
const BYTES_A_TOKEN: u64 = 4;
/// Tokens that a chat template puts around a turn.
const TOKENS_A_TURN: u64 = 4;

/// Requests, tokens and money of a stage; nothing where its prompts are not made yet, or cannot be read. Tokens of
/// prompts are estimated from their bytes (the server's tokenizer is not known here), those of replies are at their
/// limit.
#[must_use]
pub fn forecast(server: &Server, answers: &AnswersConfig, ahead: &Ahead<'_>) -> Option<Forecast> {
    let prompts = ahead.inputs.get("prompts")?;
    let tree = ahead.store.tree(&prompts.output).ok()??;
    let entry = tree.entries().iter().find(|entry| entry.path == PROMPTS_FILE)?;
    let questions = Questions::open(&ahead.store.blob_path(&entry.digest), answers, ahead.seed).ok()?;
    let requests = questions.map(|question| question.map(|question| question.request).ok());
    Some(unanswered(server, requests, ahead.store)?.forecast(server))
}

/// What questions of a stage's own would take: those of `known` that are in no store yet, and `like_them` more that are
/// as long as those are on average.
#[must_use]
pub fn forecast_requests(server: &Server, known: Vec<Request>, like_them: u64, store: &Store) -> Option<Forecast> {
    let (count, length) = (known.len() as u64, known.iter().map(tokens_of).sum::<u64>());
    let limit = known.iter().map(|request| u64::from(request.sampling.max_tokens)).max().unwrap_or_default();
    if count == 0 {
        return None;
    }
    let mut missing = unanswered(server, known.into_iter().map(Some), store)?;
    missing.requests += like_them;
    missing.input += like_them * length / count;
    missing.output += like_them * limit;
    Some(missing.forecast(server))
}

/// Requests that are in no store, and the tokens that they can take.
#[derive(Default)]
struct Missing {
    requests: u64,
    input: u64,
    output: u64,
}

impl Missing {
    fn forecast(&self, server: &Server) -> Forecast {
        Forecast {
            requests: self.requests.div_ceil(server.api.together().max(1) as u64),
            tokens: Some(self.input + self.output),
            usd: server.limits.prices.map(|prices| prices.of(self.input, self.output)),
        }
    }
}

/// Equal requests are asked once.
fn unanswered(server: &Server, requests: impl Iterator<Item = Option<Request>>, store: &Store) -> Option<Missing> {
    let identity = server.identity();
    let store = ReplyStore::shared(&store.replies_dir().join(identity.folder())).ok()?;
    // What was handed in before is paid for.
    let handed_in = match &server.batch {
        Some(_) => Journal::of(store.directory(), &server.base_url).under_way().ok()?,
        None => BTreeSet::new(),
    };
    let (mut missing, mut asked) = (Missing::default(), BTreeSet::new());
    for request in requests {
        let request = request?;
        let key = request.key(&identity);
        let stored = store.find(&key, request.sampling.max_tokens).ok()?.is_some();
        if !stored && !handed_in.contains(&key) && asked.insert(key) {
            missing.requests += 1;
            missing.input += tokens_of(&request);
            missing.output += u64::from(request.sampling.max_tokens);
        }
    }
    Some(missing)
}

fn tokens_of(request: &Request) -> u64 {
    let of = |content: &str| (content.len() as u64).div_ceil(BYTES_A_TOKEN) + TOKENS_A_TURN;
    request.messages.iter().map(|message| of(&message.content)).sum()
}
