//! From prompts to questions, one at a time: each prompt, each of its samples.

use std::path::Path;
use std::sync::Arc;

use stillhouse_data::jsonl::JsonlReader;
use stillhouse_data::prompt::{PROMPTS_FILE, Prompt, read_prompts};
use stillhouse_stage::{Context, Failure};

use super::AnswersConfig;
use crate::asking::Question;
use crate::request::{Request, Sampling, seed_of};

/// The questions of a stage, in order.
pub struct Questions {
    prompts: JsonlReader<Prompt>,
    answers: AnswersConfig,
    sampling: Sampling,
    seed: u64,
    current: Option<Arc<Prompt>>,
    number: u64,
    sample: u32,
}

impl Questions {
    /// Opens the prompts of a stage.
    ///
    /// # Errors
    /// If the prompts cannot be read, or there are none.
    pub fn of(context: &Context, answers: &AnswersConfig) -> Result<(Self, u64), Failure> {
        let input = context.input("prompts")?;
        let path = input.path(PROMPTS_FILE)?;
        let total = lines(&path)? * u64::from(answers.samples);
        if total == 0 {
            return Err(Failure::input(format!("{} has no prompts: there is nothing to ask", input.stage))
                .hint("look at its source: a file of blank lines has none"));
        }
        Ok((Self::open(&path, answers, context.seed())?, total))
    }

    /// Opens a file of prompts.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn open(path: &Path, answers: &AnswersConfig, seed: u64) -> Result<Self, Failure> {
        Ok(Self {
            prompts: read_prompts(path)?,
            answers: answers.clone(),
            sampling: answers.sampling.request(),
            seed: answers.sampling.seed.unwrap_or(seed),
            current: None,
            number: 0,
            sample: 0,
        })
    }

    fn question(&mut self, prompt: Arc<Prompt>) -> Question {
        let sample = self.sample;
        self.sample += 1;
        let drawn = self.sampling.temperature > 0.0;
        let request = Request {
            messages: prompt.messages.clone(),
            sampling: self.sampling.clone(),
            capture: self.answers.capture.as_ref().map(super::CaptureConfig::request),
            sample,
            attempt: 0,
            seed: drawn.then(|| seed_of(self.seed, &prompt.id, sample)),
        };
        Question { prompt, number: self.number, request }
    }
}

impl Iterator for Questions {
    type Item = Result<Question, Failure>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(prompt) = self.current.clone().filter(|_| self.sample < self.answers.samples) {
            return Some(Ok(self.question(prompt)));
        }
        match self.prompts.next()? {
            Err(error) => Some(Err(error.into())),
            Ok(prompt) => {
                let prompt = Arc::new(prompt);
                self.current = Some(Arc::clone(&prompt));
                self.number += 1;
                self.sample = 0;
                Some(Ok(self.question(prompt)))
            }
        }
    }
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
