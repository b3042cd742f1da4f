//! What the stage writes: scores in the order of the answers, every judgement, and the answers without a score.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use stillhouse_data::answer::Outcome;
use stillhouse_data::jsonl::JsonlWriter;
use stillhouse_stage::{Class, Failure};

use super::config::{JudgeConfig, Unscored};
use super::score::NoScore;
use crate::answers::OnFailed;

/// The scores, one [`Scored`] a line: what the filter `score` reads.
pub const SCORES_FILE: &str = "scores.jsonl";
/// Every judgement, one [`Judgement`] a line.
pub const JUDGEMENTS_FILE: &str = "judgements.jsonl";
/// Answers without a score, one [`WithoutScore`] a line; only where there are any.
pub const UNSCORED_FILE: &str = "dropped.jsonl";

/// The score of an answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scored {
    /// The id of its prompt.
    pub prompt: String,
    /// Which of the prompt's samples it is.
    pub sample: u32,
    /// The mean of the judgements that have one.
    pub score: f64,
    /// Each of them, where there are several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scores: Vec<f64>,
}

/// What a judge said.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Judgement {
    /// The id of the answer's prompt.
    pub prompt: String,
    /// Which of the prompt's samples the answer is.
    pub sample: u32,
    /// Which of its judgements this is, from 0.
    pub judgement: u32,
    /// How often it was asked for before.
    pub attempt: u32,
    /// The score in it.
    pub score: Option<f64>,
    /// Why there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// The judge's words.
    pub text: String,
}

/// An answer without a score.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WithoutScore {
    /// The id of its prompt.
    pub prompt: String,
    /// Which of the prompt's samples it is.
    pub sample: u32,
    /// Why: what is wrong with the last judgement; the answer's own outcome where it was not judged.
    pub why: String,
}

/// An answer whose judgements are on their way.
#[derive(Clone, Debug)]
pub struct Judged {
    /// Its number among the answers, from 1.
    pub number: u64,
    /// The id of its prompt.
    pub prompt: String,
    /// Which of the prompt's samples it is.
    pub sample: u32,
    /// Its outcome, where it is not judged.
    pub not_judged: Option<Outcome>,
    /// What its judgements give.
    pub scores: Vec<Result<f64, NoScore>>,
}

/// Writes the artifact of a `judge` stage, and counts.
pub struct Output {
    scores: JsonlWriter<Scored>,
    judgements: JsonlWriter<Judgement>,
    /// Created with the first.
    unscored: Option<JsonlWriter<WithoutScore>>,
    folder: PathBuf,
    policy: Unscored,
    on_failed: OnFailed,
    lowest: f64,
    /// Answers that are in the file of scores.
    scored: u64,
    /// Those of them whose score a judgement gave: the others have the lowest because none did.
    given: u64,
    sum: f64,
    /// Sum over answers of the variance of their judgements.
    spread: f64,
    several: u64,
    /// Score, rounded → answers.
    histogram: BTreeMap<i64, u64>,
    without: BTreeMap<&'static str, u64>,
    not_judged: BTreeMap<&'static str, u64>,
}

