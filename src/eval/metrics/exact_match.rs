//! Whether generated answers equal the wanted ones.

use std::collections::BTreeMap;

use stillhouse_data::example::{Example, Row};
use stillhouse_data::lm::{Finish, GenerateRequest, Generated, Sampling};
use stillhouse_spec::{Config, Diagnostic, Diagnostics, Node};
use stillhouse_stage::Failure;

use crate::bench::{Bench, Part, Split, Subject};
use crate::bootstrap::{Bootstrap, Share};
use crate::metrics::{Data, Item, Measurement, Metric};
use crate::normalise::Normalisation;
use crate::score::{Better, Figure};

/// The fraction of rows whose prompt the model continues with exactly the wanted text. The model takes its most
/// likely token at each step, up to the first stop token that its folder names (the tokenizer's end of sequence, and
/// `eos_token_id` of `generation_config.json` and `config.json`). What is disregarded acts on both texts, in the order of the options below, as in
/// lm-evaluation-harness; then white space, as in MiniLLM's evaluation.
#[derive(Clone, Debug, Config)]
#[config(check = check_patterns)]
pub struct ExactMatch {
    /// The dataset with the rows.
    #[config(parts = "tokenizer", part_from = split)]
    pub data: Data,
    /// Which of its rows.
    #[config(default = Split::Holdout)]
    pub split: Split,
    /// What the model's text is compared with.
    #[config(default = Against::Reference)]
    pub against: Against,
    /// At most this many new tokens.
    #[config(default = 256, min = 1)]
    pub max_tokens: usize,
    /// Regular expressions; whatever one matches is disregarded.
    #[config(default = Vec::new())]
    pub ignore_patterns: Vec<String>,
    /// Upper and lower case are the same.
    #[config(default = false)]
    pub ignore_case: bool,
    /// ASCII punctuation is disregarded.
    #[config(default = false)]
    pub ignore_punctuation: bool,
    /// The digits 0 to 9 are disregarded.
    #[config(default = false)]
    pub ignore_numbers: bool,
    /// White space around the text is disregarded, and any run of it within counts as one space.
    #[config(default = true)]
    pub ignore_white_space: bool,
}

/// What generated text is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Config)]
pub enum Against {
    /// The answer that the prompts' source gives; rows without one are left out.
    Reference,
    /// The row's completion: what a teacher answered, where the rows are a teacher's answers.
    Answer,
}

const EXACT_MATCH: Figure = Figure::ratio("fraction", Better::Higher);

fn check_patterns(config: &ExactMatch, node: &Node, report: &mut Diagnostics) {
    if let Err(bad) = Normalisation::patterns(&config.ignore_patterns) {
        let at = node.as_table().and_then(|table| table.get("ignore-patterns")).map_or(node.at, |list| list.at);
        report.push(Diagnostic::error(at, bad.to_string()));
    }
}

impl Metric for ExactMatch {
    fn measure(&self, bench: &mut Bench<'_>) -> Result<Measurement, Failure> {
        let part = bench.part(self.split)?;
        let questions = self.questions(&part)?;
        let normalisation = self.normalisation()?;
        let mut answers = Vec::with_capacity(questions.len());
        // A bounded number of prompts at a time, so that a request to stop is heard soon.
        for some in questions.chunks(32) {
            answers.extend(answer(bench.subject(), some, self.max_tokens)?);
            bench.progress(answers.len(), questions.len())?;
        }
        measurement(&questions, &answers, &normalisation, &bench.bootstrap)
    }
}

/// A prompt and the text that is wanted.
#[derive(Debug, PartialEq)]
struct Question {
    /// Place of the example.
    example: usize,
    /// The prompt's tokens.
    prompt: Vec<u32>,
    /// The wanted text.
    wanted: String,
}

impl ExactMatch {
    fn normalisation(&self) -> Result<Normalisation, Failure> {
        Ok(Normalisation {
            patterns: Normalisation::patterns(&self.ignore_patterns).map_err(|bad| Failure::input(bad.to_string()))?,
            case: self.ignore_case,
            punctuation: self.ignore_punctuation,
            numbers: self.ignore_numbers,
            white_space: self.ignore_white_space,
        })
    }

    fn questions(&self, part: &Part) -> Result<Vec<Question>, Failure> {
        let mut questions = Vec::new();
        for (place, row) in part.rows()?.into_iter().enumerate() {
            let example = part.examples.get(place)?;
            questions.extend(self.question(place, &example, row));
        }
        if questions.is_empty() {
            let what = match self.against {
                Against::Reference => "a prompt and a reference",
                Against::Answer => "a prompt",
            };
            return Err(Failure::input(format!("no {} row of {} has {what}", self.split.part(), part.stage)).hint(
                "references come with the prompts (`reference` of a JSONL source); `against = \"answer\"` compares \
                 with the rows' own completions",
            ));
        }
        Ok(questions)
    }

