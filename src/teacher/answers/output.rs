//! What the stage writes: answers in the order of the prompts, and the figures of its record.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::json;
use stillhouse_data::answer::{ANSWERS_FILE, Answer, AnswerTokens, Outcome, write_answers};
pub use stillhouse_data::captured::{CAPTURED_FILE, Captured};
use stillhouse_data::jsonl::JsonlWriter;
use stillhouse_stage::Failure;

use super::policy::{Policy, Verdict};
use crate::asking::{Origin, Question};
use crate::reply::Reply;

/// Replies that were left out of the answers, one [`Dropped`] a line; only where there are any.
pub const DROPPED_FILE: &str = "dropped.jsonl";

/// Names of models that are told apart: a server that makes up one a reply must not fill the record with them.
const MODELS: usize = 16;
const OTHERS: &str = "others";

/// A reply that was left out of the answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Dropped {
    /// The prompt's id.
    pub prompt: String,
    /// Which of its samples.
    pub sample: u32,
    /// How often it was asked before.
    pub attempt: u32,
    /// Why it was left out.
    pub outcome: Outcome,
    /// Why the teacher stopped, in its own words.
    pub finish: String,
    /// What the teacher said.
    pub text: String,
}

/// Writes the artifact of an `answers` stage, and counts.
pub struct Output {
    answers: JsonlWriter<Answer>,
    captured: Option<JsonlWriter<Captured>>,
    /// Created with the first reply that is left out.
    dropped: Option<JsonlWriter<Dropped>>,
    folder: PathBuf,
    policy: Policy,
    tally: Tally,
}

#[derive(Debug, Default)]
struct Tally {
    answers: u64,
    /// Answers with words that are no refusal.
    said: u64,
    asked: u64,
    /// Replies in whose place the prompt was asked again.
    asked_again: u64,
    dropped: BTreeMap<&'static str, u64>,
    outcomes: BTreeMap<&'static str, u64>,
    models: BTreeMap<String, u64>,
    prompt_tokens: u64,
    completion_tokens: u64,
    paid_prompt_tokens: u64,
    paid_completion_tokens: u64,
}

impl Output {
    /// Creates the files in a folder; `captures` where servers' log-probabilities are kept. `policy` says what becomes of each
    /// reply.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn create(folder: &Path, captures: bool, policy: Policy) -> Result<Self, Failure> {
        let captured = captures.then(|| JsonlWriter::create(&folder.join(CAPTURED_FILE))).transpose()?;
        let answers = write_answers(&folder.join(ANSWERS_FILE))?;
        let (folder, tally) = (folder.to_owned(), Tally::default());
        Ok(Self { answers, captured, dropped: None, folder, policy, tally })
    }

    /// Takes the next reply, which is written as an answer unless the policy leaves it out or wants the prompt asked again;
    /// `tokens` are its ids, where the teacher runs here.
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
        let outcome = self.policy.outcome(&reply);
        let (prompt, sample, attempt) = (&question.prompt, question.request.sample, question.request.attempt);
        let verdict = self.policy.verdict(attempt, outcome);
        self.tally.count(&reply, outcome, verdict, origin);
        let Reply { text, finish, tokens: log_probs, .. } = reply;
        match verdict {
            Verdict::Keep => {}
            Verdict::AskAgain => return Ok(()),
            Verdict::Drop => {
                let dropped = match &mut self.dropped {
                    Some(dropped) => dropped,
                    none => none.insert(JsonlWriter::create(&self.folder.join(DROPPED_FILE))?),
                };
                dropped.write(&Dropped { prompt: prompt.id.clone(), sample, attempt, outcome, finish, text })?;
                return Ok(());
            }
        }
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

    /// Questions that are done with: answers written, and what was left out.
    #[must_use]
    pub fn settled(&self) -> u64 {
        self.tally.answers + self.tally.dropped.values().sum::<u64>()
    }

    /// Completes the files and gives the figures for the record: metrics, and the models as the server named them.
    ///
    /// # Errors
    /// If the files cannot be written; if not one answer says anything.
    pub fn finish(self, teacher: &str) -> Result<(serde_json::Value, serde_json::Value), Failure> {
        let replies = self.settled() + self.tally.asked_again;
        self.tally.something_was_said(teacher)?;
        self.answers.finish()?;
        if let Some(dropped) = self.dropped {
            dropped.finish()?;
        }
        if let Some(captured) = self.captured {
            captured.finish()?;
        }
        let tally = self.tally;
        let mut metrics = json!({
            "answers": tally.answers,
            "asked": tally.asked,
            "from-cache": replies - tally.asked,
            "outcomes": tally.outcomes,
            "tokens": { "prompt": tally.prompt_tokens, "completion": tally.completion_tokens },
            "paid-tokens": { "prompt": tally.paid_prompt_tokens, "completion": tally.paid_completion_tokens },
        });
        if !tally.dropped.is_empty() {
            metrics["dropped"] = json!(tally.dropped);
        }
        if tally.asked_again > 0 {
            metrics["asked-again"] = json!(tally.asked_again);
        }
        Ok((metrics, json!(tally.models)))
    }
}

impl Tally {
    /// Counts a reply: what was paid whatever becomes of it, the rest where it is an answer.
    fn count(&mut self, reply: &Reply, outcome: Outcome, verdict: Verdict, origin: Origin) {
        let (prompt, completion) = (u64::from(reply.usage.prompt), u64::from(reply.usage.completion));
        if origin == Origin::Asked {
            self.asked += 1;
            self.paid_prompt_tokens += prompt;
            self.paid_completion_tokens += completion;
        }
        if outcome.was_answered() {
            let known = self.models.len() < MODELS || self.models.contains_key(&reply.model);
            *self.models.entry(if known { reply.model.clone() } else { OTHERS.to_owned() }).or_default() += 1;
        }
        match verdict {
            Verdict::AskAgain => self.asked_again += 1,
            Verdict::Drop => *self.dropped.entry(outcome.name()).or_default() += 1,
            Verdict::Keep => {
                self.answers += 1;
                let answered = matches!(outcome, Outcome::Ok | Outcome::Cut | Outcome::Unparseable);
                self.said += u64::from(answered && !reply.text.trim().is_empty());
                *self.outcomes.entry(outcome.name()).or_default() += 1;
                self.prompt_tokens += prompt;
                self.completion_tokens += completion;
            }
        }
    }

    fn something_was_said(&self, teacher: &str) -> Result<(), Failure> {
        if self.said > 0 {
            return Ok(());
        }
        let list = |counts: &BTreeMap<&str, u64>| {
            let kinds: Vec<String> = counts.iter().map(|(outcome, count)| format!("{count} {outcome}")).collect();
            kinds.join(", ")
        };
        if self.answers == 0 && !self.dropped.is_empty() {
            let message = format!("every answer of teacher {teacher} was left out ({})", list(&self.dropped));
            return Err(Failure::input(message).hint("see `outcomes`: change the prompts or `sampling`, or keep them"));
        }
        let kinds = list(&self.outcomes);
        let hint = if self.outcomes.contains_key(Outcome::Cut.name()) {
            "it used up its tokens before it said a word: raise `sampling.max-tokens`"
        } else {
            "its replies are kept and stay what they are: change the prompts, `system` or `sampling`, or ask another teacher"
        };
        let message = match self.answers {
            1 => format!("the only answer of teacher {teacher} says nothing ({kinds})"),
            answers => {
                format!("none of the {answers} answers of teacher {teacher} says anything ({kinds})")
            }
        };
        Err(Failure::input(message).hint(hint))
    }
}
