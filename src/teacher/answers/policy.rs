//! What becomes of each kind of reply: it stays, is left out, or the prompt is asked once more.

use regex::Regex;
use stillhouse_data::answer::Outcome;
use stillhouse_spec::{Config, Diagnostic, Diagnostics, Node};
use stillhouse_stage::Failure;

use super::{AnswersConfig, OnFailed};
use crate::asking::Again;
use crate::reply::Reply;
use crate::request::Request;

/// What becomes of each kind of reply that is no whole answer.
#[derive(Clone, Debug, Default, PartialEq, Config)]
pub struct OutcomesConfig {
    /// The teacher declined.
    #[config(default = Treatment::Keep)]
    pub refusal: Treatment,
    /// Cut off at the token limit.
    #[config(default = Treatment::Keep)]
    pub cut: Treatment,
    /// Held back by the provider's content filter.
    #[config(default = Treatment::Keep)]
    pub content_filter: Treatment,
    /// Nothing usable came back.
    #[config(default = Treatment::Keep)]
    pub empty: Treatment,
    /// A whole answer that is not of the wanted `format`.
    #[config(default = Treatment::Keep)]
    pub unparseable: Treatment,
    /// No usable reply came in `limits.attempts` attempts, though other prompts were answered.
    #[config(default = OnFailed::Fail)]
    pub failed: OnFailed,
}

impl OnFailed {
    fn treatment(self) -> Treatment {
        match self {
            // What is kept is not seen: the stage fails.
            Self::Fail | Self::Keep => Treatment::Keep,
            Self::Drop => Treatment::Drop,
            Self::AskAgain => Treatment::AskAgain,
        }
    }
}

/// What becomes of a reply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Config)]
pub enum Treatment {
    /// It stays among the answers, with its outcome.
    #[default]
    Keep,
    /// It is left out of the answers and listed in `dropped.jsonl`.
    Drop,
    /// The prompt is asked again with another seed, `ask-again-times` at most.
    AskAgain,
}

/// What becomes of the last of several replies to a prompt that was asked again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Config)]
pub enum AtLast {
    /// It stays among the answers, with its outcome.
    Keep,
    /// It is left out of the answers and listed in `dropped.jsonl`.
    Drop,
}

/// What a whole answer has to look like.
#[derive(Clone, Debug, PartialEq, Config)]
pub enum FormatConfig {
    /// One JSON value, with nothing but white space around it.
    Json,
    /// A text in which this regular expression is found; `^` and `$` stand for its beginning and end.
    Regex(String),
}

/// What a stage does with its replies.
#[derive(Clone, Debug)]
pub struct Policy {
    outcomes: OutcomesConfig,
    times: u32,
    at_last: AtLast,
    format: Option<Format>,
}

#[derive(Clone, Debug)]
enum Format {
    Json,
    Regex(Regex),
}

/// What a policy makes of one reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is an answer.
    Keep,
    /// It is left out.
    Drop,
    /// Another one is to take its place.
    AskAgain,
}

impl Policy {
    /// The policy of a stage.
    ///
    /// # Errors
    /// If its regular expression is none.
    pub fn of(answers: &AnswersConfig) -> Result<Self, Failure> {
        let format = match &answers.format {
            None => None,
            Some(FormatConfig::Json) => Some(Format::Json),
            Some(FormatConfig::Regex(pattern)) => Some(Format::Regex(
                Regex::new(pattern).map_err(|error| Failure::input(format!("`format` is no expression: {error}")))?,
            )),
        };
        Ok(Self {
            outcomes: answers.outcomes.clone(),
            times: answers.ask_again_times,
            at_last: answers.ask_again_then,
            format,
        })
    }

    /// The kind of a reply to this stage: an answer that is not of the wanted format is told apart. It is stored as what it is
    /// otherwise, since another stage may want another format.
    #[must_use]
    pub fn outcome(&self, reply: &Reply) -> Outcome {
        let fits = match &self.format {
            None => true,
            Some(Format::Json) => serde_json::from_str::<serde::de::IgnoredAny>(reply.text.trim()).is_ok(),
            Some(Format::Regex(regex)) => regex.is_match(&reply.text),
        };
        if reply.outcome == Outcome::Ok && !fits { Outcome::Unparseable } else { reply.outcome }
    }

    /// What becomes of a reply of this kind to the so manieth asking, counted from 0.
    #[must_use]
    pub fn verdict(&self, attempt: u32, outcome: Outcome) -> Verdict {
        let treatment = match outcome {
            // `on-rejected` says what becomes of the last one; it cost nothing, and the same would come again.
            Outcome::Ok | Outcome::Rejected => Treatment::Keep,
            Outcome::Refusal => self.outcomes.refusal,
            Outcome::Cut => self.outcomes.cut,
            Outcome::ContentFilter => self.outcomes.content_filter,
            Outcome::Empty => self.outcomes.empty,
            Outcome::Unparseable => self.outcomes.unparseable,
            Outcome::Failed => self.outcomes.failed.treatment(),
        };
        match (treatment, self.at_last) {
            (Treatment::AskAgain, _) if attempt < self.times => Verdict::AskAgain,
            (Treatment::Keep, _) | (Treatment::AskAgain, AtLast::Keep) => Verdict::Keep,
            (Treatment::Drop, _) | (Treatment::AskAgain, AtLast::Drop) => Verdict::Drop,
        }
    }

