//! What an `answers` stage would ask of a server: requests that are in no store yet, and the most that they can take.

use std::collections::BTreeSet;

use stillhouse_data::prompt::PROMPTS_FILE;
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
    let identity = server.identity();
    let store = ReplyStore::shared(&ahead.store.replies_dir().join(identity.folder())).ok()?;
    // What was handed in before is paid for.
    let handed_in = match &server.batch {
        Some(_) => Journal::of(store.directory(), &server.base_url).under_way().ok()?,
        None => BTreeSet::new(),
    };
    let (mut input, mut output) = (0, 0);
    let mut asked = BTreeSet::new();
    for question in questions {
        let request = question.ok()?.request;
        let key = request.key(&identity);
        if store.find(&key, request.sampling.max_tokens).ok()?.is_none()
            && !handed_in.contains(&key)
            && asked.insert(key)
        {
            input += tokens_of(&request);
            output += u64::from(request.sampling.max_tokens);
        }
    }
    Some(Forecast {
        requests: asked.len() as u64,
        tokens: Some(input + output),
        usd: server.limits.prices.map(|prices| prices.of(input, output)),
    })
}

fn tokens_of(request: &Request) -> u64 {
    let of = |content: &str| (content.len() as u64).div_ceil(BYTES_A_TOKEN) + TOKENS_A_TURN;
    request.messages.iter().map(|message| of(&message.content)).sum()
}
