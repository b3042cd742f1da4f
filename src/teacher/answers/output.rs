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
use crate::session::Tally;

/// Replies that were left out of the answers, one [`Dropped`] a line; only where there are any.
pub const DROPPED_FILE: &str = "dropped.jsonl";

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
    counts: Counts,
}

/// What became of the replies.
#[derive(Debug, Default)]
struct Counts {
    answers: u64,
    /// Answers with words that are no refusal.
    said: u64,
    dropped: BTreeMap<&'static str, u64>,
    outcomes: BTreeMap<&'static str, u64>,
    /// Of the answers, not of replies that were left out or asked for again.
    prompt_tokens: u64,
    completion_tokens: u64,
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
        let (folder, tally, counts) = (folder.to_owned(), Tally::default(), Counts::default());
        Ok(Self { answers, captured, dropped: None, folder, policy, tally, counts })
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
        self.tally.count(question, &reply, origin);
        self.counts.count(&reply, outcome, verdict);
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
        self.counts.answers + self.counts.dropped.values().sum::<u64>()
    }

    /// Completes the files and gives the figures for the record: metrics, and the models as the server named them.
    ///
    /// # Errors
    /// If the files cannot be written; if not one answer says anything.
    pub fn finish(self, teacher: &str) -> Result<(serde_json::Value, serde_json::Value), Failure> {
        self.counts.something_was_said(teacher)?;
        self.answers.finish()?;
        if let Some(dropped) = self.dropped {
            dropped.finish()?;
        }
        if let Some(captured) = self.captured {
            captured.finish()?;
        }
        let counts = self.counts;
        let mut metrics = json!({ "answers": counts.answers, "outcomes": counts.outcomes });
        self.tally.add_counts_to(&mut metrics);
        metrics["tokens"] = json!({ "prompt": counts.prompt_tokens, "completion": counts.completion_tokens });
        if !counts.dropped.is_empty() {
            metrics["dropped"] = json!(counts.dropped);
        }
        Ok((metrics, self.tally.models()))
    }
}

impl Counts {
    fn count(&mut self, reply: &Reply, outcome: Outcome, verdict: Verdict) {
        match verdict {
            Verdict::AskAgain => {}
            Verdict::Drop => *self.dropped.entry(outcome.name()).or_default() += 1,
            Verdict::Keep => {
                self.answers += 1;
                let answered = matches!(outcome, Outcome::Ok | Outcome::Cut | Outcome::Unparseable);
                self.said += u64::from(answered && !reply.text.trim().is_empty());
                *self.outcomes.entry(outcome.name()).or_default() += 1;
                self.prompt_tokens += u64::from(reply.usage.prompt);
                self.completion_tokens += u64::from(reply.usage.completion);
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
