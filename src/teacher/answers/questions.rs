//! From prompts to questions, one at a time: each prompt, each of its samples. Or from answers that were given to questions
//! of how likely they are.

use std::path::Path;
use std::sync::Arc;

use stillhouse_data::answer::{ANSWERS_FILE, Answer, read_answers};
use stillhouse_data::jsonl::JsonlReader;
use stillhouse_data::prompt::{PROMPTS_FILE, Prompt, read_prompts};
use stillhouse_stage::{Context, Failure};

use super::AnswersConfig;
use crate::asking::Question;
use crate::request::{Given, Request, Sampling, seed_of};

/// The questions of a stage, in order.
pub struct Questions {
    source: Source,
    answers: AnswersConfig,
    sampling: Sampling,
    seed: u64,
    current: Option<Arc<Prompt>>,
    number: u64,
    sample: u32,
}

enum Source {
    Prompts(JsonlReader<Prompt>),
    /// To be scored.
    Answers(JsonlReader<Answer>),
}

impl Questions {
    /// The port that a stage's questions come by, and the file of it.
    #[must_use]
    pub fn port(answers: &AnswersConfig) -> (&'static str, &'static str) {
        if answers.score.is_some() { ("score", ANSWERS_FILE) } else { ("prompts", PROMPTS_FILE) }
    }

    /// Opens the prompts of a stage, or the answers that it scores. Gives how many questions there are, too.
    ///
    /// # Errors
    /// If they cannot be read, or there are none.
    pub fn of(context: &Context, answers: &AnswersConfig) -> Result<(Self, u64), Failure> {
        let (port, file) = Self::port(answers);
        let input = context.input(port)?;
        let path = input.path(file)?;
        let questions = Self::open(&path, answers, context.seed())?;
        let total = match &questions.source {
            Source::Prompts(_) => lines(&path)? * u64::from(answers.samples),
            Source::Answers(_) => count_scorable(&path)?,
        };
        if total > 0 {
            return Ok((questions, total));
        }
        Err(match &questions.source {
            Source::Prompts(_) => Failure::input(format!("{} has no prompts: there is nothing to ask", input.stage))
                .hint("look at its source: a file of blank lines has none"),
            Source::Answers(_) => Failure::input(format!("{} has no answer with words to score", input.stage))
                .hint("look at its outcomes: what a teacher held back, or a server refused, has no words"),
        })
    }

    /// Opens the file of prompts, or of answers that are scored.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn open(path: &Path, answers: &AnswersConfig, seed: u64) -> Result<Self, Failure> {
        let (source, sampling) = match answers.score {
            None => (Source::Prompts(read_prompts(path)?), answers.sampling.request()),
            Some(_) => (Source::Answers(read_answers(path)?), scoring()),
        };
        Ok(Self {
            source,
            answers: answers.clone(),
            sampling,
            seed: answers.sampling.drawing.seed.unwrap_or(seed),
            current: None,
            number: 0,
            sample: 0,
        })
    }

    fn question(&mut self, prompt: Arc<Prompt>) -> Question {
        let sample = self.sample;
        self.sample += 1;
        let drawn = self.sampling.temperature > 0.0;
        let seed = drawn.then(|| seed_of(self.seed, &prompt.id, sample));
        self.with(prompt, sample, seed, None)
    }

    fn with(&self, prompt: Arc<Prompt>, sample: u32, seed: Option<u32>, given: Option<Given>) -> Question {
        let request = Request {
            messages: prompt.messages.clone(),
            sampling: self.sampling.clone(),
            capture: self.answers.capture.as_ref().map(super::CaptureConfig::request),
            sample,
            attempt: 0,
            seed,
            given,
        };
        Question { prompt, number: self.number, request }
    }

    fn scored(&mut self, answer: Answer) -> Question {
        self.number += 1;
        let Answer { prompt, sample, messages, reference, text, finish, outcome, tokens: _ } = answer;
        let prompt = Arc::new(Prompt { id: prompt, messages, reference });
        self.with(prompt, sample, None, Some(Given { text, finish, outcome }))
    }
}

impl Iterator for Questions {
    type Item = Result<Question, Failure>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(prompt) = self.current.clone().filter(|_| self.sample < self.answers.samples) {
            return Some(Ok(self.question(prompt)));
        }
        match &mut self.source {
            Source::Answers(answers) => {
                let answer = answers.find(|answer| answer.as_ref().map_or(true, is_scorable))?;
                Some(answer.map_err(Failure::from).map(|answer| self.scored(answer)))
            }
            Source::Prompts(prompts) => match prompts.next()? {
                Err(error) => Some(Err(error.into())),
                Ok(prompt) => {
                    let prompt = Arc::new(prompt);
                    self.current = Some(Arc::clone(&prompt));
                    self.number += 1;
                    self.sample = 0;
                    Some(Ok(self.question(prompt)))
                }
            },
        }
    }
}

/// What is sent with an answer that is scored: nothing is drawn, so that another `sampling` asks nothing anew.
fn scoring() -> Sampling {
    Sampling { temperature: 0.0, top_p: 1.0, top_k: None, max_tokens: 1, stop: Vec::new() }
}

fn is_scorable(answer: &Answer) -> bool {
    !answer.text.trim().is_empty()
}

fn count_scorable(path: &Path) -> Result<u64, Failure> {
    let mut count = 0;
    for answer in read_answers(path)? {
        count += u64::from(is_scorable(&answer?));
    }
    Ok(count)
}

/// Lines of a file: the prompts in it.
fn lines(path: &Path) -> Result<u64, Failure> {
    use std::io::BufRead as _;
    let mut input = std::io::BufReader::with_capacity(1 << 16, fs_err::File::open(path)?);
    let mut lines = 0;
    loop {
        let piece = input.fill_buf()?;
        if piece.is_empty() {
            return Ok(lines);
        }
        lines += piece.iter().filter(|byte| **byte == b'\n').count() as u64;
        let length = piece.len();
        input.consume(length);
    }
}
