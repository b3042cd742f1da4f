//! What a stage would have a model write that runs here: it costs nothing but time.

use std::collections::BTreeSet;

use stillhouse_data::model::ModelConfig;
use stillhouse_stage::{Ahead, Forecast};

use super::Local;
use super::run::identity;
use crate::answers::{AnswersConfig, OnFailed};
use crate::provider::Known;
use crate::provider::counting::Reader;
use crate::provider::forecast::Foreseen;
use crate::provider::image_tokens::Rule;
use crate::transport::Prices;

/// Answers that are in no store, and the tokens that they can take; see [`crate::provider::Provider::forecast`].
pub fn forecast(settings: &Local, answers: &AnswersConfig, ahead: &Ahead<'_>) -> Option<Forecast> {
    foreseen(settings, ahead)?.answers(answers)
}

/// The same of questions of a stage's own; see [`crate::provider::Provider::forecast_requests`].
pub fn forecast_requests(
    settings: &Local,
    known: Known<'_>,
    like_them: u64,
    on_failed: OnFailed,
    ahead: &Ahead<'_>,
) -> Option<Forecast> {
    foreseen(settings, ahead)?.requests(known, like_them, on_failed)
}

/// Nothing where the model can't be opened: the stage says why when it runs.
fn foreseen<'a>(settings: &Local, ahead: &'a Ahead<'a>) -> Option<Foreseen<'a>> {
    let digest = ahead.files.get("teacher.model.path")?.digest.to_string();
    let model = ahead.view.follow("teacher")?.follow("model")?.config_as::<ModelConfig>()?;
    let reader = Reader::of_model(&model.path.path, settings.chat_template)?;
    Some(Foreseen {
        ahead,
        identity: identity(&digest, reader.format()),
        under_way: BTreeSet::new(),
        keeps_captured: false,
        thinking_tokens: 0,
        together: 1,
        makes_vectors: false,
        prices: Some(Prices { input: 0.0, output: 0.0 }),
        reader: Box::new(move || Some(reader.clone())),
        // It reads text only.
        rule: Rule::of("local", ""),
    })
}