    /// The request that is asked after this reply, where one is. It has a seed and a key of its own, so that its reply is kept
    /// beside the first one and paid once.
    #[must_use]
    pub fn again(&self, request: &Request, reply: &Reply) -> Option<Request> {
        (self.verdict(request.attempt, self.outcome(reply)) == Verdict::AskAgain).then(|| request.again())
    }

    /// [`Policy::again`] as those who ask take it.
    #[must_use]
    pub fn into_again(self) -> Again {
        Box::new(move |request, reply| self.again(request, reply))
    }

    /// Whether any reply is asked again.
    #[must_use]
    pub fn asks_again(&self) -> bool {
        self.outcomes.treatments().iter().any(|(_, treatment)| *treatment == Treatment::AskAgain)
    }
}

impl OutcomesConfig {
    fn treatments(&self) -> [(&'static str, Treatment); 6] {
        let Self { refusal, cut, content_filter, empty, unparseable, failed } = self;
        [
            ("refusal", *refusal),
            ("cut", *cut),
            ("content-filter", *content_filter),
            ("empty", *empty),
            ("unparseable", *unparseable),
            ("failed", failed.treatment()),
        ]
    }
}

/// Whether a table has any reply asked again.
pub(super) fn asks_again(answers: &AnswersConfig) -> bool {
    answers.outcomes.treatments().iter().any(|(_, treatment)| *treatment == Treatment::AskAgain)
}

/// Reports what makes no sense about a table's policy.
pub(super) fn sound(answers: &AnswersConfig, node: &Node, report: &mut Diagnostics) {
    let place = |key: &str| node.as_table().and_then(|table| table.get(key)).map_or(node.at, |node| node.at);
    if let Some(FormatConfig::Regex(pattern)) = &answers.format
        && let Err(error) = Regex::new(pattern)
    {
        // The last line of the error says what is wrong, those above draw it.
        let text = error.to_string();
        let why = text.lines().last().unwrap_or_default().trim_start_matches("error: ");
        report.push(
            Diagnostic::error(place("format"), format!("`format.regex` is no regular expression: {why}"))
                .hint("in TOML's 'single quotes' a backslash stands for itself: format = { regex = '^\\d+$' }"),
        );
    }
    if answers.format.is_none() && answers.outcomes.unparseable != Treatment::Keep {
        report.push(
            Diagnostic::warning(place("outcomes"), "nothing is `unparseable` without a `format`")
                .hint("set `format = \"json\"` or `format = { regex = \"…\" }`"),
        );
    }
    let again = answers.outcomes.treatments().into_iter().find(|(_, treatment)| *treatment == Treatment::AskAgain);
    if let (Some((name, _)), true) = (again, answers.sampling.temperature == 0.0) {
        report.push(
            Diagnostic::warning(
                place("outcomes"),
                format!("`{name} = \"ask-again\"` at temperature 0 brings the same"),
            )
            .hint("set `sampling = { temperature = 0.7 }`, or `\"drop\"`"),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reply::Usage;

    fn reply(outcome: Outcome, text: &str) -> Reply {
        Reply {
            outcome,
            text: text.to_owned(),
            finish: "stop".to_owned(),
            model: "m".to_owned(),
            usage: Usage::default(),
            token_ids: None,
            vector: None,
            tokens: None,
        }
    }

    fn policy(outcomes: OutcomesConfig, at_last: AtLast, format: Option<Format>) -> Policy {
        Policy { outcomes, times: 2, at_last, format }
    }

    #[test]
    fn only_whole_answers_are_held_against_the_format() {
        let json = policy(OutcomesConfig::default(), AtLast::Keep, Some(Format::Json));
        assert_eq!(json.outcome(&reply(Outcome::Ok, " {\"a\": [1]}\n")), Outcome::Ok);
        for text in ["", "{\"a\": 1", "{} and more", "```json\n{}\n```"] {
            assert_eq!(json.outcome(&reply(Outcome::Ok, text)), Outcome::Unparseable, "{text}");
        }
        assert_eq!(json.outcome(&reply(Outcome::Cut, "{\"a\": 1")), Outcome::Cut);
        let number = Format::Regex(Regex::new("^[0-9]+$").unwrap());
        let number = policy(OutcomesConfig::default(), AtLast::Keep, Some(number));
        assert_eq!(number.outcome(&reply(Outcome::Ok, "42")), Outcome::Ok);
        assert_eq!(number.outcome(&reply(Outcome::Ok, "42!")), Outcome::Unparseable);
    }

    #[test]
    fn asking_again_comes_to_an_end() {
        let outcomes =
            OutcomesConfig { cut: Treatment::AskAgain, refusal: Treatment::Drop, ..OutcomesConfig::default() };
        let keep = policy(outcomes.clone(), AtLast::Keep, None);
        let verdicts: Vec<Verdict> = (0..3).map(|attempt| keep.verdict(attempt, Outcome::Cut)).collect();
        assert_eq!(verdicts, [Verdict::AskAgain, Verdict::AskAgain, Verdict::Keep]);
        assert_eq!(policy(outcomes, AtLast::Drop, None).verdict(2, Outcome::Cut), Verdict::Drop);
        assert_eq!(keep.verdict(0, Outcome::Refusal), Verdict::Drop);
        assert_eq!(keep.verdict(0, Outcome::Ok), Verdict::Keep);
        assert_eq!(keep.verdict(0, Outcome::Empty), Verdict::Keep);
        assert!(keep.asks_again());
    }
}