    /// None for plain text, which asks nothing, and for a row without the wanted text.
    fn question(&self, place: usize, example: &Example, row: Row) -> Option<Question> {
        let prompt = example.tokens.get(..row.prompt_tokens as usize)?.to_vec();
        let wanted = match self.against {
            Against::Reference => row.reference?,
            Against::Answer => row.completion,
        };
        (!prompt.is_empty() && !row.messages.is_empty()).then_some(Question { example: place, prompt, wanted })
    }
}

/// The model's texts for some questions, in their order.
fn answer(subject: &mut Subject, questions: &[Question], max_tokens: usize) -> Result<Vec<String>, Failure> {
    for question in questions {
        // The first new token needs a place too.
        subject.scorer().check_length(question.example, question.prompt.len() + 1)?;
    }
    let stop_ids = subject.stop_ids()?;
    let sampling =
        Sampling { temperature: 0.0, top_k: None, top_p: 1.0, min_p: 0.0, max_tokens, stop_ids, allowed: None };
    let requests: Vec<GenerateRequest> = questions
        .iter()
        .map(|question| GenerateRequest { prompt: question.prompt.clone(), sampling: sampling.clone(), seed: 0 })
        .collect();
    let generated = subject.model.generate(&requests, &mut |_, _| true)?;
    let texts = generated.iter().map(|one| subject.tokenizer.decode(said(one), false));
    Ok(texts.collect::<Result<_, _>>()?)
}

/// The tokens before the one that ended the text: decoding leaves it out by itself only where the tokenizer counts it
/// as special, and a folder may name any token.
fn said(generated: &Generated) -> &[u32] {
    match (generated.finish, generated.tokens.split_last()) {
        (Finish::Stop, Some((_, before))) => before,
        _ => &generated.tokens,
    }
}

fn measurement(
    questions: &[Question],
    answers: &[String],
    normalisation: &Normalisation,
    bootstrap: &Bootstrap,
) -> Result<Measurement, Failure> {
    let mut items = Vec::with_capacity(questions.len());
    let mut shares = Vec::with_capacity(questions.len());
    for (question, answer) in questions.iter().zip(answers) {
        let matches = normalisation.apply(answer) == normalisation.apply(&question.wanted);
        let numerator = f64::from(u8::from(matches));
        shares.push(Share { numerator, denominator: 1.0 });
        items.push(Item {
            example: question.example,
            values: BTreeMap::from([("matches", numerator)]),
            texts: BTreeMap::from([("answer", answer.clone()), ("wanted", question.wanted.clone())]),
        });
    }
    let score = EXACT_MATCH.score(&bootstrap.ratio(&shares)?)?;
    Ok(Measurement { scores: BTreeMap::from([("exact-match", score)]), items })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{example, row};

    fn metric(against: Against) -> ExactMatch {
        let mut report = Diagnostics::default();
        let table = Node::from_json(&serde_json::json!({ "data": "train" }));
        ExactMatch { against, ..ExactMatch::decode(&table, &mut report).unwrap() }
    }

    #[test]
    fn a_row_asks_its_prompt_and_wants_its_reference_or_its_completion() {
        let tokens = example(&[5, 6, 7]);
        let asked = |against, reference| metric(against).question(3, &tokens, row(1, "Lyon", reference));
        let wants = |wanted: &str| Some(Question { example: 3, prompt: vec![5], wanted: wanted.into() });
        assert_eq!(asked(Against::Reference, Some("Paris")), wants("Paris"));
        assert_eq!(asked(Against::Answer, Some("Paris")), wants("Lyon"));
        assert_eq!(asked(Against::Reference, None), None);
        let plain_text = Row { messages: vec![], ..row(1, "Lyon", None) };
        assert_eq!(metric(Against::Answer).question(0, &tokens, plain_text), None);
    }

    #[test]
    fn the_fraction_of_equal_texts_is_measured_after_normalisation() {
        let questions: Vec<Question> = ["Paris", "Rome", "Oslo", "Bern"]
            .into_iter()
            .enumerate()
            .map(|(example, wanted)| Question { example, prompt: vec![1], wanted: wanted.into() })
            .collect();
        let answers = [" Paris\n", "rome", "Oslo!", "Basel"].map(str::to_owned);
        let value = |normalisation: &Normalisation| {
            measurement(&questions, &answers, normalisation, &Bootstrap::default()).unwrap().scores["exact-match"].value
        };
        assert_eq!(value(&Normalisation::default()), 0.0);
        assert_eq!(value(&metric(Against::Reference).normalisation().unwrap()), 0.25);
        let forgiving = Normalisation { case: true, punctuation: true, white_space: true, ..Normalisation::default() };
        assert_eq!(value(&forgiving), 0.75);
    }

    #[test]
    fn a_broken_pattern_is_found_when_the_file_is_read() {
        let mut report = Diagnostics::default();
        let table = Node::from_json(&serde_json::json!({ "data": "train", "ignore-patterns": ["(a"] }));
        ExactMatch::decode(&table, &mut report);
        let messages: Vec<&str> = report.sorted().iter().map(|one| one.message.as_str()).collect();
        assert_eq!(messages, ["the pattern `(a` is not a regular expression: unclosed group"]);
    }
}
