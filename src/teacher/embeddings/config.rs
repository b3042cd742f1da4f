//! What a user writes in `[embeddings.X]`.

use stillhouse_data::embeddings::Embedded;
use stillhouse_data::tokenizer_kind::Answers;
use stillhouse_spec::{Config, Diagnostic, Diagnostics, Execution, Node, Ref};

use crate::answers::{OnRejected, Prompts};
use crate::definition::Teachers;

/// Vectors of the texts of answers or prompts, made by a teacher's embedding model. The filter `semantic-duplicate` and a dataset's
/// figures read them: rows find theirs by their text.
#[derive(Clone, Debug, Config)]
#[config(check = sound)]
pub struct EmbeddingsConfig {
    /// The answers whose texts get vectors.
    #[config(parts = "answers.jsonl")]
    pub answers: Option<Ref<Answers>>,
    /// In the place of answers: prompts.
    #[config(parts = "prompts.jsonl")]
    pub prompts: Option<Ref<Prompts>>,
    /// Who makes them: a server with `/v1/embeddings`, with an embedding model.
    pub teacher: Ref<Teachers>,
    /// Which texts of a row: `both` if left out, of prompts the `prompt`. `system` turns are left out.
    pub of: Option<Embedded>,
    /// What stands before each text when it is sent, for models that are told what it is for: `"clustering: "`.
    #[config(default = String::new())]
    pub prefix: String,
    /// Texts in one request.
    #[config(default = Execution(64), min = 1, max = 2_048)]
    pub batch: Execution<usize>,
    /// What becomes of a text that the server refuses, since it is longer than its context, say: with `keep` it has no vector, and
    /// is listed in `dropped.jsonl`.
    #[config(default = OnRejected::Keep)]
    pub on_rejected: OnRejected,
}

impl EmbeddingsConfig {
    /// Which texts of a row.
    #[must_use]
    pub fn of(&self) -> Embedded {
        self.of.unwrap_or(if self.prompts.is_some() { Embedded::Prompt } else { Embedded::Both })
    }
}

fn sound(config: &EmbeddingsConfig, node: &Node, report: &mut Diagnostics) {
    let place = |key: &str| node.as_table().and_then(|table| table.get(key)).map_or(node.at, |node| node.at);
    if config.answers.is_some() == config.prompts.is_some() {
        report.push(
            Diagnostic::error(node.at, "texts come from exactly one of `answers` and `prompts`")
                .hint("`answers = \"…\"`, or `prompts = \"…\"` where there are no answers yet"),
        );
    }
    if config.answers.is_none() && config.of.is_some_and(|of| of != Embedded::Prompt) {
        report.push(
            Diagnostic::error(place("of"), "prompts have no answers")
                .hint("name an `answers` stage: `answers = \"…\"`, or set `of = \"prompt\"`"),
        );
    }
}
