//! The texts of a stage's rows, each once.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use stillhouse_data::answer::{ANSWERS_FILE, Answer, read_answers};
use stillhouse_data::embeddings::{Embedded, TextDigest};
use stillhouse_data::prompt::{Message, PROMPTS_FILE, Prompt, read_prompts};
use stillhouse_stage::{Context, Failure};

use super::config::EmbeddingsConfig;
use crate::asking::Question;
use crate::request::{Request, Sampling};

/// A row of the input.
struct Row {
    prompt: String,
    sample: u32,
    text: Option<String>,
}

type Rows = Box<dyn Iterator<Item = Result<Row, Failure>>>;

/// A text that is asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// What it is known by.
    pub text: TextDigest,
    /// The prompt of the first row that has it.
    pub prompt: String,
    /// Which of that prompt's samples the row is.
    pub sample: u32,
}

/// What was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Rows.
    pub rows: u64,
    /// Rows whose text an earlier one has.
    pub repeated: u64,
    /// Rows without a text: blank ones, and those that a provider held back or refused.
    pub blank: u64,
}

/// The questions of a stage.
pub struct Texts {
    rows: Rows,
    prefix: String,
    seen: HashSet<TextDigest>,
    /// What was read so far.
    pub counts: Counts,
}

impl Texts {
    /// The texts of a running stage.
    ///
    /// # Errors
    /// If its input cannot be read.
    pub fn of(context: &Context, config: &EmbeddingsConfig) -> Result<Self, Failure> {
        let (port, file) = port(config);
        Self::open(&context.input(port)?.path(file)?, config)
    }

    /// The texts of a file of answers or prompts, as the table says.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn open(path: &Path, config: &EmbeddingsConfig) -> Result<Self, Failure> {
        let of = config.of();
        let rows: Rows = if config.prompts.is_some() {
            Box::new(read_prompts(path)?.map(move |prompt| Ok(of_prompt(prompt?, of))))
        } else {
            Box::new(read_answers(path)?.map(move |answer| Ok(of_answer(answer?, of))))
        };
        Ok(Self { rows, prefix: config.prefix.clone(), seen: HashSet::new(), counts: Counts::default() })
    }

    /// The next text that was not there before, with its question.
    ///
    /// # Errors
    /// A row that cannot be read.
    pub fn next_text(&mut self) -> Result<Option<(Named, Question)>, Failure> {
        for row in self.rows.by_ref() {
            let Row { prompt, sample, text } = row?;
            self.counts.rows += 1;
            let Some(text) = text else {
                self.counts.blank += 1;
                continue;
            };
            let digest = TextDigest::of(&text);
            if !self.seen.insert(digest) {
                self.counts.repeated += 1;
                continue;
            }
            let request = request(format!("{}{text}", self.prefix));
            let asked = Arc::new(Prompt { id: prompt.clone(), messages: Vec::new(), reference: None });
            let question = Question { prompt: asked, number: self.counts.rows, request };
            return Ok(Some((Named { text: digest, prompt, sample }, question)));
        }
        Ok(None)
    }
}

/// The port that a stage reads, and the file there.
#[must_use]
pub fn port(config: &EmbeddingsConfig) -> (&'static str, &'static str) {
    if config.prompts.is_some() { ("prompts", PROMPTS_FILE) } else { ("answers", ANSWERS_FILE) }
}

fn of_prompt(prompt: Prompt, of: Embedded) -> Row {
    Row { text: of.text(&prompt.messages, ""), prompt: prompt.id, sample: 0 }
}

fn of_answer(answer: Answer, of: Embedded) -> Row {
    let there = of == Embedded::Prompt || answer.has_words();
    let text = there.then(|| of.text(&answer.messages, &answer.text)).flatten();
    Row { text, prompt: answer.prompt, sample: answer.sample }
}

/// A text's request. Nothing is drawn, so all that says how is at its least.
fn request(text: String) -> Request {
    Request {
        messages: vec![Message::user(text)],
        sampling: Sampling { temperature: 0.0, top_p: 1.0, top_k: None, max_tokens: 0, stop: Vec::new() },
        capture: None,
        sample: 0,
        attempt: 0,
        seed: None,
        given: None,
    }
}
