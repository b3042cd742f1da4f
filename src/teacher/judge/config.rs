//! What a user writes in `[judge.X]`.

use stillhouse_data::tokenizer_kind::Answers;
use stillhouse_spec::{Config, Diagnostic, Diagnostics, Node, Ref};

use super::template::NAMES;
use crate::answers::{DrawingConfig, FailedConfig, OnFailed, OnRejected, SamplingConfig};
use crate::definition::Teachers;
use crate::expand::check_template;

/// Scores of answers, given by a teacher. The filter `score` reads them: `score = { from = "judge.X", min = 4 }`.
#[derive(Clone, Debug, Config)]
#[config(check = sound)]
pub struct JudgeConfig {
    /// The answers.
    #[config(parts = "answers.jsonl")]
    pub answers: Ref<Answers>,
    /// Who judges.
    pub teacher: Ref<Teachers>,
    /// What makes an answer good, in words.
    #[config(default = RUBRIC.to_owned())]
    pub rubric: String,
    /// The question in your own words, in minijinja, with `prompt`, `answer`, `reference` (empty where there is none), `rubric`, `min`, `max` and
    /// `form` (how the score is to be written).
    pub template: Option<String>,
    /// The scores that there are.
    #[config(default)]
    pub scale: ScaleConfig,
    /// Where in a reply the score stands.
    #[config(default = ScoreIs::LastNumber)]
    pub score: ScoreIs,
    /// Judgements of an answer; its score is their mean.
    #[config(default = 1, min = 1, max = 1_000)]
    pub samples: u32,
    /// How tokens are drawn.
    #[config(default)]
    pub sampling: JudgeSamplingConfig,
    /// What becomes of a judgement to which no usable reply comes: `keep` makes it one without a score, as others that have
    /// none; `drop` leaves the answer without a score, whatever `unscored` says, where no judgement of it came.
    #[config(default)]
    pub outcomes: FailedConfig,
    /// How often a judgement without a score is asked for again at most.
    #[config(default = 0, max = 100)]
    pub ask_again_times: u32,
    /// What becomes of an answer that none of its judgements gives a score.
    #[config(default = Unscored::Drop)]
    pub unscored: Unscored,
    /// What becomes of a question that the server refuses, since it is longer than its context, say.
    #[config(default = OnRejected::Keep)]
    pub on_rejected: OnRejected,
}

const RUBRIC: &str =
    "it does what the request asks for, what it says is true, and it is clear and not longer than it has to be";

/// The scores that there are: all numbers from one to another.
#[derive(Clone, Debug, PartialEq, Config)]
pub struct ScaleConfig {
    /// The worst.
    #[config(default = 1.0)]
    pub min: f64,
    /// The best.
    #[config(default = 5.0)]
    pub max: f64,
}

impl Default for ScaleConfig {
    fn default() -> Self {
        Self { min: 1.0, max: 5.0 }
    }
}

/// Where in a reply the score stands.
#[derive(Clone, Debug, PartialEq, Config)]
pub enum ScoreIs {
    /// It is the last number; of `4/5` and `4 out of 5`, where 5 is the best score, the 4.
    LastNumber,
    /// It is this member of the last JSON object.
    Json(String),
}

/// How a judge's tokens are drawn: by default the most likely ones.
#[derive(Clone, Debug, PartialEq, Config)]
pub struct JudgeSamplingConfig {
    /// 0 takes the most likely token.
    #[config(default = 0.0, min = 0)]
    pub temperature: f64,
    /// Beside the temperature.
    #[config(inline)]
    pub drawing: DrawingConfig,
}

impl Default for JudgeSamplingConfig {
    fn default() -> Self {
        Self { temperature: 0.0, drawing: DrawingConfig::default() }
    }
}

impl JudgeSamplingConfig {
    /// The same as an `answers` stage has it.
    #[must_use]
    pub fn as_of_answers(&self) -> SamplingConfig {
        let Self { temperature, drawing } = self.clone();
        SamplingConfig { temperature, drawing }
    }
}

/// What becomes of an answer that none of its judgements gives a score.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Config)]
pub enum Unscored {
    /// It has no score, and is listed in `dropped.jsonl`. The `unknown` of the filter `score` says what becomes of it.
    Drop,
    /// It gets the lowest score.
    Lowest,
    /// The stage fails.
    Fail,
}

fn sound(config: &JudgeConfig, node: &Node, report: &mut Diagnostics) {
    let place = |key: &str| node.as_table().and_then(|table| table.get(key)).map_or(node.at, |node| node.at);
    if config.scale.min >= config.scale.max {
        report.push(
            Diagnostic::error(place("scale"), "the `min` of `scale` is not less than its `max`")
                .hint("`scale = { min = 1, max = 5 }` if left out"),
        );
    }
    if config.sampling.temperature == 0.0 {
        for (key, set) in [("samples", config.samples > 1), ("ask-again-times", config.ask_again_times > 0)] {
            if set {
                report.push(
                    Diagnostic::warning(
                        place(key),
                        format!("`{key}` at temperature 0: the same judgement comes each time"),
                    )
                    .hint("set `sampling = { temperature = 0.7 }`"),
                );
            }
        }
    }
    if config.outcomes.failed == OnFailed::AskAgain && config.ask_again_times == 0 {
        report.push(
            Diagnostic::error(
                place("outcomes"),
                "`failed = \"ask-again\"` needs `ask-again-times`: it is 0 if left out",
            )
            .hint("set `ask-again-times = 2`, or `failed = \"keep\"`"),
        );
    }
    if let Some(template) = &config.template {
        check_template(template, "template", &NAMES, place("template"), report);
        if !template.contains("answer") {
            report.push(
                Diagnostic::error(place("template"), "the template does not show the `answer`")
                    .hint("{{ prompt }} and {{ answer }} stand for what is judged"),
            );
        }
    }
    if matches!(&config.score, ScoreIs::Json(field) if field.is_empty()) {
        report.push(
            Diagnostic::error(place("score"), "the name of the member is empty").hint("`score = { json = \"score\" }`"),
        );
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use stillhouse_spec::Described;

    use super::*;

    fn keys<C: Config>() -> Vec<String> {
        let all = json!({ "temperature": 0.5, "top-p": 0.9, "top-k": 3, "max-tokens": 7, "stop": ["x"], "seed": 1 });
        let decoded = C::decode(&Node::from_json(&all), &mut Diagnostics::default()).unwrap();
        let Described::Table(members) = decoded.describe() else { panic!("it is a table") };
        members.into_keys().collect()
    }

    #[test]
    fn what_sampling_settings_share_stands_in_their_own_table_and_in_keys_as_it_is_written() {
        let written = ["max-tokens", "seed", "stop", "temperature", "top-k", "top-p"];
        assert_eq!(
            (keys::<SamplingConfig>(), keys::<JudgeSamplingConfig>()),
            (written.map(str::to_owned).into(), written.map(str::to_owned).into())
        );
        let mut report = Diagnostics::default();
        JudgeSamplingConfig::decode(&Node::from_json(&json!({ "max400": 1 })), &mut report);
        assert_eq!(report.sorted()[0].hint.as_deref(), Some("did you mean `max-tokens`?"));
        assert_eq!(
            JudgeSamplingConfig::default().describe(),
            SamplingConfig::default().describe(),
            "nothing where nothing is said"
        );
    }
}
