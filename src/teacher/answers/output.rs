//! What the stage writes: answers in the order of the prompts, and the figures of its record.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::json;
use stillhouse_data::answer::{ANSWERS_FILE, Answer, AnswerTokens, Outcome, write_answers};
use stillhouse_data::jsonl::JsonlWriter;
use stillhouse_stage::Failure;

use crate::asking::{Origin, Question};
use crate::reply::{Reply, TokenLogProbs};
use crate::transport::Prices;

/// Log-probabilities as a server gave them, one [`Captured`] a line, beside the answers and in their order.
pub const CAPTURED_FILE: &str = "captured.jsonl";

/// Names of models that are told apart: a server that makes up one a reply must not fill the record with them.
const MODELS: usize = 16;
const OTHERS: &str = "others";

/// The log-probabilities of one answer. The teacher's token ids, or only their bytes, are not yet those of a
/// student's tokenizer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Captured {
    /// The prompt's id.
    pub prompt: String,
    /// Which of its samples.
    pub sample: u32,
    /// Each position of the answer.
    pub tokens: Vec<TokenLogProbs>,
}

/// Writes the artifact of an `answers` stage, and counts.
pub struct Output {
    answers: JsonlWriter<Answer>,
    captured: Option<JsonlWriter<Captured>>,
    tally: Tally,
}

#[derive(Debug, Default)]
struct Tally {
    answers: u64,
    /// Answers with words that are no refusal.
    said: u64,
    asked: u64,
    outcomes: BTreeMap<&'static str, u64>,
    models: BTreeMap<String, u64>,
    prompt_tokens: u64,
    completion_tokens: u64,
    paid_prompt_tokens: u64,
    paid_completion_tokens: u64,
}

impl Output {
    /// Creates the files in a folder; `captures` where servers' log-probabilities are kept.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn create(folder: &Path, captures: bool) -> Result<Self, Failure> {
        let captured = captures.then(|| JsonlWriter::create(&folder.join(CAPTURED_FILE))).transpose()?;
        Ok(Self { answers: write_answers(&folder.join(ANSWERS_FILE))?, captured, tally: Tally::default() })
    }

    /// Writes the next answer; `tokens` are its ids, where the teacher runs here.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(
        &mut self,
        question: &Question,
        reply: Reply,
        tokens: Option<AnswerTokens>,
        origin: Origin,
    ) -> Result<(), Failure> {
        self.tally.count(&reply, origin);
        let (prompt, sample) = (&question.prompt, question.request.sample);
        let Reply { outcome, text, finish, tokens: log_probs, .. } = reply;
        if let Some(captured) = &mut self.captured {
            let tokens = log_probs.unwrap_or_default();
            captured.write(&Captured { prompt: prompt.id.clone(), sample, tokens })?;
        }
        self.answers.write(&Answer {
            prompt: prompt.id.clone(),
            sample,
            messages: prompt.messages.clone(),
            reference: prompt.reference.clone(),
            text,
            finish,
            outcome,
            tokens,
        })?;
        Ok(())
    }

    /// Answers written so far.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.tally.answers
    }

    /// Completes the files and gives the figures for the record: metrics, and the models as the server named them.
    ///
    /// # Errors
    /// If the files cannot be written; if not one answer says anything.
    pub fn finish(
        self,
        teacher: &str,
        prices: Option<Prices>,
    ) -> Result<(serde_json::Value, serde_json::Value), Failure> {
        self.tally.something_was_said(teacher)?;
        self.answers.finish()?;
        if let Some(captured) = self.captured {
            captured.finish()?;
        }
        let tally = self.tally;
        let mut metrics = json!({
            "answers": tally.answers,
            "asked": tally.asked,
            "from-cache": tally.answers - tally.asked,
            "outcomes": tally.outcomes,
            "tokens": { "prompt": tally.prompt_tokens, "completion": tally.completion_tokens },
            "paid-tokens": { "prompt": tally.paid_prompt_tokens, "completion": tally.paid_completion_tokens },
        });
        if let Some(prices) = prices {
            metrics["spend-usd"] = json!(prices.of(tally.paid_prompt_tokens, tally.paid_completion_tokens));
        }
        Ok((metrics, json!(tally.models)))
    }
}

impl Tally {
    fn count(&mut self, reply: &Reply, origin: Origin) {
        let (prompt, completion) = (u64::from(reply.usage.prompt), u64::from(reply.usage.completion));
        self.answers += 1;
        let answered = matches!(reply.outcome, Outcome::Ok | Outcome::Cut) && !reply.text.trim().is_empty();
        self.said += u64::from(answered);
        *self.outcomes.entry(reply.outcome.name()).or_default() += 1;
        let known = self.models.len() < MODELS || self.models.contains_key(&reply.model);
        *self.models.entry(if known { reply.model.clone() } else { OTHERS.to_owned() }).or_default() += 1;
        self.prompt_tokens += prompt;
        self.completion_tokens += completion;
        if origin == Origin::Asked {
            self.asked += 1;
            self.paid_prompt_tokens += prompt;
            self.paid_completion_tokens += completion;
        }
    }

    fn something_was_said(&self, teacher: &str) -> Result<(), Failure> {
        if self.said > 0 {
            return Ok(());
        }
        let kinds: Vec<String> = self.outcomes.iter().map(|(outcome, count)| format!("{count} {outcome}")).collect();
        let hint = if self.outcomes.contains_key(Outcome::Cut.name()) {
            "it used up its tokens before it said a word: raise `sampling.max-tokens`"
        } else {
            "its replies are kept and stay what they are: change the prompts, `system` or `sampling`, or ask another teacher"
        };
        let message = match self.answers {
            1 => format!("the only answer of teacher {teacher} says nothing ({})", kinds.join(", ")),
            answers => {
                format!("none of the {answers} answers of teacher {teacher} says anything ({})", kinds.join(", "))
            }
        };
        Err(Failure::input(message).hint(hint))
    }
}
