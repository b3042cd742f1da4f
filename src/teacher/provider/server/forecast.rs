//! What a stage would ask of a server.

use std::collections::BTreeSet;

use stillhouse_stage::{Ahead, Forecast};

use super::Server;
use crate::answers::{AnswersConfig, OnFailed};
use crate::batch::Journal;
use crate::provider::Known;
use crate::provider::counting::Reader;
use crate::provider::forecast::Foreseen;
use crate::provider::image_tokens::Rule;

/// Requests, tokens and money of a stage; nothing where its prompts are not made yet, or cannot be read. Tokens of
/// prompts are counted with the tokenizer that the teacher names, else estimated from their bytes; those of replies are
/// at their limit.
#[must_use]
pub fn forecast(server: &Server, answers: &AnswersConfig, ahead: &Ahead<'_>) -> Option<Forecast> {
    foreseen(server, ahead)?.answers(answers)
}

/// The same of questions of a stage's own; see [`crate::provider::Provider::forecast_requests`].
#[must_use]
pub fn forecast_requests(
    server: &Server,
    known: Known<'_>,
    like_them: u64,
    on_failed: OnFailed,
    ahead: &Ahead<'_>,
) -> Option<Forecast> {
    foreseen(server, ahead)?.requests(known, like_them, on_failed)
}

fn foreseen<'a>(server: &Server, ahead: &'a Ahead<'a>) -> Option<Foreseen<'a>> {
    let identity = server.identity();
    // What was handed in before is paid for.
    let under_way = match &server.batch {
        Some(_) => {
            let folder = ahead.store.replies_dir().join(identity.folder());
            Journal::of(&folder, &server.base_url).under_way().ok()?
        }
        None => BTreeSet::new(),
    };
    let chat = server.api.path() != "completions";
    Some(Foreseen {
        ahead,
        identity,
        under_way,
        keeps_captured: true,
        thinking_tokens: server.thinking_tokens,
        together: server.api.together() as u64,
        makes_vectors: server.api.makes_vectors(),
        prices: server.limits.prices,
        reader: Box::new(move || Reader::named(ahead, chat)),
        rule: Rule::of(server.provider, &server.model),
    })
}