impl Output {
    /// Creates the files in a folder.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn create(folder: &Path, config: &JudgeConfig) -> Result<Self, Failure> {
        Ok(Self {
            scores: JsonlWriter::create(&folder.join(SCORES_FILE))?,
            judgements: JsonlWriter::create(&folder.join(JUDGEMENTS_FILE))?,
            unscored: None,
            folder: folder.to_owned(),
            policy: config.unscored,
            on_failed: config.outcomes.failed,
            lowest: config.scale.min,
            scored: 0,
            given: 0,
            sum: 0.0,
            spread: 0.0,
            several: 0,
            histogram: BTreeMap::new(),
            without: BTreeMap::new(),
            not_judged: BTreeMap::new(),
        })
    }

    /// An answer that says nothing, and that nobody is asked about.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn pass_over(&mut self, answer: &Judged) -> Result<(), Failure> {
        let outcome = answer.not_judged.filter(|outcome| *outcome != Outcome::Ok);
        let why = outcome.unwrap_or(Outcome::Empty).name();
        *self.not_judged.entry(why).or_default() += 1;
        self.list(&answer.prompt, answer.sample, why)
    }

    /// Writes a judgement down.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn judgement(&mut self, judgement: &Judgement) -> Result<(), Failure> {
        Ok(self.judgements.write(judgement)?)
    }

    /// An answer that has all its judgements.
    ///
    /// # Errors
    /// If it cannot be written; if none has a score and that is a failure.
    pub fn settle(&mut self, judged: &Judged) -> Result<(), Failure> {
        let Judged { prompt, sample, scores, .. } = judged;
        let given: Vec<f64> = scores.iter().filter_map(|score| score.ok()).collect();
        let count = given.len() as f64;
        let score = match (given.as_slice(), scores.last()) {
            ([], last) => {
                let why = last.and_then(|last| last.err()).unwrap_or(NoScore::Unparseable).name();
                *self.without.entry(why).or_default() += 1;
                let nobody_judged = scores.iter().all(|score| *score == Err(NoScore::Outcome(Outcome::Failed)));
                match self.policy {
                    _ if nobody_judged && self.on_failed == OnFailed::Drop => return self.list(prompt, *sample, why),
                    Unscored::Drop => return self.list(prompt, *sample, why),
                    Unscored::Lowest => self.lowest,
                    Unscored::Fail => {
                        return Err(Failure::new(
                            Class::Teacher,
                            format!("no judgement gives sample {sample} of prompt {prompt} a score ({why})"),
                        )
                        .hint(
                            "`unscored = \"drop\"` leaves such answers without one; look at `template` and `score`",
                        ));
                    }
                }
            }
            (given, _) => {
                self.given += 1;
                given.iter().sum::<f64>() / count
            }
        };
        if given.len() > 1 {
            self.several += 1;
            self.spread += given.iter().map(|one| (one - score).powi(2)).sum::<f64>() / count;
        }
        self.scored += 1;
        self.sum += score;
        *self.histogram.entry(score.round() as i64).or_default() += 1;
        let scores = if scores.len() > 1 { given } else { Vec::new() };
        Ok(self.scores.write(&Scored { prompt: prompt.clone(), sample: *sample, score, scores })?)
    }

    fn list(&mut self, prompt: &str, sample: u32, why: &str) -> Result<(), Failure> {
        let file = match &mut self.unscored {
            Some(file) => file,
            none => none.insert(JsonlWriter::create(&self.folder.join(UNSCORED_FILE))?),
        };
        Ok(file.write(&WithoutScore { prompt: prompt.to_owned(), sample, why: why.to_owned() })?)
    }

    /// Answers that no judgement gives a score.
    #[must_use]
    pub fn without_score(&self) -> u64 {
        self.without.values().sum()
    }

    /// Completes the files and gives the figures for the record.
    ///
    /// # Errors
    /// If they cannot be written; if no judgement has a score.
    pub fn finish(self, teacher: &str) -> Result<Value, Failure> {
        if self.given == 0 {
            let judged = self.without_score();
            let counts = if judged == 0 { &self.not_judged } else { &self.without };
            let kinds: Vec<String> = counts.iter().map(|(why, count)| format!("{count} {why}")).collect();
            let message = match judged {
                0 => format!("there is no answer to judge ({})", kinds.join(", ")),
                _ => format!("teacher {teacher} gives none of {judged} answers a score ({})", kinds.join(", ")),
            };
            return Err(Failure::input(message).hint(
                "its replies are kept: look at `template`, `scale` and `score`, or raise `sampling.max-tokens`",
            ));
        }
        self.scores.finish()?;
        self.judgements.finish()?;
        if let Some(unscored) = self.unscored {
            unscored.finish()?;
        }
        let scored = self.scored as f64;
        let mut metrics = json!({
            "scored": self.scored,
            "mean": self.sum / scored,
            "scores": self.histogram.iter().map(|(score, count)| (score.to_string(), *count)).collect::<BTreeMap<_, _>>(),
        });
        if self.several > 0 {
            metrics["deviation-of-judgements"] = json!((self.spread / self.several as f64).sqrt());
        }
        if !self.without.is_empty() {
            metrics["without-score"] = json!(self.without);
        }
        if !self.not_judged.is_empty() {
            metrics["not-judged"] = json!(self.not_judged);
        }
        Ok(metrics)
    }
}
